"""From a mask to the points of its surface and their weights, in the two definitions of the package docstring."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import product

import numpy as np
from skimage.measure import marching_cubes


@dataclass(frozen=True, eq=False)
class Surface:
    """Where a surface lies on its grid, [*S] boolean, and the weight of each point in C order (None: all 1)."""

    points: np.ndarray
    weights: np.ndarray | None

    @cached_property
    def places(self) -> np.ndarray:
        """Grid indices [N, dims] of the points, in C order."""
        return np.argwhere(self.points)


def voxel_surface(mask: np.ndarray) -> Surface:
    """Return the voxels of the mask that have a face neighbour outside of it or of the image."""
    inner = mask.copy()
    for axis in range(mask.ndim):
        lower, upper = np.moveaxis(inner, axis, 0), np.moveaxis(mask, axis, 0)
        lower[1:] &= upper[:-1]
        lower[:-1] &= upper[1:]
        lower[:1] = lower[-1:] = False
    return Surface(mask & ~inner, None)


def element_surface(mask: np.ndarray, spacing: Sequence[float]) -> Surface:
    """Return the cells between 2 or 2x2x2 voxel centres that the surface passes, weighed by its area in them.

    The grid of the result is one longer per axis: its points are the corners of the mask's voxels.
    """
    # All 4 or 8 voxels outside, or all inside: no surface between them.
    code = neighbour_codes(mask)
    points = (code != 0) & (code != (1 << 2**mask.ndim) - 1)
    return Surface(points, element_sizes(tuple(spacing))[code[points]])


def neighbour_codes(mask: np.ndarray) -> np.ndarray:
    """Return for each voxel corner which of the 4 or 8 voxels around it are set, uint8.

    One bit a voxel, in C order from the highest bit down; outside of the image nothing is set.
    """
    code = np.pad(mask, 1).view(np.uint8)
    for axis in reversed(range(mask.ndim)):
        # After the first axis a value holds 1 bit, then 2, then 4: the lower neighbour moves up by as many.
        bits = 2 ** (mask.ndim - 1 - axis)
        along = np.moveaxis(code, axis, 0)
        code = np.moveaxis((along[:-1] << bits) | along[1:], 0, axis)
    return code


@cache
def element_sizes(spacing: tuple[float, ...]) -> np.ndarray:
    """Return the surface inside a cell for every neighbour code: 16 lengths in mm, or 256 areas in mm2."""
    if len(spacing) == 2:
        return np.array([_contour_length(code, spacing) for code in range(16)])
    # A triangle's normal component along an axis grows with the product of the two other spacings.
    scale = math.prod(spacing) / np.array(spacing)
    return np.array([np.linalg.norm(normals * scale, axis=1).sum() for normals in _unit_normals()])


def _contour_length(code: int, spacing: tuple[float, ...]) -> float:
    corners = [corner for bit, corner in enumerate(product((0, 1), repeat=2)) if code & (8 >> bit)]
    diagonal = 0.5 * math.hypot(*spacing)
    # One corner set, or three: the contour cuts that corner, from the middle of one edge to that of the next.
    if len(corners) != 2:
        return diagonal if len(corners) in (1, 3) else 0.0
    (a, b), (c, d) = corners
    # Two opposite corners: both are cut. Two beside each other: the contour runs straight along one axis.
    if a != c and b != d:
        return 2 * diagonal
    return spacing[0] if a != c else spacing[1]


@cache
def _unit_normals() -> tuple[np.ndarray, ...]:
    """Return, for each of the 256 cells of unit spacing, the area vectors [triangles, 3] of marching cubes.

    A cell and its complement have the same surface. Where more than half of the corners are set the table takes
    the complement's triangles, so that the ambiguous cells are cut alike on both sides.
    """
    bits = 128 >> np.arange(8).reshape(2, 2, 2)
    table = []
    for code in range(256):
        fewer = code if code.bit_count() <= 4 else 255 - code
        if fewer == 0:
            table.append(np.zeros((1, 3)))
            continue
        corners, faces, _, _ = marching_cubes(((fewer & bits) > 0).astype(np.float32), 0.5, method="lorensen")
        # |(b - a) x (c - a)| / 2 is the area of a triangle, its direction the normal.
        a, b, c = np.moveaxis(corners.astype(np.float64)[faces], 1, 0)
        table.append(np.cross(b - a, c - a) / 2)
    return tuple(table)
