"""One slice of one case, with what was predicted and what is true, ready to be drawn."""

from __future__ import annotations

from dataclasses import dataclass

import nibabel as nib
import numpy as np

from unetkit.types import IGNORE, Volume, instance_numbers

# The anatomical direction in which rows and columns of a picture grow, for the axis that is cut: radiologists look
# from the feet and from the front, so that the patient's right is on the left, and sagittal slices face left.
_VIEWS = {"S": ("axial", "P", "L"), "A": ("coronal", "I", "L"), "R": ("sagittal", "I", "P")}
_OPPOSITE = {"R": "L", "L": "R", "A": "P", "P": "A", "S": "I", "I": "S"}
_SIDE = {"L": "the patient's right is on the left", "P": "anterior is on the left"}
_THICK = 1.5


@dataclass(frozen=True, eq=False)
class Picture:
    """A slice as it is looked at: rows go down, columns to the right.

    `image` is uint8 [H, W] or [H, W, 3]; `pred` and `ref` are encoded labels uint8 [L, H, W]; `spacing` is the
    size of a pixel (height, width) in mm; `view` says in words which slice it is and how it is turned. `objects` are
    numbers of predicted and of reference objects [2, H, W], 0 where there is none; None where they are not told apart.
    """

    image: np.ndarray
    pred: np.ndarray
    ref: np.ndarray
    spacing: tuple[float, float]
    view: str
    objects: np.ndarray | None = None


def take_picture(image: Volume, pred: np.ndarray, ref: np.ndarray, instances: bool = False) -> Picture:
    """Return the slice of a case with the most foreground in prediction or reference; a 2D image as it is.

    `pred` and `ref` are encoded labels uint8 [L, *S] on the image's grid, of `instances` or not. Volumes are cut along
    their thickest axis if it is clearly thicker than the others, else axially, and turned as radiologists look at them.
    """
    if not instances:
        return _taken(image, pred, ref, None)
    return _taken(image, pred[:1], ref[:1], np.stack([instance_numbers(encoded) for encoded in (pred, ref)]))


def _taken(image: Volume, pred: np.ndarray, ref: np.ndarray, objects: np.ndarray | None) -> Picture:
    if image.dims == 2:
        shown = np.moveaxis(image.data, 0, -1) if image.channels == 3 else image.data[0]
        return Picture(_grey(shown), pred, ref, (image.spacing[0], image.spacing[1]), "whole image", objects)
    axis, rows, columns, view = _directions(image)
    found = ((pred > 0) & (pred != IGNORE)) | ((ref > 0) & (ref != IGNORE))
    # Foreground of either map, so that a false alarm far from the organ can be the slice.
    amount = np.moveaxis(found.any(axis=0), axis, 0).reshape(image.shape[axis], -1).sum(axis=1)
    index = int(amount.argmax()) if amount.any() else image.shape[axis] // 2

    def cut(array: np.ndarray) -> np.ndarray:
        plane = np.take(array, index, axis=axis + 1)
        if rows[0] > columns[0]:
            plane = np.swapaxes(plane, 1, 2)
        return np.ascontiguousarray(plane[:, :: rows[1], :: columns[1]])

    where = f"{view[0]} slice {index + 1} of {image.shape[axis]}, {view[1]}"
    return Picture(
        _grey(cut(image.data[:1])[0]),
        cut(pred),
        cut(ref),
        (image.spacing[rows[0]], image.spacing[columns[0]]),
        where,
        None if objects is None else cut(objects),
    )


def _directions(image: Volume) -> tuple[int, tuple[int, int], tuple[int, int], tuple[str, str]]:
    """Return the axis to cut, (axis, step) of rows and of columns, and the name and the turn of the view."""
    # Anisotropic scans are sharp only across their thickest axis: the other planes would show stripes.
    thickest = int(np.argmax(image.spacing))
    thick = image.spacing[thickest] > _THICK * sorted(image.spacing)[1]
    if image.affine is None:
        axis = thickest if thick else 0
        rows, columns = (other for other in range(3) if other != axis)
        return axis, (rows, 1), (columns, 1), (f"axis {axis}", "orientation unknown")
    # For each direction the axis that runs along it, and whether it runs with it (1) or against it (-1).
    letters = nib.aff2axcodes(image.affine)
    along = {letter: (axis, 1) for axis, letter in enumerate(letters)}
    along |= {_OPPOSITE[letter]: (axis, -1) for axis, letter in enumerate(letters)}
    axis = thickest if thick else along["S"][0]
    name, down, right = next(view for letter, view in _VIEWS.items() if along[letter][0] == axis)
    return axis, along[down], along[right], (name, _SIDE[right])


def _grey(image: np.ndarray) -> np.ndarray:
    """Map intensities to 0..255 between the 0.5th and 99.5th percentile; 8-bit images stay."""
    if image.dtype == np.uint8:
        return image
    values = np.nan_to_num(image.astype(np.float32), posinf=0.0, neginf=0.0)
    # A metal implant or a bright vessel must not make the rest black.
    low, high = np.percentile(values, [0.5, 99.5])
    scaled = (values - low) / max(float(high - low), 1e-12)
    return (np.clip(scaled, 0, 1) * 255).round().astype(np.uint8)
