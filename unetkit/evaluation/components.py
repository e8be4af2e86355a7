"""Label maps in numbers: what each component of a class measures, and how much of it is right."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from unetkit.infer.postprocess import find
from unetkit.types import IGNORE, Labels


@dataclass(frozen=True, eq=False)
class ClassParts:
    """One class of one case, in voxels that the truth says something of.

    `sizes` and `overlaps` have an entry per component: its voxels, and those that are right; `whole` are its voxels
    including ignored ones, `objects` the number of the object, of all classes together, that it is part of. `hole`
    are (voxels, right ones) that filling holes would add.
    """

    truth: int
    sizes: np.ndarray
    overlaps: np.ndarray
    whole: np.ndarray
    objects: np.ndarray
    hole: tuple[int, int]
    voxel: float

    @property
    def size(self) -> int:
        """Predicted voxels."""
        return int(self.sizes.sum())

    @property
    def overlap(self) -> int:
        """Predicted voxels that are right."""
        return int(self.overlaps.sum())

    @property
    def truth_mm3(self) -> float:
        """True volume."""
        return self.truth * self.voxel

    def dice(self, kept: np.ndarray | None = None) -> float:
        """Return the Dice with the components of a mask only; 1 if nothing is there in either."""
        size, overlap = (
            (self.size, self.overlap) if kept is None else (self.sizes[kept].sum(), self.overlaps[kept].sum())
        )
        return float(2 * overlap / (size + self.truth)) if size + self.truth else 1.0

    def filled(self) -> float:
        """Return the Dice with holes filled."""
        total = self.size + self.hole[0] + self.truth
        return float(2 * (self.overlap + self.hole[1]) / total) if total else 1.0

    def largest(self) -> np.ndarray:
        """Return which component is the largest, the first of equal ones."""
        return np.arange(len(self.whole)) == (self.whole.argmax() if len(self.whole) else 0)

    def at_least(self, mm3: float) -> np.ndarray:
        """Return which components are of at least this volume."""
        return self.whole * self.voxel >= mm3 * (1 - 1e-9)

    def only(self, kept: np.ndarray) -> ClassParts:
        """Return the class with the components of a mask only."""
        arrays = {name: getattr(self, name)[kept] for name in ("sizes", "overlaps", "whole", "objects")}
        return replace(self, **arrays)


@dataclass(frozen=True, eq=False)
class CaseParts:
    """All classes of one case; `largest_object` is the number of the largest object of all classes together."""

    id: str
    classes: tuple[ClassParts, ...]
    largest_object: int

    def of_largest_object(self) -> CaseParts:
        """Return the case with the components of its largest object only."""
        kept = (c.only(c.objects == self.largest_object) for c in self.classes)
        return replace(self, classes=tuple(kept))


def take_apart(
    case: str, predicted: np.ndarray, truth: np.ndarray, labels: Labels, voxel: float, *, counts_only: bool = False
) -> CaseParts:
    """Count the components of encoded labels [L, *S] against the truth [L, *S]; `voxel` is the volume of one in mm3.

    `counts_only` takes each class as a single component, without holes.
    """
    objects, largest = np.zeros(0), 0
    if not counts_only:
        objects, sizes = find(np.asarray((predicted > 0).any(axis=0)))
        largest = int(sizes.argmax()) + 1 if len(sizes) else 0
    parts = []
    for mask, right, valid, free in _masks(predicted, truth, labels):
        box = next(iter(ndimage.find_objects(mask.astype(np.uint8))), None)
        known = int(right.sum())
        if box is None:
            empty = np.zeros(0, np.int64)
            parts.append(ClassParts(known, empty, empty, empty, empty, (0, 0), voxel))
            continue
        mask, right, valid, free = mask[box], right[box], valid[box], free[box]
        if counts_only:
            one = np.array([int((mask & valid).sum())])
            parts.append(ClassParts(known, one, np.array([int((mask & right).sum())]), one, one, (0, 0), voxel))
            continue
        parts.append(_class(mask, right, valid, free, objects[box], known, voxel))
    return CaseParts(case, tuple(parts), largest)


def _class(
    mask: np.ndarray,
    right: np.ndarray,
    valid: np.ndarray,
    free: np.ndarray,
    objects: np.ndarray,
    known: int,
    voxel: float,
) -> ClassParts:
    numbered, whole = find(mask)
    number = len(whole)
    holes = ndimage.binary_fill_holes(mask) & free & valid
    return ClassParts(
        truth=known,
        sizes=np.bincount(numbered[valid], minlength=number + 1)[1:],
        overlaps=np.bincount(numbered[right], minlength=number + 1)[1:],
        whole=whole,
        # a component lies in one object as a whole, so that any of its voxels tells which
        objects=ndimage.maximum(objects, numbered, range(1, number + 1)).astype(np.int64),
        hole=(int(holes.sum()), int((holes & right).sum())),
        voxel=voxel,
    )


def _masks(
    predicted: np.ndarray, truth: np.ndarray, labels: Labels
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """Yield for each class where it is predicted, where it is true, where the truth is known, and what is free."""
    for number in range(len(labels.classes)):
        layer, value = (number, 1) if labels.regions else (0, number + 1)
        plane = predicted[layer]
        yield plane == value, truth[layer] == value, truth[layer] != IGNORE, plane == 0
