"""Label maps painted over their image, in colours that colour-blind readers can tell apart."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from PIL import Image
from scipy.ndimage import binary_erosion, find_objects

from unetkit.errors import ShapeError
from unetkit.metrics.instances import match, overlap
from unetkit.report.picture import Picture
from unetkit.types import IGNORE

Colour = tuple[int, int, int]

# After Okabe and Ito, "Color universal design", 2008.
AGREEMENT: Colour = (86, 180, 233)
FALSE_POSITIVE: Colour = (213, 94, 0)
FALSE_NEGATIVE: Colour = (240, 228, 66)
WRONG_CLASS: Colour = (204, 121, 167)
ERROR_LEGEND: dict[str, Colour] = {
    "agreement": AGREEMENT,
    "false positive": FALSE_POSITIVE,
    "false negative": FALSE_NEGATIVE,
    "wrong class": WRONG_CLASS,
}
CLASS_COLOURS: tuple[Colour, ...] = (
    (86, 180, 233), (230, 159, 0), (0, 158, 115), (204, 121, 167), (240, 228, 66), (213, 94, 0), (0, 114, 178),
    (166, 118, 29), (148, 103, 189), (127, 201, 127), (251, 154, 153), (178, 178, 178), (106, 61, 154), (27, 120, 85),
)  # fmt: skip
UNMATCHED: Colour = (255, 255, 255)
"""Outline of a predicted object that agrees with none."""
_FILL, _ERROR_FILL, _CLASS_FILL, _DIM = 0.22, 0.7, 0.5, 0.35
_SHORTEST_SIDE, _LONGEST_SIDE = 400, 1000


def overlay(image: np.ndarray, pred: np.ndarray, ref: np.ndarray) -> np.ndarray:
    """Return the image with agreement and errors in colour, uint8 [H, W, 3].

    `image` is uint8 [H, W] or [H, W, 3] and is shown in grey; `pred` and `ref` are encoded labels uint8
    [L, H, W]. What is right has an outline and a light fill, errors are filled; ignored pixels are dimmed.
    Raises ShapeError if the sizes differ.
    """
    _check_sizes(image, pred, ref)
    # Regions are judged channel by channel: a pixel may be right in one and wrong in another, and errors go first.
    ignored = (pred == IGNORE) | (ref == IGNORE)
    p, r = ((array > 0) & ~ignored for array in (pred, ref))
    wrong = (pred != ref) & ~ignored
    more, fewer = (p & wrong).any(axis=0), (r & wrong).any(axis=0)
    right = (p & r & ~wrong).any(axis=0) & ~more & ~fewer
    canvas = _as_grey(image)
    canvas[ignored.all(axis=0)] *= _DIM
    blend(canvas, right, AGREEMENT, _FILL)
    blend(canvas, _outline(right), AGREEMENT, 1.0)
    blend(canvas, more & ~fewer, FALSE_POSITIVE, _ERROR_FILL)
    blend(canvas, fewer & ~more, FALSE_NEGATIVE, _ERROR_FILL)
    # For exclusive classes a mistaken class is too much of one and too little of the other.
    blend(canvas, more & fewer, WRONG_CLASS, _ERROR_FILL)
    return canvas.round().astype(np.uint8)


def paint_classes(image: np.ndarray, encoded: np.ndarray) -> np.ndarray:
    """Return the image in grey with every class in its colour, uint8 [H, W, 3]; later regions cover earlier ones.

    Raises ShapeError if the sizes differ.
    """
    _check_sizes(image, encoded, encoded)
    canvas = _as_grey(image)
    channels = encoded.shape[0]
    for channel in range(channels):
        for value in (int(v) for v in np.unique(encoded[channel]) if v not in (0, IGNORE)):
            number = channel if channels > 1 else value - 1
            mask = encoded[channel] == value
            blend(canvas, mask, class_colour(number), _CLASS_FILL)
            blend(canvas, _outline(mask), class_colour(number), 1.0)
    return canvas.round().astype(np.uint8)


def paint_objects(image: np.ndarray, objects: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the image in grey with predicted and with reference objects [2, H, W] in colours, uint8 [H, W, 3] each.

    A predicted object has the colour of the reference object that it agrees with by an IoU of at least a half; one that
    agrees with none has no fill. Touching objects have an outline each.
    """
    pred, ref = objects
    rows, columns = match(overlap(pred, ref).iou, 0.5)
    numbers, truth = (np.unique(array[array > 0]) for array in (pred, ref))
    colours = {int(number): CLASS_COLOURS[rank % len(CLASS_COLOURS)] for rank, number in enumerate(truth)}
    agreeing = {int(numbers[row]): colours[int(truth[column])] for row, column in zip(rows, columns, strict=True)}
    painted = (_painted(image, array, known) for array, known in ((pred, agreeing), (ref, colours)))
    return next(painted), next(painted)


