"""What a structure's boundary is like: how clear the image shows it, and how winding its course is.

`contrast` is Otsu's separability (IEEE Trans Syst Man Cybern 1979) of two bands along the boundary, `sharpness` the
share of the bands' difference that lies between neighbouring voxels across it. The mean of such steps is linear in the
image, so that noise leaves it where it is, while blurring lowers it; contrast over noise alone would rise with blur.
`winding` is the surface over that of a ball of the same volume, the inverse of Wadell's sphericity (J Geol 1935).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from math import pi

import numpy as np
from scipy import ndimage

from unetkit.data.preprocess import nonzero_box
from unetkit.metrics.surface import element_surface

REACH = 6
"""Voxels to which the bands on both sides reach; those at the boundary itself are left out, as it blurs them."""


@dataclass(frozen=True)
class Edge:
    """`contrast` 0 to 1; `sharpness` 0 to 1 per voxel, 1 for a step, None where there is no contrast to share."""

    contrast: float
    sharpness: float | None


@dataclass(frozen=True)
class Shape:
    """`components` that touch at no corner; `winding` is 1 for a ball, their mean weighed by volume."""

    components: int
    winding: float


def measure_edge(image: np.ndarray, mask: np.ndarray, seen: np.ndarray) -> Edge | None:
    """Return the boundary of a mask [*S] in an image [C, *S], in the channel that shows it best.

    `seen` [*S] is false where nothing is known. None where there is nothing on one side.
    """
    box = _box(mask, REACH + 1)
    if box is None:
        return None
    image, mask, seen = image[:, *box], mask[box], seen[box]
    inside, outside = _band(mask) & seen, _band(~mask) & seen
    if not inside.any() or not outside.any():
        return None
    return max((_edge(channel.astype(np.float32), mask, seen, (inside, outside)) for channel in image), key=_clarity)


def measure_shape(mask: np.ndarray, spacing: Sequence[float]) -> Shape:
    """Return components and winding of a mask [*S] that is not empty; `spacing` per axis, of any unit."""
    box = _box(mask, 0)
    assert box is not None
    mask = mask[box]
    numbers, count = ndimage.label(mask, np.ones((3,) * mask.ndim))
    surface = element_surface(mask, spacing)
    # A cell of 2 or 2x2x2 voxels holds no two components, as they would touch in it.
    padded = np.pad(numbers, 1)
    corners = [padded[tuple((surface.places + corner).T)] for corner in product((0, 1), repeat=mask.ndim)]
    areas = np.bincount(np.max(corners, axis=0), surface.weights, count + 1)[1:]
    volumes = np.bincount(numbers.ravel(), minlength=count + 1)[1:] * float(np.prod(spacing))
    # a voxel or two have less surface than any ball, which says nothing of shape
    ratios = np.maximum(areas / _of_ball(volumes, mask.ndim), 1.0)
    return Shape(count, float(np.average(ratios, weights=volumes)))


def _edge(channel: np.ndarray, mask: np.ndarray, seen: np.ndarray, bands: tuple[np.ndarray, np.ndarray]) -> Edge:
    first, second = (channel[band].astype(np.float64) for band in bands)
    difference = float(first.mean() - second.mean())
    between, within = difference**2 / 4, float(first.var() + second.var()) / 2
    if between == 0:
        return Edge(0.0, None)
    step = _mean_step(channel, mask, seen) / difference
    return Edge(between / (between + within), min(max(step, 0.0), 1.0))


def _mean_step(channel: np.ndarray, mask: np.ndarray, seen: np.ndarray) -> float:
    """Return by how much voxels inside exceed their face neighbours outside."""
    total, faces = 0.0, 0
    for axis in range(mask.ndim):
        # +1 where the boundary is crossed into the mask, -1 where out of it
        crossed = np.diff(mask.astype(np.int8), axis=axis)
        known = np.moveaxis(seen, axis, 0)
        crossed *= np.moveaxis(known[1:] & known[:-1], 0, axis)
        total += float((np.diff(channel, axis=axis) * crossed).sum(dtype=np.float64))
        faces += int(np.count_nonzero(crossed))
    return total / max(1, faces)


def _band(mask: np.ndarray) -> np.ndarray:
    """Return the voxels of a mask that lie 2 to REACH steps from what is outside; all of one that is thinner."""
    if mask.all() or not mask.any():
        return np.zeros_like(mask)
    depth = ndimage.distance_transform_cdt(mask, "taxicab")
    band: np.ndarray = (depth > 1) & (depth <= REACH)
    return band if band.any() else mask


def _box(mask: np.ndarray, margin: int) -> tuple[slice, ...] | None:
    """Return the box of a mask with a margin, as far as the image reaches; None of an empty one."""
    if not mask.any():
        return None
    return tuple(slice(max(0, first - margin), last + margin) for first, last in nonzero_box(mask[None]))


def _of_ball(volumes: np.ndarray, dims: int) -> np.ndarray:
    """Return the perimeter of discs, or the surface of balls, of these areas or volumes."""
    ratios: np.ndarray = 2 * np.sqrt(pi * volumes) if dims == 2 else np.cbrt(36 * pi * volumes**2)
    return ratios


def _clarity(edge: Edge) -> float:
    return edge.contrast
