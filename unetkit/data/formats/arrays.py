"""NumPy and HDF5 arrays (.npz, .npy.h5) with the keys `image` and `label`, as the Synapse preprocessing writes them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from unetkit.data.formats.files import Peek, decoding
from unetkit.errors import DataError
from unetkit.types import Volume

SUFFIXES = (".npz", ".npy.h5", ".h5")


def read(path: Path, label: bool) -> Volume:
    """Read key `image` or `label`: [y, x] as a picture, [slice, y, x] as a volume of unit spacing, [C, *S] beyond.

    A name with `*` stands for all slices of one volume, one .npz each, stacked by their number.
    """
    key = "label" if label else "image"
    with decoding(path):
        if "*" in path.name:
            data = np.stack([_from_npz(part, key) for part in slices(path)])
        else:
            data = _from_npz(path, key) if path.suffix.lower() == ".npz" else _from_h5(path, key)
    if data.ndim < 2 or data.ndim > 4:
        raise DataError(f"{path}: '{key}' has {data.ndim} axes of size {data.shape}; a case has 2 or 3, after channels")
    data = data if data.ndim == 4 else data[None]
    return Volume(data, (1.0,) * (data.ndim - 1), None, str(path))


def peek(path: Path) -> Peek:
    """Tell channels and shape; of stacked slices only the first is opened."""
    with decoding(path):
        if "*" in path.name:
            parts = slices(path)
            return Peek(1, (len(parts), *_from_npz(parts[0], "image").shape))
        if path.suffix.lower() == ".npz":
            shape = _from_npz(path, "image").shape
        else:
            with _h5py(path).File(path) as file:
                shape = file["image"].shape
    return Peek(1, tuple(shape)) if len(shape) < 4 else Peek(int(shape[0]), tuple(shape[1:]))


def slices(pattern: Path) -> list[Path]:
    """Return the files of a `*` pattern in the order of their last number. Raises DataError if there are none."""
    found = [path for path in pattern.parent.glob(pattern.name) if not path.name.startswith(".")]
    if not found:
        raise DataError(f"{pattern}: no such slices; check the folder")
    return sorted(found, key=lambda path: int((re.findall(r"\d+", path.stem) or ["0"])[-1]))


def _from_npz(path: Path, key: str) -> np.ndarray:
    with np.load(path, allow_pickle=False) as archive:
        if key not in archive:
            raise DataError(f"{path}: has no array '{key}', only {', '.join(archive.files)}; save it under that key")
        return archive[key]


def _from_h5(path: Path, key: str) -> np.ndarray:
    with _h5py(path).File(path, "r") as file:
        if key not in file:
            raise DataError(f"{path}: has no array '{key}', only {', '.join(file)}; save it under that key")
        return file[key][()]


def _h5py(path: Path) -> Any:
    try:
        import h5py
    except ImportError as error:
        raise DataError(f"{path}: this format needs h5py; run: pip install 'unetkit[synapse]'") from error
    return h5py
