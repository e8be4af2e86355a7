"""What is done to predicted labels after the network: rules on components, in the order that a recipe gives them.

Keeping the largest component is nnU-Net's rule (doi:10.1038/s41592-020-01008-z); dropping components that are small
beside the smallest organ of the training set, and changing sides, are those of arXiv:2208.10791.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import prod

import numpy as np
from scipy import ndimage

from unetkit.errors import DataError, RecipeError, nearest
from unetkit.recipe.schema import PostprocessRule
from unetkit.types import Labels, Volume

Box = tuple[slice, ...]
Components = tuple[np.ndarray, np.ndarray]
"""The number of each voxel's component [*S], 0 outside, and the size of each component from 1 on."""


def check_rules(rules: Sequence[PostprocessRule], labels: Labels) -> None:
    """Raise RecipeError if a rule names a class that there is not."""
    for rule in rules:
        for name in rule.classes or ():
            if name not in labels.classes:
                raise RecipeError(
                    f"infer.postprocess: {rule.rule} of '{name}'{nearest(name, labels.classes)}; the classes are "
                    f"{', '.join(labels.classes)}"
                )


def postprocess(encoded: np.ndarray, rules: Sequence[PostprocessRule], labels: Labels, grid: Volume) -> np.ndarray:
    """Return encoded labels uint8 [L, *S] after all rules; what goes becomes background.

    `grid` is any Volume of the image's spacing and affine. Raises DataError for swap_sides without an affine.
    """
    if not rules:
        return encoded
    out = encoded.copy()
    for rule in rules:
        numbers = [labels.classes.index(name) + 1 for name in rule.classes or labels.classes]
        layers = _Layers(out, labels.regions)
        match rule.rule:
            case "keep_largest":
                _filter(layers, numbers, rule.together, lambda sizes: np.arange(len(sizes)) == sizes.argmax())
            case "drop_small":
                # in voxels, as components are counted; rounding must not drop one of exactly that size
                least = float(rule.smallest or 0) / prod(grid.spacing) * (1 - 1e-9)
                _filter(layers, numbers, rule.together, lambda sizes, least=least: sizes >= least)  # type: ignore[misc]
            case "fill_holes":
                for number in numbers:
                    _fill(layers, number)
            case "swap_sides":
                _swap(layers, numbers, grid)
    return out


class _Layers:
    """Encoded labels, looked at by the number of a class from 1 on; regions have a layer each, other classes share."""

    def __init__(self, encoded: np.ndarray, regions: bool) -> None:
        self.encoded, self.regions = encoded, regions
        self._boxes = [ndimage.find_objects(layer) for layer in encoded]

    def place(self, number: int) -> tuple[np.ndarray, int]:
        """Return the layer [*S] of a class, and the value that it has there."""
        return (self.encoded[number - 1], 1) if self.regions else (self.encoded[0], number)

    def box(self, number: int) -> Box | None:
        """Return where a class was when this was made; None for nowhere."""
        boxes, value = (self._boxes[number - 1], 1) if self.regions else (self._boxes[0], number)
        return boxes[value - 1] if value <= len(boxes) else None

    def mask(self, number: int, box: Box) -> np.ndarray:
        """Return where a class is within a box."""
        layer, value = self.place(number)
        return layer[box] == value

    def erase(self, number: int, box: Box, where: np.ndarray) -> None:
        """Make background of a class where a mask of the box is true."""
        layer, value = self.place(number)
        view = layer[box]
        view[where & (view == value)] = 0


def find(mask: np.ndarray) -> Components:
    """Number the components of a mask; voxels touch at faces, edges or corners."""
    # Ones everywhere: scipy alone would count faces only.
    numbered, _ = ndimage.label(mask, np.ones((3,) * mask.ndim))
    return numbered, np.bincount(numbered.ravel())[1:]


def _filter(
    layers: _Layers, numbers: Sequence[int], together: bool, chosen: Callable[[np.ndarray], np.ndarray]
) -> None:
    """Erase the components that `chosen`, called with their sizes, does not keep; of equal ones the first counts."""
    groups = [numbers] if together else [[number] for number in numbers]
    for group, box in _boxed(layers, groups):
        # In the box of what is looked at: a small organ in a large volume costs little.
        mask = np.logical_or.reduce([layers.mask(number, box) for number in group])
        numbered, sizes = find(mask)
        if len(sizes):
            kept = np.concatenate([[True], chosen(sizes)])  # component 0 is what is no component
            for number in group:
                layers.erase(number, box, ~kept[numbered])


def _boxed(layers: _Layers, groups: Sequence[Sequence[int]]) -> Iterator[tuple[Sequence[int], Box]]:
    for group in groups:
        boxes = [box for box in map(layers.box, group) if box is not None]
        if boxes:
            sides = zip(*boxes, strict=True)
            yield group, tuple(slice(min(s.start for s in side), max(s.stop for s in side)) for side in sides)


def _fill(layers: _Layers, number: int) -> None:
    """Give a class the background that it encloses on all sides; other classes keep theirs."""
    box = layers.box(number)
    if box is not None:
        layer, value = layers.place(number)
        view = layer[box]
        view[ndimage.binary_fill_holes(view == value) & (view == 0)] = value


def _swap(layers: _Layers, numbers: Sequence[int], grid: Volume) -> None:
    """Give components of [left, right] classes whose centre lies on the other side of the image to the other class."""
    if grid.affine is None:
        raise DataError(
            f"{grid.source or 'the image'}: infer.postprocess swap_sides needs to know where left is, and the file has "
            "no orientation; drop the rule"
        )
    # Row 0 of the affine gives the world's x of a voxel; it grows towards the patient's right (RAS+).
    row = np.asarray(grid.affine, float)[0]
    size = layers.encoded.shape[1:]
    middle = row[:3] @ ((np.asarray(size) - 1) / 2)
    moves = []
    for number, other, wrong in ((numbers[0], numbers[1], 1.0), (numbers[1], numbers[0], -1.0)):
        box = layers.box(number)
        if box is None:
            continue
        numbered, sizes = find(layers.mask(number, box))
        centres = np.asarray(ndimage.center_of_mass(numbered > 0, numbered, range(1, len(sizes) + 1)))
        x = (centres + [s.start for s in box]) @ row[:3] - middle if len(sizes) else np.zeros(0)
        across = np.concatenate([[False], x * wrong > 0])
        moves.append((number, other, box, across[numbered]))
    # after both were looked at: what changed sides must not be taken for the other class
    for number, other, box, where in moves:
        layers.erase(number, box, where)
        layer, value = layers.place(other)
        layer[box][where] = value
