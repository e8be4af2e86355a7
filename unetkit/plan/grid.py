"""Which way the axes go and on which grid the network works."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from unetkit.errors import DataError, RecipeError
from unetkit.plan.fingerprint import Fingerprint
from unetkit.recipe.schema import Recipe

ANISOTROPIC = 3.0
"""Slices count as thick from this ratio of spacings on."""
WORTH_CROPPING = 0.95
"""Cut the zero border if this share of the volume, or less, is left."""
_THICK_PERCENTILE = 10
_DIRECTIONS = ("left-right", "posterior-anterior", "inferior-superior")


@dataclass(frozen=True)
class Grid:
    """The grid at full resolution that sizes are chosen on, axes after transposition.

    `spacing` is that to resample to (None: to nothing), `actual` the median of the cases, in mm; `shape` is the median
    size on this grid in voxels, which ends in a half where two sizes are in the middle.
    """

    transpose: tuple[int, ...]
    spacing: tuple[float, ...] | None
    actual: tuple[float, ...]
    shape: tuple[float, ...]
    crop: bool
    num_cases: int

    @property
    def near(self) -> tuple[float, ...]:
        """Spacing in mm that the network sees, of the median case where nothing is resampled."""
        return self.spacing or self.actual

    @property
    def voxels(self) -> float:
        """Voxels of the whole data set."""
        return prod(self.shape) * self.num_cases

    @property
    def volumes(self) -> bool:
        """Whether there is anything for a 3D network to see: three axes, and more than one slice."""
        return len(self.shape) == 3 and self.shape[0] != 1


def full_grid(fingerprint: Fingerprint, recipe: Recipe, reasons: dict[str, str]) -> Grid:
    """Decide crop, orientation and spacing of the full resolution.

    Raises RecipeError for overrides that contradict each other or the data, DataError for spacings that cannot be.
    """
    _require_spacing(fingerprint)
    crop = _crop(fingerprint, recipe, reasons)
    shapes = fingerprint.cropped if crop else fingerprint.shapes
    transpose, spacing = _orientation_and_spacing(fingerprint, shapes, recipe, reasons)
    order = transpose or tuple(range(fingerprint.dims))
    sizes = median_shape(
        [[s[a] for a in order] for s in shapes], [[s[a] for a in order] for s in fingerprint.spacings], spacing
    )
    if recipe.data.resize:
        sizes = (*sizes[:-2], *recipe.data.resize)
    actual = tuple(median_spacing(fingerprint)[a] for a in order)
    return Grid(transpose, spacing, actual, sizes, crop, len(fingerprint.cases))


def median_spacing(fingerprint: Fingerprint) -> tuple[float, ...]:
    """Return the median spacing of the training cases in mm."""
    # The percentile and not `median`, which rounds differently in the last digit: nnU-Net's plans have this one.
    return tuple(float(s) for s in np.percentile(fingerprint.spacings, 50, axis=0))


def target_spacing(fingerprint: Fingerprint, shapes: Sequence[Sequence[int]]) -> tuple[tuple[float, ...], str]:
    """Return the spacing in mm to resample to, before transposition, and the reason.

    The median, except along an axis of thick slices that are few: there, the 10th percentile, so that the thinner
    slices of some cases are not thrown away (nnU-Net, doi:10.1038/s41592-020-01008-z).
    """
    target = list(median_spacing(fingerprint))
    size = [float(n) for n in np.median(shapes, axis=0)]
    worst = int(np.argmax(target))
    finer = max(s for a, s in enumerate(target) if a != worst)
    number = len(fingerprint.cases)
    few = ANISOTROPIC * size[worst] < min(n for a, n in enumerate(size) if a != worst)
    if not (target[worst] > ANISOTROPIC * finer and few):
        return tuple(target), f"the median spacing of {number} training cases"
    thick = target[worst]
    percentile = float(np.percentile([s[worst] for s in fingerprint.spacings], _THICK_PERCENTILE))
    # The coarsest axis must stay the coarsest, or the transposition would change with it.
    target[worst] = percentile if percentile >= finer else finer + 1e-5
    return tuple(target), (
        f"the median spacing of {number} training cases, but {target[worst]:.4g} mm instead of {thick:.4g} mm across "
        f"slices, as these are over {ANISOTROPIC:g} times as thick as the plane is fine: the 10th percentile"
    )


def choose_transpose(
    fingerprint: Fingerprint, spacing: Sequence[float], planner: str = "unetkit"
) -> tuple[tuple[int, ...], str]:
    """Return the order of the RAS axes with the coarsest first, and the reason; an axis of one slice before that.

    nnU-Net's own rule knows no single slices. Where no file says how its axes lie, theirs is the order.
    """
    if not fingerprint.placed and planner == "unetkit":
        return tuple(range(len(spacing))), "the files do not say how their axes lie, so their order is kept"
    # superior, anterior, right, which is how nnU-Net reads the axes of a file: of equals the first is taken
    order = tuple(range(len(spacing) - 1, -1, -1)) if fingerprint.placed else tuple(range(len(spacing)))
    single = [float(np.median([s[a] for s in fingerprint.shapes])) == 1 for a in range(len(spacing))]

    def coarseness(axis: int) -> tuple[bool, float]:
        # Rounded: headers of isotropic scans differ in the seventh digit.
        return (False, spacing[axis]) if planner == "nnunet" else (single[axis], round(spacing[axis], 3))

    first = max(order, key=coarseness)
    name = f"the {_DIRECTIONS[first]} axis" if fingerprint.placed else f"axis {first}"
    why = f"{name} is the coarsest with {spacing[first]:.4g} mm and goes first"
    if coarseness(first)[0]:
        why = f"{name} has a single slice and goes first"
    return (first, *(a for a in order if a != first)), why


def median_shape(
    shapes: Sequence[Sequence[int]], spacings: Sequence[Sequence[float]], target: Sequence[float] | None
) -> tuple[float, ...]:
    """Return the median size in voxels after resampling every case to `target` (None: to nothing)."""
    if target is None:
        sizes = np.asarray(shapes, float)
    else:
        # size' = round(spacing / target * size), case by case; the median comes after.
        sizes = np.round(np.asarray(spacings) / np.asarray(target) * np.asarray(shapes))
    return tuple(max(1.0, float(n)) for n in np.median(sizes, axis=0))


def _require_spacing(fingerprint: Fingerprint) -> None:
    """Refuse voxels without size: a header may lie, and a division by it would end in nonsense far away."""
    for case, spacing in zip(fingerprint.cases, fingerprint.spacings, strict=True):
        if not all(np.isfinite(s) and s > 0 for s in spacing):
            raise DataError(
                f"case {case}: spacing {list(spacing)}; voxels need a positive size in mm, correct the file's header"
            )


def _crop(fingerprint: Fingerprint, recipe: Recipe, reasons: dict[str, str]) -> bool:
    asked, ratio = recipe.plan.crop_nonzero, fingerprint.crop_ratio
    if asked is not None:
        reasons["crop_nonzero"] = "as the recipe says"
        return asked
    if recipe.data.resize or (fingerprint.dims == 2 and recipe.plan.planner == "unetkit"):
        reasons["crop_nonzero"] = "2D images and resized slices keep their field of view"
        return False
    reasons["crop_nonzero"] = f"cutting the zero border leaves {ratio:.0%} of the median case"
    if recipe.plan.planner == "nnunet":
        reasons["crop_nonzero"] += ", and nnU-Net always cuts it"
        return True
    return ratio <= WORTH_CROPPING


def _orientation_and_spacing(
    fingerprint: Fingerprint, shapes: Sequence[Sequence[int]], recipe: Recipe, reasons: dict[str, str]
) -> tuple[tuple[int, ...], tuple[float, ...] | None]:
    """Return transpose and the spacing to resample to (None: none) in mm, transposed."""
    asked, planner = recipe.plan.spacing, recipe.plan.planner
    if fingerprint.dims == 2:
        return (), _spacing_2d(fingerprint, recipe, reasons)
    target, why = target_spacing(fingerprint, shapes)
    if recipe.plan.transpose:
        transpose, reasons["transpose"] = checked_transpose(recipe.plan.transpose), "as the recipe says"
    else:
        transpose, reasons["transpose"] = choose_transpose(fingerprint, target, planner)
    if recipe.data.resize:
        if asked is not None:
            raise RecipeError("data.resize decides the grid already; drop plan.spacing, or resize")
        reasons["spacing"] = f"slices are resized to {list(recipe.data.resize)} instead of resampled"
        return transpose, None
    if asked == "native":
        reasons["spacing"] = "no resampling, as the recipe says"
        return transpose, None
    moved = tuple(target[a] for a in transpose)
    reasons["spacing"] = why if asked is None else "as the recipe says"
    if asked is None:
        return transpose, moved
    if len(asked) not in (2, 3):
        raise RecipeError(f"plan.spacing {list(asked)}: give 3 numbers in mm, or native")
    return transpose, (*moved[: 3 - len(asked)], *asked)


def _spacing_2d(fingerprint: Fingerprint, recipe: Recipe, reasons: dict[str, str]) -> tuple[float, ...] | None:
    if recipe.plan.spacing not in (None, "native") or recipe.plan.transpose:
        raise RecipeError("plan.spacing and plan.transpose are for volumes, but the images are 2D; drop them")
    if recipe.plan.planner == "nnunet" and recipe.plan.spacing is None and len(set(fingerprint.spacings)) > 1:
        reasons["spacing"] = f"the median spacing of {len(fingerprint.cases)} training cases"
        return median_spacing(fingerprint)
    reasons["spacing"] = "2D images are taken as they are, in pixels"
    return None


def checked_transpose(order: tuple[int, ...]) -> tuple[int, ...]:
    """Return an order that the recipe gives. Raises RecipeError if it is none."""
    if sorted(order) != [0, 1, 2]:
        raise RecipeError(f"plan.transpose {list(order)}: give the axes 0, 1 and 2 in the order the network sees them")
    return tuple(order)
