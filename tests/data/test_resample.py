"""Our separable resampling against scipy and scikit-image, and what labels may never do."""

import numpy as np
import pytest
import torch
from scipy import ndimage
from skimage.transform import resize as reference_resize

from unetkit.data.resample import resize, resize_labels, separate_axis, target_shape

SHAPES = [(33, 20, 28), (11, 35, 9), (23, 31, 17), (7, 1, 17)]


@pytest.fixture
def image() -> np.ndarray:
    noise = np.random.default_rng(0).normal(size=(23, 31, 17))
    return ndimage.gaussian_filter(noise, 1).astype(np.float32)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("order", [0, 1, 3])
def test_pixel_areas_match_like_scikit_image(image: np.ndarray, shape: tuple[int, ...], order: int) -> None:
    ours = resize(torch.from_numpy(image)[None], shape, (order,) * 3)[0].numpy()
    theirs = reference_resize(image.astype(np.float64), shape, order=order, mode="edge", anti_aliasing=False)
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize("order", [0, 1, 3])
def test_corners_match_like_scipy_zoom(image: np.ndarray, order: int) -> None:
    shape = (40, 20, 33)
    ours = resize(torch.from_numpy(image)[None], shape, (order,) * 3, corners=True)[0].numpy()
    theirs = ndimage.zoom(image.astype(np.float64), np.divide(shape, image.shape), order=order)
    np.testing.assert_allclose(ours, theirs.clip(image.min(), image.max()), atol=1e-6)


def test_linear_equals_torch_interpolate(image: np.ndarray) -> None:
    data = torch.from_numpy(image)[None]
    theirs = torch.nn.functional.interpolate(data[None], (30, 30, 30), mode="trilinear", align_corners=False)[0]
    np.testing.assert_allclose(resize(data, (30, 30, 30), (1, 1, 1)), theirs, atol=1e-5)


def test_separate_axis_is_nearest_through_and_cubic_in_plane(image: np.ndarray) -> None:
    ours = resize(torch.from_numpy(image)[None], (46, 20, 20), (0, 3, 3))[0].numpy()
    plane = reference_resize(image[4].astype(np.float64), (20, 20), order=3, mode="edge", anti_aliasing=False)
    np.testing.assert_allclose(ours[8], plane.clip(image.min(), image.max()), atol=1e-5)
    np.testing.assert_array_equal(ours[8], ours[9])


@pytest.mark.parametrize(
    ("spacing", "target", "axis"),
    [
        ((5.0, 1.0, 1.0), (1.0, 1.0, 1.0), 0),
        ((1.0, 1.0, 1.0), (1.0, 1.0, 3.5), 2),
        ((3.0, 1.0, 1.0), (3.0, 1.0, 1.0), None),
        ((5.0, 5.0, 1.0), (1.0, 1.0, 1.0), None),
        ((5.0, 1.0), (1.0, 1.0), None),
    ],
)
def test_separate_axis_rule(spacing: tuple[float, ...], target: tuple[float, ...], axis: int | None) -> None:
    assert separate_axis(spacing, target) == axis
    assert separate_axis(spacing, target, False) is None


def test_target_shape_rounds_and_keeps_a_voxel() -> None:
    assert target_shape((100, 51, 1), (1.0, 1.0, 1.0), (2.0, 2.0, 5.0)) == (50, 26, 1)


@pytest.mark.parametrize("order", [0, 1])
def test_labels_keep_their_values(order: int) -> None:
    coarse = np.random.default_rng(1).choice([0, 3, 7, 255], size=(1, 6, 7, 5))
    labels = torch.from_numpy(coarse.astype(np.uint8))
    there = resize_labels(labels, (12, 21, 10), (order,) * 3)
    assert there.dtype == torch.uint8
    assert set(there.unique().tolist()) <= {0, 3, 7, 255}
    if order == 0:  # whole factors: nearest there and back is the identity
        assert torch.equal(resize_labels(there, (6, 7, 5), (0, 0, 0)), labels)


def test_linear_labels_follow_a_straight_edge() -> None:
    labels = torch.zeros(1, 4, 8, dtype=torch.uint8)
    labels[..., 3:] = 2
    fine = resize_labels(labels, (4, 16), (1, 1))
    assert (fine[0, 0] == torch.tensor([0] * 6 + [2] * 10, dtype=torch.uint8)).all()
