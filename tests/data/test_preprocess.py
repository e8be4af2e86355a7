"""There and back: every orientation, every transpose, crop, resampling, resizing."""

from dataclasses import replace
from itertools import permutations, product

import nibabel as nib
import numpy as np
import pytest
import torch

from unetkit.data.preprocess import Prepared, preprocess
from unetkit.data.restore import LabelMap
from unetkit.errors import DataError, ShapeError
from unetkit.plan.plan import Normalization, Plan
from unetkit.types import IGNORE, Labels, Volume

SHAPE = (5, 6, 7)
ORIENTATIONS = [
    np.array([(axis, flip) for axis, flip in zip(axes, flips, strict=True)])
    for axes in permutations(range(3))
    for flips in product((1, -1), repeat=3)
]


def make_plan(**changes: object) -> Plan:
    plan = Plan(
        patch_size=(4, 4, 4),
        batch_size=2,
        channels=("MR",),
        labels=Labels(("a", "b"), ((1,), (2,))),
        normalization=(Normalization("none"),),
        transpose=(0, 1, 2),
    )
    return replace(plan, **changes)


def canonical_case() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An image [1, *S], a label [1, *S] and the affine of a RAS volume, none of them symmetric."""
    rng = np.random.default_rng(0)
    image = np.arange(1, 1 + np.prod(SHAPE), dtype=np.float32).reshape(1, *SHAPE)
    label = rng.choice([0, 1, 2], size=(1, *SHAPE)).astype(np.uint8)
    affine = np.diag([1.0, 2.0, 3.0, 1.0])
    affine[:3, 3] = (10, -20, 30)
    affine[:3, :3] += rng.normal(0, 0.02, (3, 3))  # slightly oblique, as scanners are
    return image, label, affine


def reoriented(orientation: np.ndarray) -> tuple[Volume, Volume]:
    """The same anatomy stored in another of the 48 index orders."""
    image, label, affine = canonical_case()
    turn = nib.orientations.apply_orientation
    matrix = affine @ nib.orientations.inv_ornt_aff(orientation, SHAPE)
    spacing = tuple(np.linalg.norm(matrix[:3, :3], axis=0))
    return tuple(Volume(turn(a[0], orientation)[None], spacing, matrix) for a in (image, label))


def returned(ready: Prepared, plan: Plan, *, nearest: bool = True) -> np.ndarray:
    """The prepared label [L, *P] as logits that are sure of it, taken back to the input's grid."""
    codes = ready.label if plan.labels.regions else np.arange(3).reshape(3, 1, 1, 1) == ready.label
    made = LabelMap(ready.geometry, plan, nearest=nearest)
    made.writer().add(torch.from_numpy(codes.astype(np.float32) - 0.5))
    return made.result


@pytest.mark.parametrize("transpose", list(permutations(range(3))))
def test_all_orientations_prepare_alike_and_return_bit_for_bit(transpose: tuple[int, ...]) -> None:
    canonical_image, canonical_label, _ = canonical_case()
    order = (0, *(1 + axis for axis in transpose))
    plan = make_plan(transpose=transpose)
    for orientation in ORIENTATIONS:
        image, label = reoriented(orientation)
        ready = preprocess(image, label, plan, case_id="x")
        np.testing.assert_array_equal(ready.data, canonical_image.transpose(order))
        np.testing.assert_array_equal(ready.label, canonical_label.transpose(order))
        np.testing.assert_array_equal(returned(ready, plan), label.data)


def test_crop_is_undone_with_background() -> None:
    image = np.zeros((1, 12, 11, 10), np.float32)
    label = np.zeros((1, 12, 11, 10), np.uint8)
    image[0, 3:9, 2:8, 4:5] = 7
    label[0, 4:6, 3:5, 4] = 2
    plan = make_plan(crop_nonzero=True)
    ready = preprocess(Volume(image, (1, 1, 1)), Volume(label, (1, 1, 1)), plan)
    assert ready.data.shape == (1, 6, 6, 1)
    np.testing.assert_array_equal(returned(ready, plan), label)


