"""SAUNA's soft labels: how sure each voxel of a mask is, from -1 (background) to 1 (foreground) (arXiv:2405.16815).

Borders are unsure, and so is all of a thin vessel but its middle. Between preparation and loss the maps travel as uint8
codes below the labels, so that whatever cuts, moves or stores labels does the same to them.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from torch import Tensor

from unetkit.types import IGNORE

_MIDDLE = 127
"""The code of 0; 0 and 254 are -1 and 1."""

# Lengths of the steps (0, 1), (1, 1) and (1, 2): the 5 x 5 chamfer of OpenCV, which the reference calls.
_SIDE, _DIAGONAL, _KNIGHT = 1.0, 1.4, 2.1969


def soft_codes(label: np.ndarray, dims: int) -> np.ndarray:
    """Return the codes uint8 [L, *S] of the maps of regions [L, *S]; ignored voxels stay IGNORE.

    `dims` is what the network sees: with 2 each slice of a volume has a map of its own.
    """
    codes = np.empty_like(label)
    planes = label.shape[:-dims]
    for index in np.ndindex(planes):
        codes[index] = _coded(label[index])
    return codes


def soft_values(codes: Tensor) -> Tensor:
    """Return codes as values from -1 to 1, float32; what IGNORE becomes means nothing."""
    return (codes.float() - _MIDDLE) / _MIDDLE


def _coded(label: np.ndarray) -> np.ndarray:
    values = sauna_map(label == 1, label == 0)
    steps = np.rint(np.abs(values) * _MIDDLE).clip(1)  # at least one: no voxel may lose its side to rounding
    code = np.where(label == 1, _MIDDLE + steps, _MIDDLE - steps)
    return np.where(label == IGNORE, IGNORE, code).astype(np.uint8)


def sauna_map(inside: np.ndarray, outside: np.ndarray) -> np.ndarray:
    """Return the map float32 [*S] of a mask bool [*S]; voxels that are neither `inside` nor `outside` say nothing.

    It is the mode "h" of the reference: b + (1 - t) inside, b - (1 - t) outside, cut to -1..1. b is the distance to
    the other side over the largest one inside, beyond which nothing counts, and t the same after a maximum filter as
    wide as that distance. A mask without foreground is -1 everywhere, one without background 1.
    """
    if not inside.any() or not outside.any():
        return np.full(inside.shape, 1 if inside.any() else -1, np.float32)
    depth = np.where(inside, distance_to(outside), 0)
    most = depth.max()
    away = np.where(outside, np.minimum(distance_to(inside), most), 0)
    boundary = (depth - away) / most
    thickness = np.where(inside, _widest(depth), _widest(away)) / most
    sure = boundary + np.where(inside, 1 - thickness, thickness - 1)
    return sure.clip(-1, 1).astype(np.float32)


def _widest(distance: np.ndarray) -> np.ndarray:
    """Maximum filter, as wide as the largest distance, the next odd number up."""
    width = int(np.ceil(distance.max())) | 1
    # the padding of a maximum pooling is never chosen, nor is a repeated border
    return ndimage.maximum_filter(distance, width, mode="nearest")


def distance_to(places: np.ndarray) -> np.ndarray:
    """Return the distance of each voxel to the nearest one of a bool array, float64, in voxels.

    On a plane by OpenCV's chamfer, as the reference has it; in space, which the paper leaves out, exactly.
    """
    return chamfer(places) if places.ndim == 2 else ndimage.distance_transform_edt(~places)


def chamfer(places: np.ndarray) -> np.ndarray:
    """Return the length of the shortest way from each pixel to a true one of bool [H, W], float64, in pixels.

    A way takes steps to the 8 neighbours and those of a knight. There has to be a true one.
    """
    # two cells around the image, which the sweeps read and never write
    lengths = np.pad(np.where(places, 0.0, np.inf), 2, constant_values=np.inf)
    _sweep(lengths)
    _sweep(lengths[::-1, ::-1])
    return lengths[2:-2, 2:-2]


def _sweep(lengths: np.ndarray) -> None:
    """Carry lengths [H + 4, W + 4] on, row by row, to the right and down, in place."""
    width = lengths.shape[1] - 4
    ahead = _SIDE * np.arange(width)

    def shifted(row: np.ndarray, by: int) -> np.ndarray:
        return row[2 + by : 2 + by + width]

    for y in range(2, len(lengths) - 2):
        here, above, higher = lengths[y], lengths[y - 1], lengths[y - 2]
        ways = [shifted(above, 0) + _SIDE, shifted(higher, -1) + _KNIGHT, shifted(higher, 1) + _KNIGHT]
        for by in (-1, 1):
            ways += [shifted(above, by) + _DIAGONAL, shifted(above, 2 * by) + _KNIGHT]
        best = np.minimum.reduce([shifted(here, 0), *ways])
        # min over k <= x of best[k] + (x - k): what a loop along the row would carry from its left
        here[2:-2] = np.minimum.accumulate(best - ahead) + ahead
