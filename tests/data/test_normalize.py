"""Each intensity rule by its definition, and the inputs that used to give NaN elsewhere."""

import numpy as np
import pytest

from unetkit.data.normalize import normalize
from unetkit.errors import DataError, ShapeError
from unetkit.plan.plan import Normalization

RULES = ["ct", "clip_minmax", "zscore", "zscore_mask", "percentile", "minmax", "rgb", "none"]


def rule(scheme: str) -> Normalization:
    return Normalization(scheme, low=-100.0, high=300.0, mean=50.0, std=25.0)


def test_ct_clips_then_uses_the_training_sets_numbers() -> None:
    data = np.array([[-1000, 50, 2000]], np.int16)
    np.testing.assert_allclose(normalize(data, [rule("ct")]), [[-6.0, 0.0, 10.0]])
    np.testing.assert_allclose(normalize(data, [rule("clip_minmax")]), [[0.0, 0.375, 1.0]])


def test_zscore_has_mean_zero_and_deviation_one() -> None:
    data = np.random.default_rng(0).normal(1e4, 300, (1, 20, 20, 20)).astype(np.float32)
    out = normalize(data, [rule("zscore")])
    assert abs(out.mean()) < 1e-3
    assert abs(out.std() - 1) < 1e-4


def test_zscore_mask_leaves_the_outside_zero_and_fills_holes() -> None:
    data = np.zeros((1, 9, 9), np.float32)
    data[0, 2:7, 2:7] = np.arange(25).reshape(5, 5) + 1
    data[0, 4, 4] = 0
    out = normalize(data, [rule("zscore_mask")])
    assert (out[0, :2] == 0).all()
    inside = out[0, 2:7, 2:7]
    assert abs(inside.mean()) < 1e-6
    assert out[0, 4, 4] < 0


@pytest.mark.parametrize(("kind", "white"), [(np.uint8, 255), (np.uint16, 65535), (np.bool_, 1), (np.float32, 1)])
def test_rgb_white_is_one(kind: type, white: int) -> None:
    assert normalize(np.full((1, 2, 2), white, kind), [rule("rgb")]).max() == 1


def test_percentile_clips_outliers() -> None:
    data = np.arange(1000, dtype=np.float32)[None]
    data[0, -1] = 1e9
    out = normalize(data, [rule("percentile")])
    assert out.min() == 0
    assert out.max() == 1
    assert abs(out[0, 500] - 0.5) < 0.01


@pytest.mark.parametrize("scheme", RULES)
@pytest.mark.parametrize("value", [0, 1000.1])
def test_a_constant_image_stays_finite_and_small(scheme: str, value: float) -> None:
    out = normalize(np.full((1, 5, 6, 7), value, np.float32), [rule(scheme)])
    assert out.dtype == np.float32
    assert np.isfinite(out).all()
    assert np.abs(out).max() <= max(10, value)


def test_faults_are_named() -> None:
    with pytest.raises(DataError, match="2 NaN or infinite voxels"):
        normalize(np.array([[1, np.nan, np.inf]], np.float32), [rule("zscore")])
    with pytest.raises(ShapeError, match=r"1 channel\(s\), the plan was made for 2"):
        normalize(np.ones((1, 3)), [rule("none"), rule("none")])


def test_a_dark_channel_keeps_its_place_beside_the_others() -> None:
    picture = np.array([[[200.0, 100.0]], [[1.0, 0.0]]])
    found = normalize(picture, [Normalization("rgb")] * 2)
    np.testing.assert_allclose(found, picture / 255, rtol=1e-6)
