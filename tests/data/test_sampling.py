"""What is sampled, how often, and that it depends on nothing but seed, step and place."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from unetkit.data.locations import find_locations
from unetkit.data.preprocess import Geometry, Prepared
from unetkit.data.sampling import PAD_VALUE, Patch, PatchSampler, SamplingRule, cut
from unetkit.errors import DataError
from unetkit.types import IGNORE

RULE = SamplingRule((4, 4, 4), 2, seed=7, oversample=0.33, balance=True, regions=False, every=False)


def make_case(name: str, label: np.ndarray) -> Prepared:
    shape = label.shape[1:]
    geometry = Geometry(shape, (1.0,) * len(shape), (0, 1, 2), (False,) * 3, (), shape, (1.0,) * len(shape))
    return Prepared(name, np.random.default_rng(0).random((1, *shape)).astype(np.float32) + 1, label, geometry)


def rare_and_large() -> np.ndarray:
    label = np.zeros((1, 20, 24, 28), np.uint8)
    label[0, 2:12, 2:12, 2:12] = 1
    label[0, 17, 20, 25] = 2
    return label


def shown(sampler: PatchSampler, step: int, index: int) -> tuple[np.ndarray, np.ndarray]:
    patch = sampler.draw(step, index)
    return cut(sampler.cases[patch.case], patch, patch.start, sampler.rule.patch_size)


def test_draws_depend_on_seed_step_and_index_only() -> None:
    cases = [make_case(f"c{i}", rare_and_large()) for i in range(3)]
    first, second = PatchSampler(cases, RULE), PatchSampler(cases, RULE)
    forward = [first.draw(step, index) for step in range(20) for index in range(2)]
    backward = [second.draw(step, index) for step in reversed(range(20)) for index in (1, 0)][::-1]
    assert forward == backward
    other = PatchSampler(cases, replace(RULE, seed=8))
    assert forward != [other.draw(step, index) for step in range(20) for index in range(2)]
    assert {p.case for p in forward} == {0, 1, 2}
    assert [p.case for p in forward] == [first.choose(step, index)[0] for step in range(20) for index in range(2)]


def test_the_tail_of_a_batch_holds_foreground_and_rare_classes_as_often() -> None:
    sampler = PatchSampler([make_case("c", rare_and_large())], RULE)
    forced = [shown(sampler, step, 1)[1] for step in range(200)]
    assert all((label > 0).any() for label in forced)
    rare = np.mean([(label == 2).any() for label in forced])
    assert 0.4 < rare < 0.6
    unbalanced = PatchSampler(sampler.cases, replace(RULE, balance=False))
    assert np.mean([(shown(unbalanced, step, 1)[1] == 2).any() for step in range(200)]) < 0.1
    assert np.mean([(shown(sampler, step, 0)[1] > 0).any() for step in range(200)]) < 0.5


@pytest.mark.parametrize(("size", "share", "forced"), [(2, 0.33, 1), (10, 0.33, 3), (12, 0.0, 0), (3, 1.0, 3)])
def test_forced_share_of_a_batch(size: int, share: float, forced: int) -> None:
    label = np.zeros((1, 40, 40, 40), np.uint8)
    label[0, 5, 6, 7] = 1
    sampler = PatchSampler([make_case("c", label)], replace(RULE, batch_size=size, oversample=share))
    assert sum(shown(sampler, 0, index)[1].any() for index in range(size)) == forced


def test_a_case_without_foreground_gives_random_patches() -> None:
    sampler = PatchSampler([make_case("c", np.zeros((1, 9, 9, 9), np.uint8))], RULE)
    starts = {sampler.draw(step, 1).start for step in range(20)}
    assert len(starts) > 10


def test_sparse_annotation_draws_random_patches_where_something_is_annotated() -> None:
    label = np.full((1, 30, 30, 30), IGNORE, np.uint8)
    label[0, 20:23, 20:23, 20:23] = 0
    sampler = PatchSampler([make_case("c", label)], RULE)
    assert all((shown(sampler, step, 0)[1] == 0).any() for step in range(50))


def test_a_small_image_is_padded_in_the_middle() -> None:
    label = np.ones((1, 3, 20, 20), np.uint8)
    case = make_case("c", label)
    sampler = PatchSampler([case], replace(RULE, patch_size=(8, 4, 4)))
    image, target = shown(sampler, 0, 0)
    assert image.shape == (1, 8, 4, 4)
    inside = np.zeros(8, bool)
    inside[2:5] = True
    assert (target[0, inside] == 1).all()
    assert (target[0, ~inside] == IGNORE).all()
    assert (image[0, ~inside] == PAD_VALUE).all()
    assert (image[0, inside] >= 1).all()


def test_cut_far_outside_is_all_padding_and_never_touches_the_case() -> None:
    case = make_case("c", np.ones((1, 4, 4, 4), np.uint8))
    image, label = cut(case, Patch(0, None, (9, 9, 9)), (9, 9, 9), (2, 2, 2))
    assert (label == IGNORE).all()
    image, label = cut(case, Patch(0, None, (0, 0, 0)), (0, 0, 0), (4, 4, 4))
    image[:], label[:] = 0, 0
    assert case.label.all()
    assert case.data.all()


def test_a_case_without_label_is_refused() -> None:
    case = replace(make_case("c7", np.ones((1, 4, 4, 4), np.uint8)), label=None)
    with pytest.raises(DataError, match="case 'c7' has no label"):
        cut(case, Patch(0, None, (0, 0, 0)), (0, 0, 0), (2, 2, 2))


def test_a_pass_shows_every_case_once_in_an_order_of_its_own() -> None:
    cases = [make_case(f"c{i}", rare_and_large()) for i in range(7)]
    sampler = PatchSampler(cases, replace(RULE, every=True, batch_size=3))
    assert sampler.batches_per_epoch == 3
    epochs = [[sampler.choose(3 * e + i // 3, i % 3)[0] for i in range(9)] for e in range(3)]
    for epoch in epochs:
        assert sorted(epoch[:7]) == list(range(7))
        assert epoch[7:] == epoch[:2]
    assert epochs[0] != epochs[1] != epochs[2]
    both = PatchSampler(cases, replace(RULE, every=True, batch_size=3, accumulate=2))
    assert both.batches_per_epoch == 4


def test_slices_of_volumes() -> None:
    cases = [make_case("a", rare_and_large()[:, :5]), make_case("b", rare_and_large()[:, :9])]
    rule = replace(RULE, every=True, patch_size=(32, 32), batch_size=4)
    sampler = PatchSampler(cases, rule)
    seen = Counter((p.case, p.plane) for p in (sampler.draw(s, i) for s in range(4) for i in range(4)) if p)
    assert sampler.items == 14
    assert set(seen) == {(0, z) for z in range(5)} | {(1, z) for z in range(9)}
    image, label = shown(sampler, 0, 0)
    assert image.shape == label.shape == (1, 32, 32)
    free = PatchSampler([make_case("c", rare_and_large())], replace(RULE, patch_size=(6, 6)))
    assert all((shown(free, step, 1)[1] % IGNORE > 0).any() for step in range(30))
    small = PatchSampler([make_case("c", rare_and_large())], replace(rule, patch_size=(6, 6), batch_size=2))
    planes = {p.plane: p for p in (small.draw(step, 1) for step in range(100))}
    assert (shown(small, 0, 1)[1].shape) == (1, 6, 6)
    assert planes[17].start == (17, 22)


def test_locations_stay_small_and_belong_to_their_class() -> None:
    label = np.zeros((1, 60, 60, 60), np.uint8)
    label[0, :, :30] = 1
    label[0, 0, 0, 0] = 3
    known = find_locations(label)
    assert known.counts == {1: 60 * 30 * 60 - 1, 3: 1}
    assert {c: len(v) for c, v in known.voxels.items()} == {1: 10_000, 3: 1}
    assert (label.ravel()[known.voxels[1]] == 1).all()
    assert known.voxels[1].dtype == np.uint32
    regions = find_locations(np.stack([label[0] == 1, label[0] > 0]).astype(np.uint8), regions=True)
    assert set(regions.voxels) == {1, 2}
