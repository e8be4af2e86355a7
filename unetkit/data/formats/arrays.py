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
WINDOW_HU = (-125.0, 275.0)
"""The CT values that the Synapse preparation clips to and scales to 0..1 (protocol of TransUNet, arXiv:2102.04306)."""

# Only these names are taken for prepared CT; values of 0 to 1 in any other array file stay what they are.
_PREPARED_CT = re.compile(r"^case\d{4}(_slice(\d+|\*))?\.(npz|npy\.h5)$")


def read(path: Path, label: bool) -> Volume:
    """Read key `image` or `label`: [y, x] as a picture, [slice, y, x] as a volume of unit spacing, [C, *S] beyond.

    A name with `*` stands for all slices of one volume, one .npz each, stacked by their number. Images named as the
    Synapse preparation names them, with values of 0 to 1, are given back in HU (see WINDOW_HU).
    """
    key = "label" if label else "image"
    with decoding(path):
        if "*" in path.name:
            data = np.stack([_from_npz(part, key) for part in slices(path)])
        else:
            data = _from_npz(path, key) if path.suffix.lower() == ".npz" else _from_h5(path, key)
    if data.ndim < 2 or data.ndim > 4:
        raise DataError(f"{path}: '{key}' has {data.ndim} axes of size {data.shape}; a case has 2 or 3, after channels")
    if not label and _PREPARED_CT.match(path.name):
        data = _in_hounsfield(data)
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
            with _h5py(path).File(path, "r") as file:
                shape = _held(file, "image", path).shape
    return Peek(1, tuple(shape)) if len(shape) < 4 else Peek(int(shape[0]), tuple(shape[1:]))


def slices(pattern: Path) -> list[Path]:
    """Return the files of a `*` pattern in the order of their last number. Raises DataError if there are none."""
    found = [path for path in pattern.parent.glob(pattern.name) if not path.name.startswith(".")]
    if not found:
        raise DataError(f"{pattern}: no such slices; check the folder")
    return sorted(found, key=lambda path: int((re.findall(r"\d+", path.stem) or ["0"])[-1]))


def _in_hounsfield(data: np.ndarray) -> np.ndarray:
    """Undo the scaling of prepared CT; what does not lie within 0 to 1 was never scaled.

    Done here and not in a recipe, so that one clip range serves raw and prepared files, in training and prediction.
    """
    if data.dtype.kind != "f" or data.size == 0 or data.min() < 0 or data.max() > 1:
        return data
    low, high = WINDOW_HU
    return data.astype(np.float32) * np.float32(high - low) + np.float32(low)


def _from_npz(path: Path, key: str) -> np.ndarray:
    with np.load(path, allow_pickle=False) as archive:  # object arrays, which may run code, are refused
        return _held(archive, key, path)


def _from_h5(path: Path, key: str) -> np.ndarray:
    with _h5py(path).File(path, "r") as file:
        return _held(file, key, path)[()]


def _held(archive: Any, key: str, path: Path) -> Any:
    """Return the array of an open archive. Raises DataError that names what it holds instead."""
    if key not in archive:
        raise DataError(f"{path}: has no array '{key}', only {', '.join(archive)}; save it under that key")
    return archive[key]


def _h5py(path: Path) -> Any:
    try:
        import h5py
    except ImportError as error:
        raise DataError(f"{path}: this format needs h5py; run: pip install 'unetkit[synapse]'") from error
    return h5py