def _painted(image: np.ndarray, numbers: np.ndarray, colours: Mapping[int, Colour]) -> np.ndarray:
    canvas = _as_grey(image)
    for number, box in enumerate(find_objects(numbers.astype(np.int32)), start=1):
        if box is None:
            continue
        mask, part = numbers[box] == number, canvas[box]
        if number in colours:
            blend(part, mask, colours[number], _CLASS_FILL)
        # its own border, also where another object begins
        inner = binary_erosion(mask, iterations=max(1, min(numbers.shape) // 300))
        blend(part, mask & ~inner, colours.get(number, UNMATCHED), 1.0)
    return canvas.round().astype(np.uint8)


def class_colour(number: int) -> Colour:
    """Return the colour of a class by its number from 0 on; after the last colour they begin anew."""
    return CLASS_COLOURS[number % len(CLASS_COLOURS)]


def blend(canvas: np.ndarray, mask: np.ndarray, colour: Colour, strength: float) -> None:
    """Mix a colour into the masked pixels of a float canvas [H, W, 3], in place; strength 1 covers them."""
    canvas[mask] = (1 - strength) * canvas[mask] + strength * np.asarray(colour)


def square_pixels(picture: Picture) -> Picture:
    """Return a picture with square pixels: enough of them for thin outlines, not more than a page can show."""
    height, width = picture.image.shape[:2]
    tall, wide = height * picture.spacing[0], width * picture.spacing[1]
    # mm of a shown pixel: the finer side of the file's pixels, finer if the picture were small, coarser if too large.
    pixel = max(min(*picture.spacing, min(tall, wide) / _SHORTEST_SIDE), max(tall, wide) / _LONGEST_SIDE)
    size = (max(1, round(tall / pixel)), max(1, round(wide / pixel)))
    if size == (height, width):
        return picture
    # Labels are not interpolated: each shown pixel takes the label of the one it lies in.
    rows, columns = ((np.arange(new) * old) // new for new, old in zip(size, (height, width), strict=True))
    image = np.asarray(Image.fromarray(picture.image).resize(size[::-1], Image.Resampling.BICUBIC))
    pred, ref = (labels[:, rows][:, :, columns] for labels in (picture.pred, picture.ref))
    objects = None if picture.objects is None else picture.objects[:, rows][:, :, columns]
    return Picture(image, pred, ref, (pixel, pixel), picture.view, objects)


def _check_sizes(image: np.ndarray, pred: np.ndarray, ref: np.ndarray) -> None:
    if not (pred.ndim == ref.ndim == 3 and image.shape[:2] == pred.shape[1:] and pred.shape == ref.shape):
        raise ShapeError(
            f"image {image.shape}, prediction {pred.shape} and reference {ref.shape} do not fit; "
            "give [H, W] or [H, W, 3] and twice [L, H, W]"
        )


def _as_grey(image: np.ndarray) -> np.ndarray:
    # Rec. 601 luma, Y = 0.299 R + 0.587 G + 0.114 B: colours are for the labels.
    luminance = image.astype(np.float64)
    if luminance.ndim == 3:
        luminance = luminance @ np.array([0.299, 0.587, 0.114])
    return np.repeat(luminance[..., None], 3, axis=-1)


def _outline(mask: np.ndarray) -> np.ndarray:
    """Return the rim of a mask, thicker in larger pictures, so that it stays visible when they are scaled down."""
    width = max(1, min(mask.shape) // 300)
    return mask & ~np.asarray(binary_erosion(mask, iterations=width, border_value=1))
