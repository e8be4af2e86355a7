"""NRRD and MetaImage (.nrrd, .mha, .mhd) through SimpleITK, an extra."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unetkit.data.formats.files import Peek, decoding, replacing
from unetkit.errors import DataError
from unetkit.types import Volume

SUFFIXES = (".nrrd", ".mha", ".mhd")
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class ItkGeometry:
    """Origin, spacing and direction as ITK holds them (LPS world), kept to write the same numbers again."""

    origin: tuple[float, ...]
    spacing: tuple[float, ...]
    direction: tuple[float, ...]

    @property
    def affine(self) -> np.ndarray:
        """4x4 affine from indices to RAS+ world; the flip is in the affine, not in the data."""
        affine = np.eye(4)
        # Columns are the steps of an index: A = D diag(spacing), D row by row in ITK.
        affine[:3, :3] = np.reshape(self.direction, (3, 3)) * np.asarray(self.spacing)
        affine[:3, 3] = self.origin
        return _LPS_TO_RAS @ affine

    @classmethod
    def of(cls, affine: np.ndarray) -> ItkGeometry:
        """Return the geometry of a RAS+ affine; a shear cannot be kept."""
        lps = _LPS_TO_RAS @ affine
        # The length of a column is the step along its index in mm.
        spacing = np.linalg.norm(lps[:3, :3], axis=0)
        direction = lps[:3, :3] / spacing
        return cls(tuple(lps[:3, 3].tolist()), tuple(spacing.tolist()), tuple(direction.ravel().tolist()))


def read(path: Path, label: bool) -> Volume:
    """Read as [C, i, j, k] (2D files: [C, y, x]) with a RAS+ affine."""
    sitk = _simpleitk(path)
    with decoding(path):
        image = sitk.ReadImage(str(path))
        data = sitk.GetArrayFromImage(image)
        dims = image.GetDimension()
        vector = image.GetNumberOfComponentsPerPixel() > 1
        geometry = ItkGeometry(image.GetOrigin(), image.GetSpacing(), image.GetDirection())
    if dims not in (2, 3):
        raise DataError(f"{path}: {dims} axes of size {data.shape[::-1]}; a case has 2 or 3, and one for channels")
    data = np.moveaxis(data, -1, 0) if vector else data[None]
    if dims == 2:
        # ITK speaks of x, y; pictures here are [C, y, x].
        return Volume(data, tuple(geometry.spacing[::-1]), None, str(path), geometry)
    # ITK gives [k, j, i]; the view below is [C, i, j, k].
    return Volume(data.transpose(0, 3, 2, 1), geometry.spacing, geometry.affine, str(path), geometry)


def peek(path: Path) -> Peek:
    """Tell channels and shape from the header, without reading voxels."""
    sitk = _simpleitk(path)
    with decoding(path):
        reader = sitk.ImageFileReader()
        reader.SetFileName(str(path))
        reader.ReadImageInformation()
        size = tuple(int(n) for n in reader.GetSize())
        channels = int(reader.GetNumberOfComponents())
        if len(size) == 2:
            return Peek(channels, size[::-1])
        return Peek(channels, size, ItkGeometry(reader.GetOrigin(), reader.GetSpacing(), reader.GetDirection()).affine)


def write(volume: Volume, path: Path) -> None:
    """Write [C, *S], compressed, at the place that header or affine give."""
    sitk = _simpleitk(path)
    # [C, i, j, k] -> [k, j, i] or, with several channels, [k, j, i, C]; 2D stays [y, x].
    moved = volume.data if volume.dims == 2 else volume.data.transpose(0, 3, 2, 1)
    moved = moved[0] if volume.channels == 1 else np.moveaxis(moved, 0, -1)
    if moved.dtype == bool:
        moved = moved.astype(np.uint8)
    image = sitk.GetImageFromArray(np.ascontiguousarray(moved), isVector=volume.channels > 1)
    _place(image, volume)
    if path.suffix.lower() == ".mhd":  # writes a second file, which a later rename would orphan
        raise DataError(f"{path}: .mhd keeps its voxels in a second file; write .mha instead, which holds both")
    with replacing(path) as temporary:
        sitk.WriteImage(image, str(temporary), True)


def _place(image: Any, volume: Volume) -> None:
    geometry = volume.header if isinstance(volume.header, ItkGeometry) else None
    if volume.dims == 2:
        image.SetSpacing(volume.spacing[::-1])
        if geometry is not None and len(geometry.origin) == 2:
            image.SetOrigin(geometry.origin)
            image.SetDirection(geometry.direction)
        return
    # Without a place in the world the ITK identity is meant, which in RAS has x and y reversed.
    affine = volume.affine if volume.affine is not None else np.diag([-s for s in volume.spacing[:2]] + [1.0, 1.0])
    if volume.affine is None:
        affine[2, 2] = volume.spacing[2]
    # The header is written back only while it says what the affine says: a resampled volume has a new one.
    if geometry is None or len(geometry.origin) != 3 or not np.array_equal(geometry.affine, affine):
        geometry = ItkGeometry.of(affine)
    image.SetOrigin(geometry.origin)
    image.SetSpacing(geometry.spacing)
    image.SetDirection(geometry.direction)


def _simpleitk(path: Path) -> Any:
    try:
        import SimpleITK
    except ImportError as error:
        raise DataError(f"{path}: this format needs SimpleITK; run: pip install 'unetkit[itk]'") from error
    return SimpleITK
