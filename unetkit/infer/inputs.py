"""The kinds of image that a predictor takes, and results given back as the same kind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.spatialimages import SpatialImage

from unetkit.data.cascade import encode_previous
from unetkit.data.volumes import read_images, read_volume
from unetkit.errors import DataError, ShapeError
from unetkit.plan.plan import Plan
from unetkit.types import Case, Volume

Image = str | Path | Sequence[str | Path] | Volume | SpatialImage | np.ndarray | tuple[np.ndarray, Sequence[float]]
"""One file (or one per channel), a Volume, a nibabel image, an array with its spacing in mm, or a 2D array."""

Wrap = Callable[[np.ndarray], Any]
"""Takes a result [K, *S] or [*S] to the kind of the input."""


def open_image(image: Image, plan: Plan) -> tuple[Volume, Wrap]:
    """Return the image as a checked Volume, and what turns a result on its grid into the image's kind.

    Arrays are [*S] or [C, *S], 2D ones [H, W, C] too; their axes count as right, anterior, superior.
    Raises DataError for a kind that is not known and for what `check_image` refuses, ShapeError for a wrong shape.
    """
    if isinstance(image, SpatialImage):
        volume, wrap = _from_nibabel(image, plan), _to_nibabel(image, image_dims(plan))
    elif isinstance(image, np.ndarray):
        if image_dims(plan) != 2:
            raise ShapeError(f"array of shape {image.shape}: a volume needs its spacing; give (array, spacing in mm)")
        volume, wrap = _from_array(image, (1.0, 1.0), plan), _plain
    elif isinstance(image, tuple) and len(image) == 2 and isinstance(image[0], np.ndarray):
        volume, wrap = _from_array(image[0], tuple(float(s) for s in image[1]), plan), _plain
    else:
        volume = image if isinstance(image, Volume) else read_images(_case(image))
        wrap = _to_volume(volume)
    check_image(volume, plan)
    return volume, wrap


def open_previous(previous: Image, image: Volume, plan: Plan, case_id: str) -> Volume:
    """Return the label map of a cascade's earlier stage, of any kind that an image may have, encoded on its grid.

    Raises DataError for one on another grid or with unknown values.
    """
    if isinstance(previous, SpatialImage):
        found = _from_nibabel(previous, plan)
    elif isinstance(previous, Volume):
        found = previous
    elif isinstance(previous, str | Path):
        found = read_volume(previous, label=True)
    else:
        array = previous[0] if isinstance(previous, tuple) else previous
        found = Volume(np.asarray(array)[None], image.spacing, image.affine)
    return encode_previous(found, image, plan.labels, case_id)


def image_dims(plan: Plan) -> int:
    """Axes of the images a plan is for: 3 for volumes, also where the network sees their slices."""
    # Only volumes have axes to transpose, so that a 2D network with an order of axes is one for slices.
    return len(plan.transpose) or plan.dims


def check_image(volume: Volume, plan: Plan) -> None:
    """Refuse what the network was not trained for.

    Raises ShapeError for a wrong number of axes or channels, DataError for no voxels and for NaN or infinite ones.
    """
    where = volume.source or "image"
    if volume.dims != image_dims(plan):
        raise ShapeError(
            f"{where}: {volume.dims} axes of size {volume.shape}, but the run was trained on {image_dims(plan)}D images"
        )
    if volume.channels != len(plan.channels):
        raise ShapeError(
            f"{where}: {volume.channels} channel(s), the network takes {len(plan.channels)} "
            f"({', '.join(plan.channels)}); give the channels of training in that order"
        )
    if volume.data.size == 0:
        raise DataError(f"{where}: no voxels (size {volume.shape})")
    if volume.data.dtype.kind not in "biuf":
        raise DataError(f"{where}: voxels of type {volume.data.dtype}; give whole or real numbers")
    bad = 0 if volume.data.dtype.kind != "f" else int(volume.data.size - np.isfinite(volume.data).sum())
    if bad:
        raise DataError(f"{where}: {bad} NaN or infinite voxels; replace them, for example by the value of air")
    if min(volume.spacing) <= 0 or not np.isfinite(volume.spacing).all():
        raise DataError(f"{where}: spacing {volume.spacing} mm; every axis needs a positive number")


def _case(image: Any) -> Case:
    paths = list(image) if isinstance(image, list | tuple) else [image]
    if not paths or not all(isinstance(p, str | Path) for p in paths):
        raise DataError(
            f"cannot predict from {type(image).__name__}: give a path, (array, spacing), a nibabel image or a Volume"
        )
    return Case(str(paths[0]), tuple(Path(p) for p in paths))


def _to_volume(volume: Volume) -> Wrap:
    def wrap(result: np.ndarray) -> Volume:
        return replace(volume, data=result if result.ndim > volume.dims else result[None])

    return wrap


def _plain(result: np.ndarray) -> np.ndarray:
    return result


def _from_array(array: np.ndarray, spacing: tuple[float, ...], plan: Plan) -> Volume:
    dims, channels = image_dims(plan), len(plan.channels)
    if array.ndim == dims:
        data = array[None]
    # Channels first where both readings fit, as everywhere else here.
    elif array.ndim == dims + 1 and array.shape[0] == channels:
        data = array
    elif array.ndim == 3 and dims == 2 and array.shape[2] == channels:
        data = np.moveaxis(array, 2, 0)
    else:
        axes = "H, W" if dims == 2 else "X, Y, Z"
        raise ShapeError(f"array of shape {array.shape}: the network takes [{axes}] or [{channels}, {axes}]")
    if len(spacing) != dims:
        raise ShapeError(f"spacing {spacing} for {dims} axes; give one number in mm per axis")
    return Volume(data, spacing)


def _from_nibabel(image: SpatialImage, plan: Plan) -> Volume:
    data = np.asanyarray(image.dataobj)
    # nibabel scales into float64, of which preprocessing keeps half
    data = data.astype(np.float32) if data.dtype == np.float64 else data
    data = np.moveaxis(data, -1, 0) if data.ndim == 4 else data[None]
    while data.ndim <= image_dims(plan):
        data = data[..., None]
    # A fourth zoom is seconds between frames; axes that the header lacks are one voxel thick.
    zooms = [float(s) for s in image.header.get_zooms()[:3]]
    spacing = (*zooms, *(1.0,) * (data.ndim - 1 - len(zooms)))
    return Volume(data, spacing, image.affine, image.get_filename())


def _to_nibabel(image: SpatialImage, dims: int) -> Wrap:
    def wrap(result: np.ndarray) -> SpatialImage:
        """Channels go to the fourth axis, where nibabel has them; the affine and its codes stay bit for bit."""
        grid = image.shape[:3]
        if result.ndim > dims:
            data = np.moveaxis(result.reshape(-1, *grid, *(1,) * (3 - len(grid))), 0, -1)
        else:
            data = result.reshape(grid)
        header = image.header.copy()
        header.set_data_dtype(data.dtype)
        return type(image)(data, image.affine, header)

    return wrap
