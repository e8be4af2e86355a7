"""NIfTI-1 and NIfTI-2 (.nii, .nii.gz) through nibabel; geometry is written back bit for bit."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from unetkit.data.formats.files import Peek, decoding, replacing
from unetkit.errors import DataError
from unetkit.types import Volume

SUFFIXES = (".nii.gz", ".nii")
_GZIP_LEVEL = 2  # label maps: four times as fast as the usual 6, for files half as large again
_NIFTI2_SIZE = (540).to_bytes(4, "little"), (540).to_bytes(4, "big")


def read(path: Path, label: bool) -> Volume:
    """Read a NIfTI file as [C, i, j, k] with its RAS+ affine; a fourth (or fifth) axis becomes channels.

    Values are scaled by slope and intercept where the header asks for it. The header is kept for writing.
    """
    with decoding(path):
        image = _open(path)
        data = _channels_first(np.asanyarray(image.dataobj), path)
    affine = _affine(image.header, path)
    return Volume(data, _spacing(image.header, affine), affine, str(path), image.header.copy())


def peek(path: Path) -> Peek:
    """Tell channels and shape from the header, without reading voxels."""
    with decoding(path):
        image: Any = nib.load(path)
        shape = tuple(int(n) for n in image.shape)
        fields = image.get_data_dtype().names
    # A NIfTI file of two axes is a volume of one slice.
    spatial = (*shape[:3], 1)[:3]
    extra = int(np.prod(shape[3:], dtype=int))
    return Peek(len(fields) if fields else extra, spatial, image.affine)


def write(volume: Volume, path: Path) -> None:
    """Write [C, *S] as NIfTI; with a NIfTI header at hand qform, sform, codes and units stay as they were."""
    header = _header_for(volume)
    data = volume.data[0] if volume.channels == 1 else np.moveaxis(volume.data, 0, -1)
    data = _storable(data)
    if volume.dims == 2:
        data = data.reshape((*data.shape[:2], 1, *data.shape[2:]))
    # set_data_shape resets zooms; the stored ones, bit for bit, go back afterwards.
    pixdim = header["pixdim"].copy()
    header.set_data_shape(data.shape)
    header["pixdim"] = pixdim
    header.set_data_dtype(data.dtype)
    # The image's scaling and display range mean nothing for what is written now.
    header.set_slope_inter(1, 0)
    header["cal_min"] = header["cal_max"] = 0
    header.set_intent("none")
    header["vox_offset"] = header.single_vox_offset
    header["magic"] = header.single_magic
    # Four zero bytes: no header extensions, which would describe the image.
    payload = header.binaryblock + b"\0\0\0\0" + _fortran_bytes(data.astype(header.get_data_dtype(), copy=False))
    if path.name.lower().endswith(".gz"):
        # No time stamp: the same labels give the same file.
        payload = gzip.compress(payload, _GZIP_LEVEL, mtime=0)
    with replacing(path) as temporary:
        temporary.write_bytes(payload)


def _open(path: Path) -> Any:
    """Decompress in one go: streaming through nibabel takes half as long again."""
    raw = path.read_bytes()
    if raw[:2] == b"\x1f\x8b":
        raw = gzip.decompress(raw)
    kind = nib.Nifti2Image if raw[:4] in _NIFTI2_SIZE else nib.Nifti1Image
    _require_spacing(kind.header_class(raw[: kind.header_class.sizeof_hdr], check=False), path)
    return kind.from_bytes(raw)


def _require_spacing(header: Any, path: Path) -> None:
    """Refuse lengths of 0 or NaN, which nibabel would take for 1 mm, unless an sform says where the voxels lie."""
    shape, lengths = header["dim"][1:4], np.abs(header["pixdim"][1:4])
    told = [not (length > 0 and np.isfinite(length)) for length, n in zip(lengths, shape, strict=True) if n > 1]
    if any(told) and not header["sform_code"]:
        raise DataError(
            f"{path}: spacing {' x '.join(f'{length:g}' for length in lengths)} mm; every axis needs a positive "
            "length: correct the header"
        )


def _channels_first(data: np.ndarray, path: Path) -> np.ndarray:
    """Return [C, i, j, k] as a view; the file's Fortran order is kept, because turning it costs more than reading."""
    if data.dtype.names:  # RGB voxels
        return np.stack([data[name] for name in data.dtype.names]).reshape((-1, *data.shape[:3]))
    # Empty trailing axes are common (one time point).
    while data.ndim > 3 and data.shape[-1] == 1:
        data = data[..., 0]
    if data.ndim == 5 and data.shape[3] == 1:  # a vector image keeps its components in the fifth axis
        data = data[:, :, :, 0]
    if data.ndim < 2 or data.ndim > 4:
        raise DataError(f"{path}: {data.ndim} axes of size {data.shape}; a case has 2 or 3, and one for channels")
    if data.ndim == 2:
        data = data[:, :, None]
    return data[None] if data.ndim == 3 else np.moveaxis(data, -1, 0)


def _affine(header: Any, path: Path) -> np.ndarray:
    affine = np.asarray(header.get_best_affine(), dtype=np.float64)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
        raise DataError(
            f"{path}: the header places the voxels nowhere (its affine is singular); repair qform or sform first"
        )
    return affine


def _spacing(header: Any, affine: np.ndarray) -> tuple[float, ...]:
    """Prefer the header's own numbers, which lack the rounding of the affine's columns, unless they contradict it."""
    columns = nib.affines.voxel_sizes(affine)
    zooms = np.asarray((*header.get_zooms(), 1.0, 1.0)[:3], dtype=np.float64)
    return tuple(float(s) for s in (zooms if np.allclose(zooms, columns, rtol=1e-4) else columns))


def _header_for(volume: Volume) -> Any:
    header = volume.header
    if isinstance(header, nib.Nifti1Header):
        same_grid = (*header.get_data_shape()[:3], 1)[:3] == volume.shape
        if same_grid and volume.affine is not None and np.array_equal(header.get_best_affine(), volume.affine):
            return header.copy()
    header = nib.Nifti1Header()
    zooms = [*volume.spacing, 1.0][:3]
    affine = np.diag([*zooms, 1.0]) if volume.affine is None else volume.affine
    header.set_data_shape((*volume.shape, 1)[:3])
    header.set_zooms(zooms)
    header.set_qform(affine, 1, strip_shears=True)
    header.set_sform(affine, 1)
    header.set_xyzt_units("mm")
    return header


def _storable(data: np.ndarray) -> np.ndarray:
    replaced = {"bool": np.uint8, "int64": np.int32, "uint64": np.uint32, "float16": np.float32}
    return data.astype(replaced[data.dtype.name]) if data.dtype.name in replaced else data


def _fortran_bytes(data: np.ndarray) -> bytes:
    """Bytes in Fortran order, slab by slab: three times as fast over C-ordered labels as `tobytes(order="F")`."""
    if data.ndim != 3 or not data.flags.c_contiguous:
        return data.tobytes(order="F")
    turned = np.empty(data.shape[::-1], data.dtype)
    for i in range(data.shape[0]):
        turned[:, :, i] = data[i].T
    return turned.tobytes()