def test_an_empty_image_is_not_cropped_to_nothing() -> None:
    image = Volume(np.zeros((1, 4, 5, 6), np.float32), (1, 1, 1))
    assert preprocess(image, None, make_plan(crop_nonzero=True)).data.shape == (1, 4, 5, 6)


@pytest.mark.parametrize("spacing", [(0.7, 1.3, 2.9), (5.0, 1.0, 1.0), (2.0, 2.0)])
def test_resampling_returns_the_shape_and_nearly_the_label(spacing: tuple[float, ...]) -> None:
    z, y, x = np.ogrid[:20, :30, :40]
    ball = (((z - 9) / 6) ** 2 + ((y - 14) / 9) ** 2 + ((x - 20) / 12) ** 2 < 1).astype(np.uint8)[None]
    image, label = (Volume(a, (2.0, 1.0, 1.0)) for a in (ball.astype(np.float32), ball))
    plan = make_plan(spacing=spacing)
    ready = preprocess(image, label, plan)
    extent = np.multiply(ready.data.shape[1:], ready.geometry.spacing)
    np.testing.assert_allclose(extent, (40, 30, 40), rtol=0.1)
    for nearest, least in ((True, 0.8), (False, 0.85)):
        back = returned(ready, plan, nearest=nearest)
        assert back.shape == (1, 20, 30, 40)
        assert 2 * (back * ball).sum() / (back.sum() + ball.sum()) > least


def test_resize_of_slices_follows_the_synapse_protocol() -> None:
    from scipy import ndimage

    image = np.random.default_rng(0).random((1, 3, 20, 30)).astype(np.float32)
    label = (image * 2.9).astype(np.uint8)
    plan = make_plan(resize=(16, 16), patch_size=(16, 16))
    ready = preprocess(Volume(image, (3, 1, 1)), Volume(label, (3, 1, 1)), plan)
    assert ready.geometry.spacing == (3, 1.25, 1.875)
    zoomed = ndimage.zoom(image[0, 1].astype(np.float64), (16 / 20, 16 / 30), order=3)
    np.testing.assert_allclose(ready.data[0, 1], zoomed.clip(image.min(), image.max()), atol=1e-5)
    np.testing.assert_array_equal(ready.label[0, 1], ndimage.zoom(label[0, 1], (16 / 20, 16 / 30), order=0))
    back = returned(ready, plan)[0]
    theirs = ndimage.zoom(ready.label[0, 1], (20 / 16, 30 / 16), order=0)
    np.testing.assert_array_equal(back[1, :, :-1], theirs[:, :-1])  # zoom may round its last sample out of the image


def test_images_keep_their_axes_and_regions_their_channels() -> None:
    plan = make_plan(patch_size=(8, 8), transpose=(), labels=Labels(("a", "b"), ((1,), (2,)), regions=True))
    label = np.random.default_rng(0).choice([0, 1, IGNORE], size=(2, 9, 12)).astype(np.uint8)
    ready = preprocess(Volume(np.ones((1, 9, 12), np.uint8), (1, 1)), Volume(label, (1, 1)), plan)
    np.testing.assert_array_equal(returned(ready, plan), label > 0)


def test_mismatches_are_named() -> None:
    image = Volume(np.ones((1, 4, 5, 6), np.float32), (1, 1, 1), source="ct.nii")
    with pytest.raises(ShapeError, match=r"ct.nii: 1 channel\(s\), the plan has 2 \(T1, T2\)"):
        preprocess(image, None, make_plan(channels=("T1", "T2")))
    with pytest.raises(ShapeError, match="differ in shape"):
        preprocess(image, Volume(np.ones((1, 4, 5, 5), np.uint8), (1, 1, 1)), make_plan())
    with pytest.raises(ShapeError, match="an image of 2 axes, the plan is for 3"):
        preprocess(Volume(np.ones((1, 4, 5)), (1, 1)), None, make_plan())
    with pytest.raises(DataError, match="affine"):
        preprocess(replace(image, affine=np.zeros((4, 4))), None, make_plan())
