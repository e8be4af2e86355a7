"""Components from runs against those that SciPy finds voxel by voxel."""

import numpy as np
import pytest
from scipy import ndimage

from unetkit.data.components import find_components

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("shape", [(9,), (9, 11), (1, 7), (6, 7, 8), (1, 5, 9), (12, 1, 13), (20, 30, 25)])
@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 1.0])
@pytest.mark.parametrize("order", ["C", "F"])
def test_sizes_agree_with_scipy(shape, share, order):
    labels = np.asarray((RNG.random(shape) < share) * RNG.integers(1, 4, shape), np.uint8, order)
    found = find_components(labels)
    for value in (1, 2, 3):
        numbered, _ = ndimage.label(labels == value, np.ones((3,) * len(shape)))
        expected = np.bincount(numbered.ravel())[1:]
        assert sorted(found.sizes[found.labels == value]) == sorted(expected)


def test_nothing_labelled():
    found = find_components(np.zeros((4, 5, 6), np.uint8))
    assert len(found.labels) == len(found.sizes) == 0


def test_noise_is_not_counted():
    assert find_components((RNG.random((20, 20)) < 0.5).astype(np.uint8), most_runs=50) is None
    assert find_components(np.ones((20, 20), np.uint8), most_runs=50).sizes.tolist() == [400]
