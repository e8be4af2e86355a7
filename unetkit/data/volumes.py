"""Images and label maps from files of any known format, and back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np

from unetkit.data.formats import arrays, itk, nifti, pictures, tiff
from unetkit.data.formats.files import Peek, suffix_of
from unetkit.data.geometry import difference, stored_like
from unetkit.errors import DataError
from unetkit.types import Case, Volume

__all__ = ["is_known", "known_suffixes", "peek_volume", "read_images", "read_volume", "write_volume"]

_FORMATS: tuple[ModuleType, ...] = (nifti, pictures, tiff, itk, arrays)
known_suffixes: tuple[str, ...] = tuple(suffix for kind in _FORMATS for suffix in kind.SUFFIXES)


def is_known(path: Path) -> bool:
    """Tell by its name whether a file is an image that can be read."""
    return suffix_of(path) in known_suffixes


def read_volume(path: str | Path, *, label: bool = False) -> Volume:
    """Read one file as [C, *S] in its own axis order, with spacing, affine and header.

    Images keep their type, except that float64 becomes float32. Label maps have one channel; whole numbers stored
    as floats become integers, 1-bit masks are bool. Raises DataError for a file that is missing, empty, damaged,
    cut off, or of an unknown format.
    """
    path = Path(path)
    kind = _format(path)
    _require_file(path)
    volume: Volume = kind.read(path, label)
    if volume.data.size == 0:
        raise DataError(f"{path}: no voxels (size {volume.data.shape}); get the file anew or leave it out")
    if not label:
        return replace(volume, data=_intensities(volume.data))
    # One value per voxel is the only thing that all formats can say about classes.
    if volume.channels != 1:
        raise DataError(
            f"{path}: a label map has one channel, this has {volume.channels}; store one value per class, and "
            "describe overlapping classes by data.regions"
        )
    return replace(volume, data=_whole(volume.data))


def read_images(case: Case) -> Volume:
    """Read all channels of a case as one volume [C, *S] on the grid (and with the header) of the first.

    A channel that is only stored in another axis order is turned. Raises DataError if grids differ.
    """
    if not case.images:
        raise DataError(f"case {case.id}: has no image; give it one, or leave it out")
    volumes = [read_volume(path) for path in case.images]
    first = volumes[0]
    if len(volumes) == 1:
        return first
    # Sequences of one study are often stored along different axes on the same grid.
    turned = [first] + [stored_like(volume, first) for volume in volumes[1:]]
    for path, volume in zip(case.images[1:], turned[1:], strict=True):
        if apart := difference(volume, first):
            raise DataError(
                f"case {case.id}: channels lie on different grids: {path.name} has {apart} of {case.images[0].name}; "
                "resample them to one grid"
            )
    return replace(first, data=np.concatenate([volume.data for volume in turned]))


def peek_volume(path: str | Path) -> Peek:
    """Tell channels and shape of an image file, from its header alone where the format allows. Raises DataError."""
    path = Path(path)
    kind = _format(path)
    _require_file(path)
    found: Peek = kind.peek(path)
    return found


def write_volume(volume: Volume, path: str | Path) -> None:
    """Write a volume in the format of the path's suffix, whole or not at all; the folder is made.

    Geometry is exact where `header` comes from the same format. Raises DataError if the format cannot hold the
    volume or the file cannot be written.
    """
    path = Path(path)
    kind = _format(path)
    if not hasattr(kind, "write"):
        raise DataError(f"{path}: this format is only read; write .nii.gz, .nrrd, .mha, .tif or .png instead")
    kind.write(volume, path)


def _format(path: Path) -> ModuleType:
    suffix = suffix_of(path)
    for kind in _FORMATS:
        if suffix in kind.SUFFIXES:
            return kind
    raise DataError(f"{path}: unknown format '{suffix}'; convert it to one of {', '.join(known_suffixes)}")


def _require_file(path: Path) -> None:
    # A pattern of slices; the reader says if there are none.
    if "*" in path.name:
        return
    if path.is_dir():
        raise DataError(f"{path}: a folder, where a file was expected; name the image file itself")
    if not path.exists():
        raise DataError(f"{path}: no such file; check the path, or take it out of the list of cases")
    if path.stat().st_size == 0:
        raise DataError(f"{path}: is empty (0 bytes); get the file anew or leave it out")


def _intensities(data: np.ndarray) -> np.ndarray:
    """Halve float64, and give 1-bit pictures the range of 8-bit ones."""
    if data.dtype == bool:
        # Else a 1-bit photograph would be nearly black beside 8-bit ones.
        return data.astype(np.uint8) * 255
    return data.astype(np.float32) if data.dtype == np.float64 else data


def _whole(data: np.ndarray) -> np.ndarray:
    """Return float labels as integers if they are; fractions and NaN stay for `encode` to judge."""
    if data.dtype.kind != "f":
        return data
    with np.errstate(invalid="ignore"):
        rounded = np.rint(data)
        low, high = (float(rounded.min()), float(rounded.max()))
        if not (np.isfinite(low) and np.isfinite(high)) or np.abs(data - rounded).max() > 1e-3:
            return data
    # float64 labels are mostly 0..13: one byte instead of eight for every pass over them.
    smallest = np.result_type(np.min_scalar_type(int(low)), np.min_scalar_type(int(high)))
    return rounded.astype(smallest)
