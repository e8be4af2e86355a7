"""Where the classes of a case are, so that a patch on foreground is drawn without looking at a single voxel."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from unetkit.data.streams import LOCATIONS, random_stream
from unetkit.types import IGNORE

_KEEP = 10_000
_KEEP_SHARE = 0.01


@dataclass(frozen=True, eq=False)
class Locations:
    """Where each class of a case is: flat indices into *S of a random part of its voxels, and how many there are.

    `voxels` and `counts` are keyed by class 1..K (or region number from 1). `annotated` holds voxels that
    are not IGNORE, or is None if none is ignored.
    """

    shape: tuple[int, ...]
    voxels: dict[int, np.ndarray]
    counts: dict[int, int]
    annotated: np.ndarray | None = None

    def draw(self, rng: np.random.Generator, balance: bool) -> tuple[int, ...] | None:
        """Return a foreground voxel, its class drawn uniformly (`balance`) or by size; None without foreground."""
        if not self.voxels:
            return None
        classes = sorted(self.voxels)
        sizes = np.array([self.counts[c] for c in classes], float)
        # By class first: else large organs would take all foreground patches from small ones.
        chosen = classes[rng.integers(len(classes)) if balance else rng.choice(len(classes), p=sizes / sizes.sum())]
        return self._voxel(self.voxels[chosen], rng)

    def draw_annotated(self, rng: np.random.Generator) -> tuple[int, ...] | None:
        """Return a voxel that is not ignored, or None where that is no restriction."""
        return None if self.annotated is None else self._voxel(self.annotated, rng)

    def _voxel(self, flat: np.ndarray, rng: np.random.Generator) -> tuple[int, ...]:
        return tuple(int(i) for i in np.unravel_index(flat[rng.integers(len(flat))], self.shape))


def find_locations(label: np.ndarray, *, regions: bool = False) -> Locations:
    """Index an encoded label uint8 [L, *S]: per class 10 000 voxels or 1 %, whichever is more (nnU-Net's rule)."""
    rng = random_stream(LOCATIONS, 0)
    voxels, counts = {}, {}
    for number, found in _by_class(label, regions):
        if len(found):
            counts[number] = len(found)
            voxels[number] = _some(found, rng)
    ignored = (label == IGNORE).any(axis=0)
    annotated = _some(np.flatnonzero(~ignored), rng) if ignored.any() and not ignored.all() else None
    return Locations(label.shape[1:], voxels, counts, annotated)


def _by_class(label: np.ndarray, regions: bool) -> Iterator[tuple[int, np.ndarray]]:
    """Yield each class (or region number from 1) with the flat indices of its voxels, in ascending order."""
    if regions:
        yield from ((number + 1, np.flatnonzero(channel == 1)) for number, channel in enumerate(label))
        return
    flat = label[0].ravel()
    # Most of a volume is background: one pass finds the rest, and the classes share that.
    labelled = np.flatnonzero(flat)
    values = flat[labelled]
    for number in np.flatnonzero(np.bincount(values, minlength=256)):
        if number != IGNORE:
            yield int(number), labelled[values == number]


def _some(flat: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    keep = min(len(flat), max(_KEEP, int(len(flat) * _KEEP_SHARE)))
    if keep < len(flat):
        flat = np.sort(flat[rng.choice(len(flat), keep, replace=False)])
    return flat.astype(np.uint32) if flat[-1] < 2**32 else flat
