"""Label values to classes and back."""

import numpy as np
import pytest

from unetkit.data.declared import Declared, final_labels
from unetkit.data.labels import background_value, count_values, decode, encode
from unetkit.errors import DataError
from unetkit.recipe.schema import DataSection
from unetkit.types import IGNORE, Labels

CARDIAC = Labels(("muscle", "left blood", "right blood"), ((200,), (500,), (600,)))
TUMOUR = Labels(("whole", "core", "enhancing"), ((1, 2, 3), (2, 3), (3,)), regions=True)


def test_sparse_values_become_indices():
    encoded = encode(np.array([[0, 200], [600, 500]], np.uint16), CARDIAC, "here")
    assert encoded.dtype == np.uint8
    np.testing.assert_array_equal(encoded, [[[0, 1], [3, 2]]])


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int16, np.uint16, np.int32, np.float32, np.float64])
def test_the_type_of_the_file_does_not_matter(dtype):
    labels = Labels(("a", "b"), ((2, 5), (1,)))
    np.testing.assert_array_equal(encode(np.array([0, 1, 2, 5], dtype), labels, "x"), [[0, 2, 1, 1]])


def test_organs_of_btcv_map_to_the_synapse_protocol():
    classes = {"aorta": 8, "gallbladder": 4, "left kidney": 3, "right kidney": 2,
               "liver": 6, "pancreas": 11, "spleen": 1, "stomach": 7}  # fmt: skip
    labels = Labels(tuple(classes), tuple((v,) for v in classes.values()), strict=False)
    np.testing.assert_array_equal(encode(np.arange(14), labels, "x")[0], [0, 7, 4, 3, 2, 0, 5, 8, 1, 0, 0, 6, 0, 0])


def test_value_0_can_be_the_wanted_class():
    labels = Labels(("membrane",), ((0,),), background=(255,))
    np.testing.assert_array_equal(encode(np.array([0, 255], np.uint8), labels, "x"), [[1, 0]])
    np.testing.assert_array_equal(decode(np.array([[1, 0]], np.uint8), labels), [0, 255])


def test_unknown_values_are_listed_with_their_voxels():
    array = np.zeros((4, 4), np.int16)
    array[0], array[1, :2] = 7, -3
    with pytest.raises(DataError, match=r"case a: b.nii: label values -3 \(2 voxels\), 7 \(4 voxels\) belong to no"):
        encode(array, CARDIAC, "case a: b.nii")
    loose = Labels(CARDIAC.classes, CARDIAC.values, strict=False)
    assert not encode(array, loose, "x").any()


def test_many_unknown_values_make_no_long_message():
    with pytest.raises(DataError, match=r"and 90 more belong") as fault:
        encode(np.arange(100), Labels(("a",), ((1,),)), "x")
    assert len(str(fault.value)) < 400


def test_ignored_values_are_255():
    labels = Labels(("a", "b", "c"), ((1,), (2,), (3,)), ignore=(4,))
    np.testing.assert_array_equal(encode(np.arange(5), labels, "x")[0], [0, 1, 2, 3, IGNORE])
    np.testing.assert_array_equal(decode(encode(np.arange(5), labels, "x"), labels), np.arange(5))


def test_regions_overlap():
    labels = Labels(TUMOUR.classes, TUMOUR.values, regions=True, ignore=(4,))
    expected = [[0, 1, 1, 1, IGNORE], [0, 0, 1, 1, IGNORE], [0, 0, 0, 1, IGNORE]]
    np.testing.assert_array_equal(encode(np.arange(5, dtype=np.uint8), labels, "x"), expected)
    np.testing.assert_array_equal(decode(np.array(expected, np.uint8), labels), np.arange(5))


def test_unusual_regions_paint_the_later_over_the_earlier():
    alone = np.array([[0], [1], [0]], np.uint8)  # core outside of whole
    assert decode(alone, TUMOUR)[0] == 2


@pytest.mark.parametrize("regions", [False, True])
@pytest.mark.parametrize(("threshold", "expected"), [(127, [0, 0, 1]), (0, [0, 1, 1])])
def test_grey_masks_are_cut(threshold, expected, regions):
    section = DataSection(root="here", classes={"polyp": 1}, threshold=threshold, regions=regions)
    labels, _ = final_labels(section, Declared(), lambda declared: (None, []))
    assert labels == Labels(("polyp",), ((1,),), regions=regions, threshold=threshold)
    assert labels.num_outputs == 2 - regions
    encoded = encode(np.array([0, 127, 128], np.uint8), labels, "x")
    np.testing.assert_array_equal(encoded[0], expected)
    np.testing.assert_array_equal(encode(decode(encoded, labels), labels, "x"), encoded)


def test_probabilities_can_be_cut_and_are_refused_otherwise():
    soft = np.array([0.0, 0.4, 0.9], np.float32)
    np.testing.assert_array_equal(encode(soft, Labels(("a",), ((1,),), threshold=0.5), "x")[0], [0, 0, 1])
    with pytest.raises(DataError, match=r"x: the label holds fractions up to 0.9, .* set data.threshold"):
        encode(soft, Labels(("a",), ((1,),)), "x")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_labels_that_are_no_numbers_are_refused(value):
    with pytest.raises(DataError, match=r"NaN or infinite"):
        encode(np.array([0.0, value]), CARDIAC, "x")


@pytest.mark.parametrize("value", [1, 255])
def test_one_bit_masks_fit_whatever_value_stands_for_true(value):
    labels = Labels(("lung",), ((value,),))
    np.testing.assert_array_equal(encode(np.array([True, False]), labels, "x"), [[1, 0]])


def test_axis_order_of_memory_does_not_matter():
    array = np.asfortranarray(np.random.default_rng(0).choice([0, 200, 500, 600], (5, 6, 7)))
    np.testing.assert_array_equal(encode(array, CARDIAC, "x"), encode(np.ascontiguousarray(array), CARDIAC, "x"))


@pytest.mark.parametrize("seed", range(20))
def test_decoding_and_encoding_gives_the_same_classes(seed):
    draw = np.random.default_rng(seed)
    values = draw.choice(1000, size=draw.integers(2, 12), replace=False)
    cuts = np.sort(draw.choice(np.arange(1, len(values)), size=draw.integers(0, len(values) - 1), replace=False))
    parts = [tuple(int(v) for v in part) for part in np.split(values, cuts)]
    labels = Labels(tuple(f"c{i}" for i in range(len(parts))), tuple(parts), strict=0 not in values)
    encoded = draw.integers(0, len(parts) + 1, (1, 9, 8), dtype=np.uint8)
    np.testing.assert_array_equal(encode(decode(encoded, labels), labels, "x"), encoded)


def test_background_avoids_values_that_mean_something():
    assert background_value(CARDIAC) == 0
    assert background_value(Labels(("a", "b"), ((0,), (255,)))) == 1


@pytest.mark.parametrize("array", [
    np.array([[3, 3], [0, 70000]]), np.array([-2, -2, 5]), np.array([True, False, True]), np.array([2**40, 0]),
])  # fmt: skip
def test_counting_equals_sorting(array):
    values, numbers = np.unique(array.astype(np.int64), return_counts=True)
    assert count_values(array) == dict(zip(values.tolist(), numbers.tolist(), strict=True))


def test_one_bit_masks_can_want_what_is_dark():
    mask = np.array([[True, False]])
    dark = Labels(("membrane",), ((0,),), strict=False)
    assert encode(mask, dark, "x").tolist() == [[[0, 1]]]
    assert encode(mask, Labels(("a",), ((2,),), ignore=(255,)), "x").tolist() == [[[1, 0]]]
