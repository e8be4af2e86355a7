"""From the values in label files to what network and metrics see, and back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from unetkit.data.instances import encode_instances
from unetkit.errors import DataError
from unetkit.types import IGNORE, Labels, instance_numbers

MAX_CLASSES = 253
_UNKNOWN = 254
_WIDEST_RANGE = 1 << 20
_CHUNK = 1 << 22
_SHOWN = 8


def encode(array: np.ndarray, labels: Labels, where: str, spacing: Sequence[float] | None = None) -> np.ndarray:
    """Return file values [*S] as uint8 [L, *S]: class indices with 255 to ignore, or 0/1/255 for each region.

    Of instances it is the layers that `data/instances` tells, for which `spacing` is that of the voxels. Bool arrays
    are 1-bit masks: true is 1, or the only class there is. `where` names the file in errors.
    Raises DataError for values outside the declared set, for fractions, and for NaN.
    """
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise DataError(f"{where}: the label holds NaN or infinite values; repair the file or leave it out")
    if labels.threshold is not None:
        return _encode_grey(array, labels)
    codes = _integers(array, labels, where)
    if labels.instances:
        return encode_instances(codes, labels.ignore, where, spacing)
    # A look-up table over low..high is one pass over the voxels, however many classes there are.
    low, high = min(int(codes.min()), 0), int(codes.max())
    if high - low > _WIDEST_RANGE:
        raise DataError(f"{where}: label values from {low} to {high}; that is no label map: check data.classes")
    index = codes.astype(np.int64) - low if low else codes
    if not labels.regions:
        return _checked(_table(labels, low, high)[index], codes, labels, where)[None]
    # A value may belong to several regions, so that each has a table of its own.
    layers = [_table(labels, low, high, region)[index] for region in range(len(labels.classes))]
    _checked(layers[0], codes, labels, where)
    return np.stack(layers)


def decode(encoded: np.ndarray, labels: Labels) -> np.ndarray:
    """Return uint8 [L, *S] as file values [*S] (uint8 or uint16), such that `encode` gives the classes back.

    A class made of several values becomes the first of them. Where regions overlap, the value that makes up
    exactly those regions is taken, or else the last region paints over the others. Instances keep their numbers.
    """
    if labels.instances:
        return instance_numbers(encoded)
    if labels.threshold is not None:
        # As the training masks were: 0/255 pictures, or 0/1 where the threshold is a share.
        inside = 255 if 1 <= labels.threshold < 255 else int(labels.threshold) + 1
        return np.where(encoded[0] == 1, inside, 0).astype(_smallest([inside]))
    outside = background_value(labels)
    ignored = labels.ignore[0] if labels.ignore else outside
    if labels.regions:
        return _paint(encoded, labels, outside, ignored)
    firsts = [values[0] for values in labels.values]
    table = np.full(256, outside, dtype=_smallest([outside, ignored, *firsts]))
    table[1 : len(firsts) + 1] = firsts
    table[IGNORE] = ignored
    return table[encoded[0]]


def background_value(labels: Labels) -> int:
    """Return the file value that stands for no class: 0, or another one where 0 is itself a class."""
    taken = {value for values in labels.values for value in values} | set(labels.ignore)
    # 255 before small numbers: those look like classes.
    candidates = [0, *labels.background, 255, *range(1, 255)]
    return next(value for value in candidates if value not in taken)


def count_values(array: np.ndarray) -> dict[int, int]:
    """Return value -> number of voxels of a whole-number (or bool) array of any shape, in ascending order."""
    # In the order of memory, which spares a copy of Fortran-ordered volumes.
    flat = array.ravel(order="K")
    counts: dict[int, int] = {}
    for start in range(0, flat.size, _CHUNK):
        part = flat[start : start + _CHUNK]
        for value, number in _count(part.astype(np.uint8) if part.dtype == bool else part):
            counts[value] = counts.get(value, 0) + number
    return dict(sorted(counts.items()))


def _count(part: np.ndarray) -> list[tuple[int, int]]:
    low, high = int(part.min()), int(part.max())
    if low >= 0 and high < _WIDEST_RANGE:
        numbers = np.bincount(part.astype(np.intp, copy=False))  # five times as fast as sorting
        return [(int(value), int(numbers[value])) for value in np.flatnonzero(numbers)]
    values, sorted_numbers = np.unique(part, return_counts=True)
    return [(int(value), int(number)) for value, number in zip(values, sorted_numbers, strict=True)]


def _encode_grey(array: np.ndarray, labels: Labels) -> np.ndarray:
    inside = array if array.dtype == bool else array > labels.threshold
    encoded = inside.astype(np.uint8)
    for value in labels.ignore:
        encoded[array == value] = IGNORE
    return encoded[None]


def _integers(array: np.ndarray, labels: Labels, where: str) -> np.ndarray:
    if array.dtype == bool:
        # The only class there is; 1 stays 1 where that is known, or where the class is what the mask leaves dark.
        known = _known(labels)
        return array.astype(np.int32) * (1 if 1 in known else max(known - set(labels.ignore)) or 1)
    if array.dtype.kind != "f":
        return array
    rounded = np.rint(array)
    worst = float(np.abs(array - rounded).max())
    if worst > 1e-3:
        raise DataError(
            f"{where}: the label holds fractions up to {float(array.max()):.4g}, not class numbers; "
            "if it is a grey or probability mask, set data.threshold"
        )
    return rounded.astype(np.int64)


def _table(labels: Labels, low: int, high: int, region: int | None = None) -> np.ndarray:
    """Return the code of each value from low to high; values that nobody knows get a code of their own."""
    table = np.full(high - low + 1, _UNKNOWN if labels.strict else 0, dtype=np.uint8)

    def put(values: Sequence[int], code: int) -> None:
        for value in values:
            if low <= value <= high:
                table[value - low] = code

    # Later rows overwrite earlier ones: a class that takes 0 wins, and what is ignored wins over all.
    put((0, *labels.background), 0)
    for index, values in enumerate(labels.values):
        # Seen from one region the others' values are known, hence 0 and no error.
        put(values, index + 1 if region is None else 0)
    if region is not None:
        put(labels.values[region], 1)
    put(labels.ignore, IGNORE)
    return table


def _checked(encoded: np.ndarray, codes: np.ndarray, labels: Labels, where: str) -> np.ndarray:
    unknown = encoded == _UNKNOWN
    if not labels.strict or not unknown.any():
        return encoded
    found = count_values(codes[unknown])
    shown = ", ".join(f"{value} ({number} voxels)" for value, number in list(found.items())[:_SHOWN])
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    raise DataError(
        f"{where}: label values {shown}{more} belong to no class; known are "
        f"{_shorten(sorted(_known(labels)))}: name them in data.classes or data.ignore, or set data.strict=false"
    )


def _known(labels: Labels) -> set[int]:
    return {0, *labels.background, *labels.ignore, *(value for values in labels.values for value in values)}


def _paint(encoded: np.ndarray, labels: Labels, outside: int, ignored: int) -> np.ndarray:
    sets = [frozenset(values) for values in labels.values]
    known = sorted(_known(labels) - set(labels.ignore))
    painted = np.full(encoded.shape[1:], outside, dtype=_smallest([outside, ignored, *known]))
    for index, values in enumerate(labels.values):
        # The value that only this region has, seen from the regions painted after it.
        later = frozenset().union(*sets[index + 1 :])
        own = next((value for value in values if value not in later), values[0])
        painted[encoded[index] == 1] = own
    for value in known:
        # A value whose regions are just those predicted here says all of them at once.
        exact = np.ones(encoded.shape[1:], dtype=bool)
        members = [value in values for values in sets]
        for index, member in enumerate(members):
            exact &= encoded[index] == int(member)
        if any(members):
            painted[exact] = value
    painted[encoded[0] == IGNORE] = ignored
    return painted


def _smallest(values: Sequence[int]) -> np.dtype:
    return np.result_type(*(np.min_scalar_type(value) for value in values))


def _shorten(values: Sequence[int]) -> str:
    shown = ", ".join(str(value) for value in values[: 2 * _SHOWN])
    return f"{shown}, ... up to {values[-1]}" if len(values) > 2 * _SHOWN else shown
