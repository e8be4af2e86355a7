"""Distances between two surfaces, and what is read from them: Hausdorff, HD95, ASSD, surface Dice.

Both masks are cropped to the box around their union, which changes no distance: a mask's nearest surface point
always lies in its own box. Neighbours are found with a KD-tree over the surface points, or with a distance
transform of the box where the surface fills most of it.

References: Huttenlocher et al., IEEE PAMI 15(9), 1993 (Hausdorff); Heimann et al., IEEE TMI 28(8), 2009 (ASSD);
Nikolov et al. 2018, arXiv:1809.04430 (surface Dice); Maier-Hein, Reinke et al., Nature Methods 21, 2024.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import distance_transform_edt
from scipy.spatial import cKDTree

from unetkit.errors import RecipeError, nearest
from unetkit.metrics.overlap import check_masks
from unetkit.metrics.surface import Surface, element_surface, voxel_surface

SURFACES = ("voxel", "element")
HD95_METHODS = ("max", "pooled")

# Beyond either bound the distance transform of the box costs less memory, or less time, than the tree.
TREE_POINTS = 2_000_000
TREE_SHARE = 0.4


def check_choice(what: str, given: str, allowed: Iterable[str]) -> None:
    """Raise RecipeError, naming what is allowed, if an option has a value it cannot have."""
    allowed = tuple(allowed)
    if given not in allowed:
        raise RecipeError(f"{what} '{given}'{nearest(str(given), allowed)}: choose one of {', '.join(allowed)}")


@dataclass(frozen=True, eq=False)
class SurfaceDistances:
    """Distance in mm from every surface point of each mask to the other mask's surface, with the points' weights.

    An empty mask has no points; the other's distances are then infinite. Weights None means 1 each.
    """

    pred_to_ref: np.ndarray
    ref_to_pred: np.ndarray
    pred_weights: np.ndarray | None = None
    ref_weights: np.ndarray | None = None

    def hausdorff(self) -> float:
        """Return the largest distance of both directions."""
        return float(self._pooled()[0].max(initial=-math.inf)) if self._any else math.nan

    def hd95(self, method: str = "max") -> float:
        """Return the 95th percentile: the larger one of both directions, or that of all distances ("pooled")."""
        check_choice("hd95", method, HD95_METHODS)
        if not self._both:
            return math.inf if self._any else math.nan
        if method == "pooled":
            return _percentile95(*self._pooled())
        return max(
            _percentile95(self.pred_to_ref, self.pred_weights), _percentile95(self.ref_to_pred, self.ref_weights)
        )

    def assd(self) -> float:
        """Return the mean over the points of both surfaces together."""
        if not self._both:
            return math.inf if self._any else math.nan
        # All points count alike, so the larger surface has more say than in a mean of the two directions' means.
        distances, weights = self._pooled()
        return float(np.average(distances, weights=weights))

    def surface_dice(self, tolerance_mm: float) -> float:
        """Return the share of both surfaces that lies within the tolerance of the other, 0 to 1."""
        if not self._any:
            return math.nan
        distances, weights = self._pooled()
        return float(np.average(distances <= tolerance_mm, weights=weights))

    @property
    def _any(self) -> bool:
        return bool(self.pred_to_ref.size or self.ref_to_pred.size)

    @property
    def _both(self) -> bool:
        return bool(self.pred_to_ref.size and self.ref_to_pred.size)

    def _pooled(self) -> tuple[np.ndarray, np.ndarray | None]:
        distances = np.concatenate([self.pred_to_ref, self.ref_to_pred])
        if self.pred_weights is None or self.ref_weights is None:
            return distances, None
        return distances, np.concatenate([self.pred_weights, self.ref_weights])


def _percentile95(distances: np.ndarray, weights: np.ndarray | None) -> float:
    """Interpolate between equal points; among weighted ones take the first that completes 95 % of the area."""
    if weights is None:
        return float(np.percentile(distances, 95))
    # As surface-distance does: the first d with sum of areas up to d >= 0.95 of all. The last partial sum may round
    # to just below 1, hence the bound.
    order = np.argsort(distances, kind="stable")
    share = np.cumsum(weights[order]) / weights.sum()
    return float(distances[order][min(int(np.searchsorted(share, 0.95)), distances.size - 1)])


def union_box(pred: np.ndarray, ref: np.ndarray) -> tuple[slice, ...]:
    """Return the smallest box around the voxels that are set in either mask; empty slices if there are none."""
    # Projections need one row of bits per axis; np.argwhere would store dims numbers for every voxel that is set.
    box, union = [], pred | ref
    for axis in range(union.ndim):
        others = tuple(other for other in range(union.ndim) if other != axis)
        hits = np.flatnonzero(union.any(axis=others))
        box.append(slice(int(hits[0]), int(hits[-1]) + 1) if hits.size else slice(0, 0))
    return tuple(box)


def surface_distances(
    pred: np.ndarray, ref: np.ndarray, spacing: Sequence[float], *, surface: str = "voxel"
) -> SurfaceDistances:
    """Measure both directions between the surfaces of two masks.

    Raises ShapeError for masks or spacing that do not fit, RecipeError for an unknown surface definition.

    >>> a, b = np.zeros((2, 5, 5), bool)
    >>> a[1, 1] = b[1, 4] = True
    >>> surface_distances(a, b, (1.0, 0.5)).pred_to_ref
    array([1.5])
    """
    check_masks(pred, ref, spacing)
    check_choice("surface", surface, SURFACES)
    # One box for both, so that their grids stay the same and points on both can be told by index.
    box = union_box(pred, ref)
    one, two = (
        voxel_surface(mask[box]) if surface == "voxel" else element_surface(mask[box], spacing) for mask in (pred, ref)
    )
    return SurfaceDistances(_directed(one, two, spacing), _directed(two, one, spacing), one.weights, two.weights)


def _directed(source: Surface, target: Surface, spacing: Sequence[float]) -> np.ndarray:
    """Return the distance of each source point, in C order, to the nearest target point."""
    count, goals = (int(np.count_nonzero(surface.points)) for surface in (source, target))
    if not goals:
        return np.full(count, math.inf)
    if max(count, goals) > TREE_POINTS or (count + goals) / 2 > TREE_SHARE * source.points.size:
        return distance_transform_edt(~target.points, sampling=spacing)[source.points]
    # Points on both surfaces are at distance 0 and need no search.
    scale, distances = np.asarray(spacing), np.zeros(count)
    apart = ~target.points[source.points]
    # An unbalanced tree takes a fraction of the time to build and hardly more to search: surfaces are spread evenly.
    tree = cKDTree(target.places * scale, compact_nodes=False, balanced_tree=False)
    distances[apart] = tree.query(source.places[apart] * scale)[0]
    return distances


def hausdorff(pred: np.ndarray, ref: np.ndarray, spacing: Sequence[float], *, surface: str = "voxel") -> float:
    """Return the Hausdorff distance in mm; infinite if one mask is empty, NaN if both are.

    Raises ShapeError for masks or spacing that do not fit, RecipeError for an unknown surface definition.

    >>> hausdorff(np.eye(2, dtype=bool), np.eye(2, dtype=bool)[::-1].copy(), (3.0, 1.0))
    1.0
    """
    return surface_distances(pred, ref, spacing, surface=surface).hausdorff()


def hd95(
    pred: np.ndarray, ref: np.ndarray, spacing: Sequence[float], *, surface: str = "voxel", method: str = "max"
) -> float:
    """Return the 95th percentile Hausdorff distance in mm; infinite if one mask is empty, NaN if both are.

    `method` "max" takes the larger of the two directions' percentiles (MONAI, surface-distance), "pooled" the
    percentile of all distances (MedPy). Percentiles of voxels are interpolated, those of elements weighed by area.
    Raises ShapeError for masks or spacing that do not fit, RecipeError for an unknown option.

    >>> hd95(np.eye(3, dtype=bool), np.eye(3, dtype=bool), (1.0, 1.0))
    0.0
    """
    return surface_distances(pred, ref, spacing, surface=surface).hd95(method)


def assd(pred: np.ndarray, ref: np.ndarray, spacing: Sequence[float], *, surface: str = "voxel") -> float:
    """Return the average symmetric surface distance in mm; infinite if one mask is empty, NaN if both are.

    The mean is over the points of both surfaces together, not over the two directions' means.
    Raises ShapeError for masks or spacing that do not fit, RecipeError for an unknown surface definition.

    >>> assd(np.eye(2, dtype=bool), np.eye(2, dtype=bool)[::-1].copy(), (1.0, 2.0))
    1.0
    """
    return surface_distances(pred, ref, spacing, surface=surface).assd()


def surface_dice(
    pred: np.ndarray, ref: np.ndarray, spacing: Sequence[float], tolerance_mm: float, *, surface: str = "voxel"
) -> float:
    """Return the surface Dice (NSD) at a tolerance in mm, 0 to 1; 0 if one mask is empty, NaN if both are.

    Raises ShapeError for masks or spacing that do not fit, RecipeError for an unknown surface definition or a
    negative tolerance.

    >>> surface_dice(np.eye(2, dtype=bool), np.eye(2, dtype=bool)[::-1].copy(), (1.0, 2.0), 0.5)
    0.0
    """
    if not tolerance_mm >= 0:
        raise RecipeError(f"tolerance_mm {tolerance_mm}: give a distance in mm, 0 or more")
    return surface_distances(pred, ref, spacing, surface=surface).surface_dice(tolerance_mm)
