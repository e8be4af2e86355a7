"""PNG, JPEG, BMP and GIF through Pillow; 16-bit colour PNG through OpenCV, as Pillow would drop half of its bits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from unetkit.data.formats.files import Peek, decoding, replacing, suffix_of
from unetkit.errors import DataError
from unetkit.types import Volume

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif")
_GREY_TOLERANCE = 8  # JPEG turns equal channels into nearly equal ones
_COLOURS = {"RGB": 3, "RGBA": 3, "RGBX": 3, "CMYK": 3, "YCbCr": 3, "HSV": 3, "LAB": 3, "PA": 3, "P": 3}


def read(path: Path, label: bool) -> Volume:
    """Read as [C, y, x]: grey or colour without alpha. Masks give one channel, 1-bit masks as bool.

    Orientation tags of cameras are not followed, because masks are drawn on the stored pixels.
    """
    with decoding(path):
        deep = _is_deep_colour(path)
        with Image.open(path) as picture:
            data = _deep_colour(path) if deep else pixels(picture, label)
    if label and data.ndim == 3:
        data = one_channel(data, path)
    data = data[None] if data.ndim == 2 else np.moveaxis(data, -1, 0)
    return Volume(data, (1.0, 1.0), None, str(path))


def peek(path: Path) -> Peek:
    """Tell channels and shape from the header, without decoding."""
    with decoding(path), Image.open(path) as picture:
        channels = 1 if picture.mode == "P" and _has_grey_palette(picture) else _COLOURS.get(picture.mode, 1)
        return Peek(channels, (picture.height, picture.width))


def write(volume: Volume, path: Path) -> None:
    """Write [1 or 3, y, x] of 8 or 16 bit (colour: 8) as PNG or BMP.

    Raises DataError for volumes, fractions, negative or large values, and for formats that change values.
    """
    if suffix_of(path) not in (".png", ".bmp"):
        raise DataError(f"{path}: this format changes values or colours; write .png or .tif instead")
    if volume.dims != 2 or volume.channels not in (1, 3):
        raise DataError(
            f"{path}: [C, *S] of {tuple(volume.data.shape)} is no picture; a PNG holds 1 or 3 channels of 2 axes: "
            "write .nii.gz or .tif instead"
        )
    data = volume.data[0] if volume.channels == 1 else np.moveaxis(volume.data, 0, -1)
    data = _storable(data, path, deep=volume.channels == 1 and suffix_of(path) == ".png")
    with replacing(path) as temporary:
        Image.fromarray(np.ascontiguousarray(data)).save(temporary)


def pixels(picture: Image.Image, label: bool) -> np.ndarray:
    """Decode one Pillow frame to [y, x] or [y, x, 3]."""
    if picture.mode == "P" and (label or _has_grey_palette(picture)):
        # A coloured palette of a mask only paints the class numbers, which are the indices.
        return np.array(picture.convert("L") if _has_grey_palette(picture) else picture)
    if picture.mode in _COLOURS and picture.mode != "RGB":
        picture = picture.convert("RGB")
    # Grey with alpha.
    elif picture.mode in ("LA", "La"):
        picture = picture.convert("L")
    return np.array(picture)


def one_channel(data: np.ndarray, path: Path) -> np.ndarray:
    """Return the grey map [y, x] of a mask stored as colour [y, x, C]. Raises DataError if it is truly coloured."""
    colours = data[..., :3].astype(np.int32)
    spread = int((colours.max(-1) - colours.min(-1)).max()) if data.size else 0
    if spread > _GREY_TOLERANCE:
        raise DataError(
            f"{path}: a coloured mask; the colours carry no class numbers: save one channel with one value per class"
        )
    return data[..., 0]


def _has_grey_palette(picture: Image.Image) -> bool:
    # Only colours that occur count: encoders fill the rest of the table with anything.
    palette = np.asarray(picture.getpalette("RGB") or [], dtype=np.int32).reshape(-1, 3)
    indices = np.flatnonzero(picture.histogram())
    used = palette[indices[indices < len(palette)]]
    return bool(len(used)) and bool((used == used[:, :1]).all())


def _is_deep_colour(path: Path) -> bool:
    """Look at bit depth and colour type, which stand at fixed places of a PNG header."""
    with path.open("rb") as file:
        head = file.read(26)
    return head[:4] == b"\x89PNG" and len(head) == 26 and head[24] == 16 and head[25] in (2, 6)


def _deep_colour(path: Path) -> np.ndarray:
    import cv2

    # By way of memory: OpenCV's own file reading fails on names beyond ASCII on some systems.
    data = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    if data is None:
        raise DataError(f"{path}: OpenCV cannot decode this 16-bit colour PNG; save it anew or leave it out")
    return data[..., 2::-1]  # BGR or BGRA -> RGB


def _storable(data: np.ndarray, path: Path, deep: bool) -> np.ndarray:
    """Return uint8, or uint16 where `deep` allows it."""
    if data.dtype.kind not in "bui":
        raise DataError(f"{path}: {data.dtype} values; a PNG holds whole numbers: round them or write .tif or .nii.gz")
    low, high = (int(data.min()), int(data.max())) if data.size else (0, 0)
    largest = 65535 if deep else 255
    if low < 0 or high > largest:
        raise DataError(f"{path}: values {low} to {high}; this file holds 0 to {largest}: write .tif or .nii.gz")
    return data.astype(np.uint16 if high > 255 or (data.dtype == np.uint16 and deep) else np.uint8)
