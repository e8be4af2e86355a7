"""Which part of which case a training sample shows: a pure function of seed, step and place in the batch.

Cases are chosen uniformly with replacement, or, in a pass, each case (or slice) once an epoch in an order that
the epoch shuffles. Patches of a batch's tail are centred on foreground (nnU-Net, doi:10.1038/s41592-020-01008-z).
Nothing is remembered between samples, so any step can be made first, and by any process.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from unetkit.data.locations import Locations, find_locations
from unetkit.data.preprocess import Prepared
from unetkit.data.streams import ORDER, PATCHES, random_stream
from unetkit.errors import DataError
from unetkit.types import IGNORE

PAD_VALUE = 0.0
"""Intensity outside an image, after normalisation; the same as in sliding windows."""


@dataclass(frozen=True)
class Patch:
    """A part of a case: `start` voxel per patch axis (negative where it reaches out of the image).

    `plane`: slice of the first axis, for two-dimensional patches of volumes.
    """

    case: int
    plane: int | None
    start: tuple[int, ...]


@dataclass(frozen=True)
class SamplingRule:
    """How samples are drawn.

    `oversample`: share of a batch's patches that are centred on foreground; `balance`: their class is drawn before
    their voxel. `every`: each epoch is a pass over all cases (or slices), in whole multiples of `accumulate` batches.
    """

    patch_size: tuple[int, ...]
    batch_size: int
    seed: int
    oversample: float
    balance: bool
    regions: bool
    every: bool
    accumulate: int = 1


class PatchSampler:
    """Draws patches of `cases`; `draw(step, index)` depends on nothing but its arguments, the cases and the rule."""

    def __init__(self, cases: Sequence[Prepared], rule: SamplingRule) -> None:
        self.cases = cases
        self.rule = rule
        self._locations: dict[int, Locations] = {}
        self.slices = cases[0].data.ndim - 1 > len(rule.patch_size)
        # A pass over slices has to know how many there are; otherwise no case but the first is touched here.
        counted = rule.every and self.slices
        self._ends = np.cumsum([case.data.shape[1] for case in cases] if counted else [1] * len(cases))

    @property
    def items(self) -> int:
        """Samples of a pass: the cases, or the slices where patches are slices of volumes."""
        return int(self._ends[-1])

    @property
    def batches_per_epoch(self) -> int:
        """Batches that show every item once; the last ones are filled up from the start of the epoch's order."""
        rule = self.rule
        return -(-self.items // (rule.batch_size * rule.accumulate)) * rule.accumulate

    def choose(self, step: int, index: int) -> tuple[int, int | None]:
        """Return the case of a sample, and its slice where a pass over slices settles that; reads no voxel."""
        rule = self.rule
        if not rule.every:
            return int(self._stream(step, index).integers(len(self.cases))), None
        epoch, batch = divmod(step, self.batches_per_epoch)
        # The last batch wraps around to the epoch's first items, so that all batches have one size.
        order = _shuffled(rule.seed, epoch, self.items)
        item = int(order[(batch * rule.batch_size + index) % self.items])
        # `_ends` are cumulated slice counts: the first end beyond the item is its case.
        case = int(np.searchsorted(self._ends, item, side="right"))
        plane = item - int(self._ends[case - 1] if case else 0)
        return case, plane if self.slices else None

    def draw(self, step: int, index: int) -> Patch:
        """Return the patch of sample `index` of batch `step`."""
        case, plane = self.choose(step, index)
        rng = self._stream(step, index)
        rng.integers(len(self.cases))  # the number that `choose` takes
        prepared = self.cases[case]
        shape = prepared.data.shape[1:]
        target = self._target(case, prepared, plane, index, rng)
        if self.slices:
            if plane is None:
                plane = target[0] if target else int(rng.integers(shape[0]))
            target = target[1:] if target else None
            shape = shape[1:]
        centres = target or (None,) * len(shape)
        sizes = zip(shape, self.rule.patch_size, centres, strict=True)
        return Patch(case, plane, tuple(_start(n, p, centre, rng) for n, p, centre in sizes))

    def _target(
        self, case: int, prepared: Prepared, plane: int | None, index: int, rng: np.random.Generator
    ) -> tuple[int, ...] | None:
        """Return the voxel of the whole case that the patch has to hold, or None for any place."""
        forced = self._forced(index, rng)
        if prepared.label is None:
            return None
        if plane is None:
            known = self._known(case, prepared, prepared.label)
        # A patch that covers the whole slice holds its foreground anyway.
        elif forced and any(n > p for n, p in zip(prepared.data.shape[2:], self.rule.patch_size, strict=True)):
            known = find_locations(prepared.label[:, plane : plane + 1], regions=self.rule.regions)
        else:
            return None
        found = known.draw(rng, self.rule.balance) if forced else None
        return found or known.draw_annotated(rng)

    def _known(self, case: int, prepared: Prepared, label: np.ndarray) -> Locations:
        if prepared.locations is not None:
            return prepared.locations
        if case not in self._locations:
            self._locations[case] = find_locations(label, regions=self.rule.regions)
        return self._locations[case]

    def _forced(self, index: int, rng: np.random.Generator) -> bool:
        """The last samples of a batch hold foreground; a batch of one draws instead."""
        size, share = self.rule.batch_size, self.rule.oversample
        # nnU-Net's rule: sample j is forced iff j >= round(size (1 - share)), one of two at 0.33.
        return bool(rng.random() < share) if size == 1 else index >= round(size * (1 - share))

    def _stream(self, step: int, index: int) -> np.random.Generator:
        return random_stream(PATCHES, self.rule.seed, step, index)


@lru_cache(maxsize=2)
def _shuffled(seed: int, epoch: int, items: int) -> np.ndarray:
    return random_stream(ORDER, seed, epoch).permutation(items)


def _start(size: int, patch: int, centre: int | None, rng: np.random.Generator) -> int:
    if patch >= size:
        # Smaller than the patch: centred, padding on both sides.
        return -((patch - size) // 2)
    if centre is None:
        return int(rng.integers(size - patch + 1))
    # nnU-Net lets the patch reach out at the far border; inside it sees more of the image.
    return min(max(centre - patch // 2, 0), size - patch)


def cut(prepared: Prepared, patch: Patch, start: Sequence[int], size: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Copy a box of a case: image float32 [C, *size] and label uint8 [L, *size], padded where it leaves the case.

    What is outside has PAD_VALUE and IGNORE. nnU-Net counts that label as background; here it teaches nothing, since
    prediction cuts it away unseen. Codes of soft labels come below the label, and last the map of a cascade's earlier
    stage, [2 L, *size] or [3 L, *size]; outside it knows of no class. Raises DataError for a case without label.
    """
    image, label = prepared.data, prepared.label
    if label is None:
        raise DataError(f"case '{prepared.id}' has no label; training needs one for every case")
    maps = [(label, IGNORE), (prepared.soft, IGNORE), (prepared.previous, 0)]
    if patch.plane is not None:
        image = image[:, patch.plane]
        maps = [(None if a is None else a[:, patch.plane], fill) for a, fill in maps]
    found = [_box(array, start, size, fill, torch.uint8) for array, fill in maps if array is not None]
    return _box(image, start, size, PAD_VALUE, torch.float32), found[0] if len(found) == 1 else np.concatenate(found)


def _box(array: np.ndarray, start: Sequence[int], size: Sequence[int], fill: float, dtype: torch.dtype) -> np.ndarray:
    inside = [(max(s, 0), min(max(s + n, 0), limit)) for s, n, limit in zip(start, size, array.shape[1:], strict=True)]
    # Converted by torch, which takes float16 (see data/store) faster than numpy.
    source = torch.from_numpy(array[(slice(None), *(slice(a, b) for a, b in inside))])
    if source.shape[1:] == tuple(size):
        return source.to(dtype, copy=True, memory_format=torch.contiguous_format).numpy()
    out = torch.full((len(array), *size), fill, dtype=dtype)
    if all(a < b for a, b in inside):
        out[(slice(None), *(slice(a - s, b - s) for (a, b), s in zip(inside, start, strict=True)))] = source
    return out.numpy()
