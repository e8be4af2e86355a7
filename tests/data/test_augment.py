"""The augmentations against plain references (scipy, numpy), and the table against its probabilities."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage

from unetkit.data.augment import Sample, augment, change_intensities, source_box
from unetkit.data.augment_draw import Draw, draw_sample
from unetkit.data.augment_table import PRESETS, Table, decide_table, swapped_classes
from unetkit.data.streams import random_stream
from unetkit.errors import RecipeError
from unetkit.plan.plan import Normalization, Plan
from unetkit.recipe.training import AugmentSection
from unetkit.types import IGNORE, Labels

CPU = torch.device("cpu")
LABELS = Labels(("spleen", "kidney_left", "kidney_right"), ((1,), (2,), (3,)))


def make_plan(patch_size: tuple[int, ...], **changes: object) -> Plan:
    plan = Plan(patch_size, 2, ("MR",), LABELS, (Normalization("zscore"),))
    return replace(plan, **changes)


def smooth_volume(shape: tuple[int, ...], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    noise = np.random.default_rng(seed).normal(size=shape)
    image = ndimage.gaussian_filter(noise, 1.5).astype(np.float32) * 10
    return image[None], np.digitize(image, [-1, 0, 1]).astype(np.uint8)[None]


def make_sample(draw: Draw, start: tuple[int, ...], patch: tuple[int, ...], seed: int = 0) -> Sample:
    """Cut a patch well inside a volume 48 voxels wide."""
    image, label = smooth_volume((48,) * len(patch), seed)
    low, size, margin = source_box(draw, start, patch)
    window = (slice(None), *(slice(a, a + n) for a, n in zip(low, size, strict=True)))
    return Sample(*(torch.from_numpy(a[window].copy()) for a in (image, label)), draw, margin, "case")


def rotation(*degrees: float) -> np.ndarray:
    table = Table(rotation=replace(PRESETS["nnunet"].rotation, p=1.0, low=degrees[0], high=degrees[0]))
    return draw_sample(table, 3 if len(degrees) == 3 else 2, 1, np.random.default_rng(0)).matrix


@pytest.mark.parametrize("patch", [(14, 15), (12, 14, 15)])
@pytest.mark.parametrize("zoom", [0.75, 1.3])
def test_rotation_and_scale_equal_scipy_in_any_dims(patch: tuple[int, ...], zoom: float) -> None:
    dims = len(patch)
    matrix = rotation(*(20.0,) * (3 if dims == 3 else 1)) * zoom
    start = (16,) * dims
    image, label = augment([make_sample(Draw(0, matrix=matrix), start, patch)], Table(), CPU)
    volume, classes = smooth_volume((48,) * dims)
    half = (np.array(patch) - 1) / 2
    offset = np.array(start) + half - matrix @ half
    expected = ndimage.affine_transform(volume[0], matrix, offset, patch, order=1)
    np.testing.assert_allclose(image[0, 0], expected, atol=1e-4)
    nearest = ndimage.affine_transform(classes[0], matrix, offset, patch, order=0)
    assert (label[0, 0].numpy() == nearest).mean() > 0.999


def test_slicewise_rotation_keeps_slices_apart() -> None:
    matrix = rotation(30.0)
    patch, start = (5, 14, 14), (20, 16, 16)
    image, _ = augment([make_sample(Draw(0, matrix=matrix), start, patch)], Table(slicewise=True), CPU)
    volume, _ = smooth_volume((48,) * 3)
    offset = np.array(start[1:]) + 6.5 - matrix @ np.array([6.5, 6.5])
    expected = ndimage.affine_transform(volume[0, 22], matrix, offset, patch[1:], order=1)
    np.testing.assert_allclose(image[0, 0, 2], expected, atol=1e-4)


def test_only_samples_that_move_read_more_than_their_patch() -> None:
    start, patch = (3, 4, 5), (8, 8, 8)
    assert source_box(Draw(0, flips=(1,), turns=2, noise=0.1), start, patch) == (start, patch, (0, 0, 0))
    low, size, margin = source_box(Draw(0, matrix=rotation(30.0, 30.0, 30.0)), start, patch)
    assert margin > (0, 0, 0)
    assert size == tuple(8 + 2 * m for m in margin)
    assert low == tuple(s - m for s, m in zip(start, margin, strict=True))
    assert source_box(Draw(0, matrix=np.eye(3) * 0.7), start, patch) == (start, patch, (0, 0, 0))
    assert source_box(Draw(0, turns=1), (0, 0), (4, 8)) == ((-2, 2), (8, 4), (0, 0))


def test_quarter_turns_of_rectangles() -> None:
    sample = make_sample(Draw(0, turns=1), (10, 10, 12), (4, 6, 10))
    image, label = augment([sample], Table(), CPU)
    assert image.shape == (1, 1, 4, 6, 10)
    np.testing.assert_array_equal(image[0].numpy(), np.rot90(sample.image.numpy(), 1, (2, 3)))
    np.testing.assert_array_equal(label[0].numpy(), np.rot90(sample.label.numpy(), 1, (2, 3)))


def test_elastic_displacements_have_the_deviation_asked_for() -> None:
    from unetkit.data.augment import _field

    section = AugmentSection(preset="none", elastic_p=1.0, elastic_magnitude=4.0, elastic_grid=10)
    table = decide_table(section, make_plan((32, 32, 32)), 0)
    draw = draw_sample(table, 3, 1, np.random.default_rng(0))
    field = _field(torch.from_numpy(draw.control), (32, 32, 32))
    assert field.shape == (3, 32, 32, 32)
    assert 3.3 < float(field.std()) < 4.7
    bent, _ = augment([make_sample(draw, (16, 16, 16), (16, 16, 16))], table, CPU)
    straight, _ = augment([make_sample(Draw(0), (16, 16, 16), (16, 16, 16))], table, CPU)
    assert (bent - straight).abs().max() > 1
    still = replace(draw, control=draw.control * 0)
    same, _ = augment([make_sample(still, (16, 16, 16), (16, 16, 16))], table, CPU)
    np.testing.assert_allclose(same, straight, atol=1e-4)


def test_mirroring_swaps_left_and_right() -> None:
    image = torch.arange(8.0).view(1, 2, 2, 2)
    label = torch.tensor([0, 1, 2, 3, 2, 3, IGNORE, 0], dtype=torch.uint8).view(1, 2, 2, 2)
    sample = Sample(image, label, Draw(0, flips=(2,), swap=True), (0, 0, 0), "c")
    out, swapped = augment([sample], Table(swap=((2, 3),)), CPU)
    assert out.flatten().tolist() == [1, 0, 3, 2, 5, 4, 7, 6]
    assert swapped.flatten().tolist() == [1, 0, 2, 3, 2, 3, 0, IGNORE]
    regions = Sample(image, torch.stack([label[0] * 0, label[0] * 0 + 1]), sample.draw, (0, 0, 0), "c")
    _, swapped = augment([regions], Table(swap=((0, 1),)), CPU)
    assert swapped[0, 0].all()
    assert not swapped[0, 1].any()


def test_swap_happens_exactly_when_the_left_right_axis_is_mirrored() -> None:
    section = AugmentSection(left_right=[("kidney_left", "kidney_right")])
    table = decide_table(section, make_plan((32, 32, 32)), 2)
    assert table.swap == ((2, 3),)
    draws = [draw_sample(table, 3, 1, random_stream(1, 0, i)) for i in range(200)]
    assert all(d.swap == (2 in d.flips) for d in draws)
    assert 60 < sum(d.swap for d in draws) < 140


def test_samples_do_not_depend_on_their_batch() -> None:
    table = decide_table(AugmentSection(elastic_p=0.3, elastic_magnitude=1.0), make_plan((16, 16, 16)), None)
    samples = [
        make_sample(draw_sample(table, 3, 1, random_stream(1, 0, i)), (16, 16, 16), (16, 16, 16), i) for i in range(12)
    ]
    together, labels = augment(samples, table, CPU)
    for index, sample in enumerate(samples):
        alone, label = augment([sample], table, CPU)
        np.testing.assert_allclose(alone[0], together[index], atol=1e-4, rtol=1e-4)
        assert torch.equal(label[0], labels[index])
    assert set(labels.unique().tolist()) <= {0, 1, 2, 3}
    assert torch.isfinite(together).all()


def changed(draw: Draw, channels: int = 2) -> tuple[np.ndarray, np.ndarray]:
    before = np.stack([smooth_volume((16, 17, 18), seed)[0][0] for seed in range(channels)])
    image = torch.from_numpy(before.copy())[None]
    change_intensities(image, [draw])
    return before, image[0].numpy()


def test_blur_is_a_gaussian_of_the_given_sigma_per_axis() -> None:
    before, after = changed(Draw(0, blur=np.array([[0.6, 0.8, 1.0], [0, 0, 0]])))
    expected = ndimage.gaussian_filter(before[0], (0.6, 0.8, 1.0), mode="nearest", radius=3)
    np.testing.assert_allclose(after[0], expected, atol=1e-4)
    np.testing.assert_array_equal(after[1], before[1])


def test_brightness_contrast_and_gamma_by_definition() -> None:
    before, after = changed(Draw(0, brightness=np.array([1.25, 1.0])))
    np.testing.assert_allclose(after[0], before[0] * 1.25, rtol=1e-6)
    np.testing.assert_array_equal(after[1], before[1])
    before, after = changed(Draw(0, contrast=np.array([1.25, 0.75])))
    mean = before[0].mean()
    np.testing.assert_allclose(
        after[0], ((before[0] - mean) * 1.25 + mean).clip(before[0].min(), before[0].max()), atol=1e-4
    )
    assert after[1].std() == pytest.approx(0.75 * before[1].std(), rel=1e-3)
    for name in ("gamma", "gamma_inverted"):
        before, after = changed(Draw(0, **{name: np.array([1.5, 0.7])}))
        np.testing.assert_allclose(after.mean((1, 2, 3)), before.mean((1, 2, 3)), atol=1e-4)
        np.testing.assert_allclose(after.std((1, 2, 3)), before.std((1, 2, 3)), rtol=1e-3)
        order = np.argsort(before[0].ravel())
        assert (np.diff(after[0].ravel()[order]) > -1e-4).all()


def test_low_resolution_halves_the_detail_and_spares_slices() -> None:
    before, after = changed(Draw(0, low_resolution=np.array([0.5, 1.0])))
    coarse = torch.nn.functional.interpolate(torch.from_numpy(before[:1])[None], (8, 8, 9), mode="nearest-exact")
    expected = torch.nn.functional.interpolate(coarse, (16, 17, 18), mode="trilinear")[0, 0]
    np.testing.assert_allclose(after[0], expected, atol=1e-5)
    image = torch.from_numpy(before.copy())[None]
    change_intensities(image, [Draw(0, low_resolution=np.array([0.5, 1.0]))], slicewise=True)
    assert not torch.equal(image[0, 0], expected)


def test_noise_follows_the_sample_seed() -> None:
    before, first = changed(Draw(5, noise=0.1))
    _, second = changed(Draw(5, noise=0.1))
    _, third = changed(Draw(6, noise=0.1))
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, third)
    assert (first - before).std() == pytest.approx(0.1, rel=0.05)


def test_zero_stays_zero_outside_a_masked_object() -> None:
    table = decide_table(AugmentSection(), make_plan((8, 8, 8), normalization=(Normalization("zscore_mask"),)), None)
    image, label = smooth_volume((8, 8, 8))
    image[:, :3] = 0
    sample = Sample(torch.from_numpy(image), torch.from_numpy(label), Draw(0, noise=0.1), (0, 0, 0), "c")
    out, _ = augment([sample], table, CPU)
    assert (out[0, :, :3] == 0).all()
    assert (out[0, :, 3:] != sample.image[:, 3:]).any()


def test_nnunets_table_happens_as_often_as_it_says() -> None:
    table = decide_table(AugmentSection(), make_plan((64, 64, 64)), None)
    draws = [draw_sample(table, 3, 4, random_stream(1, 3, i)) for i in range(4000)]
    share = {
        "moved": (np.mean([d.matrix is not None for d in draws]), 1 - 0.8**2),
        "noise": (np.mean([d.noise > 0 for d in draws]), 0.1),
        "blur": (np.mean([d.blur is not None for d in draws]), 0.2),
        "brightness": (np.mean([d.brightness is not None for d in draws]), 0.15),
        "contrast": (np.mean([d.contrast is not None for d in draws]), 0.15),
        "low": (np.mean([d.low_resolution is not None for d in draws]), 0.25),
        "inverted": (np.mean([d.gamma_inverted is not None for d in draws]), 0.1),
        "gamma": (np.mean([d.gamma is not None for d in draws]), 0.3),
        "mirror": (np.mean([0 in d.flips for d in draws]), 0.5),
    }
    for name, (found, wanted) in share.items():
        assert found == pytest.approx(wanted, abs=0.03), name
    gammas = np.concatenate([d.gamma for d in draws if d.gamma is not None])
    assert gammas.min() >= 0.7
    assert gammas.max() <= 1.5
    assert np.mean(gammas < 1) == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize(
    ("patch", "degrees", "slicewise"),
    [((64, 64, 64), 30, False), ((16, 64, 64), 180, True), ((64, 64), 180, False), ((64, 128), 15, False)],
)
def test_angles_follow_the_patch(patch: tuple[int, ...], degrees: float, slicewise: bool) -> None:
    table = decide_table(AugmentSection(), make_plan(patch), None)
    assert (table.rotation.high, table.slicewise) == (degrees, slicewise)
    named = decide_table(AugmentSection(rotation_degrees=7.0, rotation_p=0.9), make_plan(patch), None)
    assert (named.rotation.p, named.rotation.low, named.rotation.high) == (0.9, -7.0, 7.0)


def test_synapse_turns_or_rotates_by_whole_degrees_never_both() -> None:
    table = decide_table(AugmentSection(preset="synapse"), make_plan((64, 64)), None)
    draws = [draw_sample(table, 2, 1, random_stream(1, 0, i)) for i in range(2000)]
    turned = [bool(d.turns or d.flips) for d in draws]
    rotated = [d.matrix is not None for d in draws]
    assert not any(a and b for a, b in zip(turned, rotated, strict=True))
    assert np.mean(turned) == pytest.approx(0.5, abs=0.04)
    assert np.mean(rotated) == pytest.approx(0.25, abs=0.04)
    angles = {round(np.degrees(np.arctan2(d.matrix[1, 0], d.matrix[0, 0])), 6) for d in draws if d.matrix is not None}
    assert angles == {float(a) for a in range(-20, 20)}
    assert all(d.nearest and len(d.flips) <= 1 for d in draws)


def test_preset_none_does_nothing_and_switches_work() -> None:
    section = AugmentSection(preset="none")
    none = draw_sample(decide_table(section, make_plan((8, 8)), None), 2, 1, random_stream(1, 0))
    assert vars(none) == vars(Draw(none.seed))
    plain = decide_table(AugmentSection(intensity=False, mirror=[1]), make_plan((8, 8)), None)
    draws = [draw_sample(plain, 2, 1, random_stream(1, 0, i)) for i in range(50)]
    assert {d.flips for d in draws} == {(), (1,)}
    assert all(d.noise == 0 and d.gamma is None and d.blur is None for d in draws)


@pytest.mark.parametrize(
    ("section", "axis", "message"),
    [
        ({"left_right": [("kidney_left", "kidny_right")]}, 0, "'kidny_right'.*did you mean 'kidney_right'"),
        ({"left_right": [("spleen", "spleen")]}, 0, "stands there twice"),
        ({"left_right": [("kidney_left", "kidney_right")], "mirror": [1]}, 0, r"\(0\) is not mirrored"),
        ({"left_right": [("kidney_left", "kidney_right")]}, None, "lies across the slices"),
        ({"mirror": [0, 3]}, 0, "axes 0 to 2"),
        ({"preset": "none", "rotation_p": 0.5}, 0, "give both rotation_p and rotation_degrees"),
        ({"preset": "light", "scale": (0.8, 1.2)}, 0, "give both scale_p and scale"),
        ({"scale": (1.2, 0.8)}, 0, "must not be above"),
    ],
)
def test_contradictions_are_refused(section: dict[str, object], axis: int | None, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        decide_table(AugmentSection(**section), make_plan((32, 32, 32)), axis)


def test_regions_are_numbered_from_zero() -> None:
    assert swapped_classes([("kidney_right", "spleen")], replace(LABELS, regions=True)) == ((2, 0),)
