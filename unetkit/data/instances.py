"""Labels whose values number objects, encoded as uint8 layers that move through all steps like any other label.

Layer 0 is the class (0, 1, 255 to ignore), layer 1 the distance to the border of the object a voxel lies in, as
0 to 254 for 0 to 1 of that object's largest; layers 2 and 3 are the low and the high byte of the object's number, which
`types.instance_numbers` reads. Whatever takes each voxel of the result from one voxel of the source keeps the four of
them together.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import distance_transform_edt, find_objects

from unetkit.errors import DataError
from unetkit.types import IGNORE, INSTANCE_LAYERS

FULL = 254
"""Code of the distance 1; 255 is what is ignored."""

MOST = 65534
"""Largest number of an object; in bytes 65535 looks like what is ignored."""


def encode_instances(
    numbers: np.ndarray, ignored: Sequence[int], where: str, spacing: Sequence[float] | None = None
) -> np.ndarray:
    """Return whole numbers [*S], 0 for background, as encoded label uint8 [4, *S].

    `spacing` is that of the voxels, for distances. Raises DataError for numbers outside 0 to 65534.
    """
    unknown = np.isin(numbers, ignored) if len(ignored) else np.zeros(numbers.shape, dtype=bool)
    numbers = np.where(unknown, 0, numbers)
    if numbers.min() < 0 or numbers.max() > MOST:
        raise DataError(
            f"{where}: instance numbers from {numbers.min()} to {numbers.max()}; 0 to {MOST} are possible: renumber "
            "the objects, or name values that are none in data.ignore"
        )
    encoded = with_numbers(numbers, border_distance(numbers, spacing))
    encoded[:, unknown] = IGNORE
    return encoded


def with_numbers(numbers: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """Return object numbers [*S] and distances 0 to 1 [*S] as encoded label uint8 [4, *S]."""
    encoded = np.empty((INSTANCE_LAYERS, *numbers.shape), np.uint8)
    encoded[0] = numbers > 0
    encoded[1] = np.rint(distance * FULL)
    encoded[2], encoded[3] = numbers & 0xFF, numbers >> 8
    return encoded


def border_distance(numbers: np.ndarray, spacing: Sequence[float] | None = None) -> np.ndarray:
    """Return for each voxel of an object its distance to that object's border, over the object's largest: float32 [*S].

    It is above 0 within objects and 0 outside. Where an object is cut off by the image's edge it has no border.
    """
    distance = np.zeros(numbers.shape, np.float32)
    # Numbers may have gaps; boxes are looked for among few.
    values, index = np.unique(numbers, return_inverse=True)
    index = index.reshape(numbers.shape) + (values[0] != 0)
    for number, box in enumerate(find_objects(index), start=1):
        if box is None:
            continue
        # A voxel more on each side, where there is one: the nearest voxel outside may lie there.
        around = tuple(slice(max(side.start - 1, 0), side.stop + 1) for side in box)
        inside = index[around] == number
        found = inside.astype(np.float32) if inside.all() else distance_transform_edt(inside, sampling=spacing)
        distance[around][inside] = (found / found.max())[inside]
    return distance
