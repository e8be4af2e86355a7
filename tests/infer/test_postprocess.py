"""Rules on components: which stay, which change sides, and what is filled."""

import numpy as np
import pytest

from unetkit.errors import DataError, RecipeError
from unetkit.infer.postprocess import check_rules, postprocess
from unetkit.recipe import PostprocessRule
from unetkit.types import Labels, Volume

TWO = Labels(("a", "b"), ((1,), (2,)))
REGIONS = Labels(("a", "b"), ((1,), (2,)), regions=True)


def grid(shape, spacing=None, affine=None) -> Volume:
    return Volume(np.zeros((1, *shape), np.uint8), spacing or (1.0,) * len(shape), affine)


def after(encoded, labels=TWO, spacing=None, affine=None, **rule):
    rules = [PostprocessRule(**rule)]
    return postprocess(encoded, rules, labels, grid(encoded.shape[1:], spacing, affine))


def test_keeps_the_largest_of_each_class_or_of_all_together():
    labels = np.zeros((1, 6, 12), np.uint8)
    labels[0, 0:2, 0:2] = 1
    labels[0, 0:3, 6:9] = 1
    labels[0, 5, 0:3] = 2
    labels[0, 3, 6:8] = 2  # beside the larger 1
    each = labels.copy()
    each[0, 0:2, 0:2] = each[0, 3, 6:8] = 0
    assert np.array_equal(after(labels, rule="keep_largest"), each)
    together = labels.copy()
    together[0, 0:2, 0:2] = together[0, 5, 0:3] = 0
    assert np.array_equal(after(labels, rule="keep_largest", together=True), together)
    one = labels.copy()
    one[0, 0:2, 0:2] = 0
    assert np.array_equal(after(labels, rule="keep_largest", classes=["a"]), one)


def test_corners_connect_and_ties_keep_the_first():
    diagonal = np.eye(5, dtype=np.uint8)[None]
    assert np.array_equal(after(diagonal, rule="keep_largest"), diagonal)
    two = np.array([[[1, 0, 1]]], np.uint8)
    assert after(two, rule="keep_largest").tolist() == [[[1, 0, 0]]]


def test_each_region_by_itself_and_nothing_from_nothing():
    regions = np.array([[[1, 1, 0, 1]], [[0, 1, 0, 1]]], np.uint8)
    assert after(regions, REGIONS, rule="keep_largest").tolist() == [[[1, 1, 0, 0]], [[0, 1, 0, 0]]]
    for rule in ({"rule": "keep_largest"}, {"rule": "fill_holes"}, {"rule": "drop_small", "smallest": 3.0}):
        assert not after(np.zeros((1, 3, 3, 3), np.uint8), **rule).any()


def test_small_components_are_measured_in_millimetres():
    labels = np.zeros((1, 4, 9), np.uint8)
    labels[0, 0, 0:2] = labels[0, 0, 4:7] = 1  # 2 and 3 voxels of 0.5 mm2
    kept = after(labels, spacing=(0.5, 1.0), rule="drop_small", smallest=1.5)
    assert kept[0, 0].tolist() == [0, 0, 0, 0, 1, 1, 1, 0, 0]
    assert np.array_equal(after(labels, spacing=(0.5, 1.0), rule="drop_small", smallest=1.0), labels)


def test_holes_are_filled_with_background_only():
    ring = np.ones((1, 5, 5), np.uint8)
    ring[0, 1:4, 1:4] = 0
    ring[0, 2, 2] = 2
    open_ring = ring.copy()
    open_ring[0, 0, 2] = 0
    filled = after(ring, rule="fill_holes", classes=["a"])
    assert filled[0, 2, 2] == 2
    assert (filled == 1).sum() == 24
    assert np.array_equal(after(open_ring, rule="fill_holes"), open_ring)


@pytest.mark.parametrize("flip", [1.0, -1.0])
def test_sides_change_by_the_patients_left(flip):
    labels = np.zeros((1, 10, 3, 3), np.uint8)
    low, high = (1, 2) if flip > 0 else (2, 1)  # RAS: low x is the patient's left
    labels[0, 1:4] = low
    labels[0, 4, 0, 0] = high  # on the side of the other, and apart from its own
    labels[0, 7:9] = high
    affine = np.diag([flip, 1.0, 1.0, 1.0])
    swapped = after(labels, affine=affine, rule="swap_sides", classes=["a", "b"])
    assert swapped[0, 4, 0, 0] == low
    swapped[0, 4, 0, 0] = high
    assert np.array_equal(swapped, labels)
    with pytest.raises(DataError, match="no orientation"):
        after(labels, rule="swap_sides", classes=["a", "b"])


def test_rules_follow_one_another_and_know_their_classes():
    labels = np.array([[[1, 1, 0, 1], [0, 0, 0, 0], [2, 0, 2, 2]]], np.uint8)
    rules = [PostprocessRule(rule="drop_small", smallest=2.0), PostprocessRule(rule="keep_largest", together=True)]
    assert postprocess(labels, rules, TWO, grid((3, 4))).tolist() == [[[1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]]
    with pytest.raises(RecipeError, match="did you mean 'a'"):
        check_rules([PostprocessRule(rule="fill_holes", classes=["aa"])], TWO)
    for wrong in ({"rule": "keep_largest", "smallest": 2.0}, {"rule": "swap_sides"}, {"rule": "drop_small"}):
        with pytest.raises(ValueError, match=r"needs|reads"):
            PostprocessRule(**wrong)
