"""Which way the axes go and on which grid the network works."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from unetkit.plan.fingerprint import Fingerprint

ANISOTROPIC = 3.0
"""Slices count as thick from this ratio of spacings on."""
_THICK_PERCENTILE = 10


def median_spacing(fingerprint: Fingerprint) -> tuple[float, ...]:
    """Return the median spacing of the training cases in mm."""
    return tuple(float(s) for s in np.median(fingerprint.spacings, axis=0))


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


def choose_transpose(fingerprint: Fingerprint, spacing: Sequence[float]) -> tuple[tuple[int, ...], str]:
    """Return the order of the RAS axes with the coarsest first, and the reason; the files' own where none is known."""
    if not fingerprint.placed:
        return tuple(range(len(spacing))), "the files do not say how their axes lie, so their order is kept"
    order = range(len(spacing) - 1, -1, -1)  # superior, anterior, right: of equals the first is taken
    # Rounded: headers of isotropic scans differ in the seventh digit.
    coarsest = max(order, key=lambda a: round(spacing[a], 3))
    name = ("left-right", "posterior-anterior", "inferior-superior")[coarsest]
    why = f"the {name} axis is the coarsest with {spacing[coarsest]:.4g} mm and goes first"
    return (coarsest, *(a for a in order if a != coarsest)), why


def median_shape(
    shapes: Sequence[Sequence[int]], spacings: Sequence[Sequence[float]], target: Sequence[float] | None
) -> tuple[int, ...]:
    """Return the median size in voxels after resampling every case to `target` (None: to nothing)."""
    if target is None:
        sizes = np.asarray(shapes, float)
    else:
        # size' = round(size * spacing / target), case by case; the median comes after.
        sizes = np.round(np.asarray(shapes) * np.asarray(spacings) / np.asarray(target))
    return tuple(max(1, round(float(n))) for n in np.median(sizes, axis=0))
