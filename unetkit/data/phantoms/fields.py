"""Smooth random fields and the warped coordinates that shapes are drawn in.

Nothing here calls a threaded linear algebra library: the sums always run in the same order, so a case has the same
bits whatever the number of workers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# Expected sum of the squared weights of a uniform cubic B-spline, the variance that interpolation leaves.
_SPLINE_VARIANCE = 151 / 315


def coordinates(shape: Sequence[int]) -> list[np.ndarray]:
    """Return voxel centres from -1 to 1 along each axis, as float32 arrays that broadcast to `shape`."""
    centres = [((np.arange(n, dtype=np.float32) + 0.5) * (2 / n) - 1) for n in shape]
    return list(np.meshgrid(*centres, indexing="ij", sparse=True))


def smooth_noise(rng: np.random.Generator, shape: Sequence[int], knots: int) -> np.ndarray:
    """Return float32 noise [*shape] of mean 0 and deviation 1 that varies over `knots` cells per axis.

    Normal values on a coarse grid, interpolated by cubic B-splines.
    """
    # Three more points than cells, as the spline reaches one before and two beyond.
    noise = rng.standard_normal([knots + 3] * len(shape), dtype=np.float32)
    for axis, length in enumerate(shape):
        noise = _stretch(noise, axis, length, knots)
    return noise / np.float32(_SPLINE_VARIANCE ** (len(shape) / 2))


def _stretch(values: np.ndarray, axis: int, length: int, knots: int) -> np.ndarray:
    """Interpolate one axis from knots + 3 control points to `length` samples."""
    position = (np.arange(length) + 0.5) * (knots / length)
    cell = np.floor(position).astype(np.intp)
    t = (position - cell).astype(np.float32)
    # The uniform cubic B-spline, times 6: four control points around each sample.
    weights = ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3)
    along = [1] * values.ndim
    along[axis] = length
    parts = (np.take(values, cell + n, axis) * (w / 6).reshape(along) for n, w in enumerate(weights))
    total = next(parts)
    for part in parts:
        total += part
    return total


def warped(
    rng: np.random.Generator, shape: Sequence[int], *, amount: float, detail: float, turn_degrees: float
) -> list[np.ndarray]:
    """Return the coordinates of each voxel in a randomly deformed world, float32 [*shape] per axis.

    A change of size, shift and in-plane turn, then displacements of deviation `amount` (long waves) and `detail`
    (short waves) in units where the image spans 2. Shapes drawn in these coordinates have smooth borders, which
    a label map deformed afterwards would not have.
    """
    scale = rng.uniform(0.93, 1.07, len(shape)).astype(np.float32)
    shift = rng.uniform(-0.03, 0.03, len(shape)).astype(np.float32)
    angle = np.deg2rad(rng.uniform(-turn_degrees, turn_degrees))
    x, y, *rest = coordinates(shape)
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    turned = [cos * x - sin * y, sin * x + cos * y, *rest]
    return [
        axis * size
        + move
        + np.float32(amount) * smooth_noise(rng, shape, 3)
        + np.float32(detail) * smooth_noise(rng, shape, 8)
        for axis, size, move in zip(turned, scale, shift, strict=True)
    ]
