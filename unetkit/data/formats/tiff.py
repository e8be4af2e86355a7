"""TIFF: tifffile first, Pillow where tifffile lacks the codec (LZW without imagecodecs); several pages are a volume."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image

from unetkit.data.formats import pictures
from unetkit.data.formats.files import Peek, decoding, first_line, replacing
from unetkit.errors import DataError
from unetkit.types import Volume

SUFFIXES = (".tif", ".tiff")


def read(path: Path, label: bool) -> Volume:
    """Read as [C, y, x], or [C, page, y, x] if there are several pages; alpha is dropped.

    Spacing comes from a JSON file of the same stem with the key `spacing` ([page, y, x] in mm), else it is 1.
    """
    with decoding(path):
        path.open("rb").close()  # so that a missing file is named as such
        data = _decode(path, label)
    if label and data.shape[0] > 1:
        data = pictures.one_channel(np.moveaxis(data, 0, -1), path)[None]
    return Volume(data, _spacing(path, data.ndim - 1), None, str(path))


def peek(path: Path) -> Peek:
    """Tell channels and shape from the tags; they can be read whatever the codec."""
    with decoding(path):
        try:
            with tifffile.TiffFile(path) as file:
                series = file.series[0]
                spatial, channel = _roles(series.axes, series.shape, path)
                channels = 1 if channel is None else _without_alpha(series.axes[channel], series.shape[channel])
                shape = tuple(series.shape[axis] for axis in spatial)
        except DataError:
            raise
        except Exception:  # tifffile's parser may raise anything; Pillow has the last word
            with Image.open(path) as picture:
                pages = getattr(picture, "n_frames", 1)
                shape = (picture.height, picture.width) if pages == 1 else (pages, picture.height, picture.width)
                channels = _without_alpha("S", len(picture.getbands()))
    return Peek(channels, shape)


def write(volume: Volume, path: Path) -> None:
    """Write [1, y, x], [3, y, x] or a volume [1, page, y, x], compressed; a volume's spacing goes beside it as JSON."""
    if volume.channels != 1 and (volume.dims != 2 or volume.channels != 3):
        raise DataError(
            f"{path}: [C, *S] of {tuple(volume.data.shape)} does not fit; a TIFF holds one channel, or a colour "
            "picture: write .nii.gz instead"
        )
    data = volume.data[0] if volume.channels == 1 else np.moveaxis(volume.data, 0, -1)
    if data.dtype == bool:
        data = data.astype(np.uint8)
    photometric = "minisblack" if volume.channels == 1 else "rgb"
    with replacing(path) as temporary:
        tifffile.imwrite(temporary, np.ascontiguousarray(data), photometric=photometric, compression="zlib")
    if volume.dims == 3 and volume.spacing != (1.0, 1.0, 1.0):
        with replacing(_sidecar(path)) as temporary:
            temporary.write_text(json.dumps({"spacing": list(volume.spacing)}), encoding="utf-8")


def _decode(path: Path, label: bool) -> np.ndarray:
    """Return [C, y, x] or [C, page, y, x]. Raises DataError with the reasons of both readers."""
    try:
        return _by_tifffile(path)
    except DataError:
        raise
    except Exception as error:  # a missing codec is a ValueError, a damaged tag may be anything
        try:
            return _by_pillow(path, label)
        except Exception as second:
            raise DataError(
                f"{path}: cannot be read (tifffile: {first_line(error)}; Pillow: {first_line(second)}); "
                "the file is damaged or its compression unknown: save it anew or leave it out"
            ) from second


def _by_tifffile(path: Path) -> np.ndarray:
    with tifffile.TiffFile(path) as file:
        series = file.series[0]
        data = series.asarray()
        spatial, channel = _roles(series.axes, series.shape, path)
        # Old scanners store black as the largest value; tifffile leaves that to its caller, Pillow does not.
        white_is_zero = series.keyframe.photometric == tifffile.PHOTOMETRIC.MINISWHITE
        name = "" if channel is None else series.axes[channel]
    order = (*(() if channel is None else (channel,)), *spatial)
    # What is neither channel nor space has length 1 (`_roles` saw to it) and falls away in the reshape.
    rest = [axis for axis in range(data.ndim) if axis not in order]
    data = data.transpose(*rest, *order).reshape([data.shape[axis] for axis in order])
    if white_is_zero:
        data = ~data
    return data[None] if channel is None else data[: _without_alpha(name, data.shape[0])]


def _by_pillow(path: Path, label: bool) -> np.ndarray:
    with Image.open(path) as picture:
        pages = []
        for number in range(getattr(picture, "n_frames", 1)):
            picture.seek(number)
            pages.append(pictures.pixels(picture, label))
    data = np.stack(pages) if len(pages) > 1 else pages[0]
    # [page, y, x, C] or [y, x, C] -> channels first.
    colour = data.ndim - (len(pages) > 1) == 3
    return np.moveaxis(data, -1, 0) if colour else data[None]


def _without_alpha(axis: str, channels: int) -> int:
    """Samples of a pixel (axis S) may hold alpha; stains or detectors (axis C) do not."""
    return {2: 1, 4: 3}.get(channels, channels) if axis == "S" else channels


def _roles(axes: str, shape: tuple[int, ...], path: Path) -> tuple[tuple[int, ...], int | None]:
    """Tell which axes of a series are spatial, and which is the channel. Raises DataError if there are too many."""
    channel = next((i for i, name in enumerate(axes) if name in "SC" and shape[i] > 1), None)
    plane = (axes.index("Y"), axes.index("X"))
    # Z, T, I or Q, as microscopes and writers call it: any one further axis is taken for depth.
    deep = [i for i in range(len(axes)) if i not in plane and i != channel and shape[i] > 1]
    if len(deep) > 1:
        raise DataError(f"{path}: axes {axes} of size {shape}; a case has 2 or 3, and one for channels: split the file")
    return (*deep, *plane), channel


def _spacing(path: Path, dims: int) -> tuple[float, ...]:
    side = _sidecar(path)
    if dims != 3 or not side.is_file():
        return (1.0,) * dims
    with decoding(side):
        stated: Any = json.loads(side.read_text(encoding="utf-8"))
        if not isinstance(stated, dict) or "spacing" not in stated:  # annotation tools keep JSON files of their own
            return (1.0,) * dims
        spacing = tuple(float(s) for s in stated["spacing"])
    if len(spacing) != dims or not all(0 < s < float("inf") for s in spacing):
        raise DataError(f"{side}: spacing {list(spacing)}; give {dims} positive numbers, one per axis of {path.name}")
    return spacing


def _sidecar(path: Path) -> Path:
    return path.with_suffix(".json")
