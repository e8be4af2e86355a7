"""Connected components of all classes at once, from runs of equal labels instead of voxels."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

MOST_RUNS = 1 << 22
"""Runs of a label map, beyond which it is noise rather than objects; finding components would take gigabytes."""


@dataclass(frozen=True, eq=False)
class Components:
    """One entry for each component: the label it is made of and its number of voxels."""

    labels: np.ndarray
    sizes: np.ndarray


def find_components(labels: np.ndarray, most_runs: int = MOST_RUNS) -> Components | None:
    """Return the components of each nonzero value of a label map [*S]; None for one of more runs than these.

    Voxels of one value that touch at a face, edge or corner belong together.
    """
    # Lines run along the axis that is contiguous in memory; which one it is does not matter to what touches what.
    turned = labels.transpose(sorted(range(labels.ndim), key=lambda axis: -abs(labels.strides[axis])))
    # A border of zeros: no run then reaches from one line into the next, and no neighbour lies outside.
    padded = np.pad(_cut(turned), 1)
    flat = padded.ravel()
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    values = flat[changes]
    # Every change begins a run, of background also, and the next change ends it.
    runs = np.flatnonzero(values)
    if len(runs) > most_runs:
        return None
    starts, values = changes[runs], values[runs]
    ends = np.append(changes, flat.size)[runs + 1]
    return _joined(starts, ends, values, padded.shape)


def _cut(labels: np.ndarray) -> np.ndarray:
    """Return the box of what is labelled; all of it if nothing is."""
    box = []
    for axis in range(labels.ndim):
        used = np.flatnonzero(labels.any(axis=tuple(a for a in range(labels.ndim) if a != axis)))
        box.append(slice(used[0], used[-1] + 1) if len(used) else slice(None))
    return labels[tuple(box)]


def _joined(starts: np.ndarray, ends: np.ndarray, values: np.ndarray, shape: tuple[int, ...]) -> Components:
    """Join runs [start, end) of neighbouring lines where they touch and have the same value."""
    strides = np.cumprod([1, *shape[:0:-1]])[::-1]  # voxels from one line (or plane) to the next
    pairs = [
        _touching(starts, ends, int(np.dot(step, strides[:-1])))
        for step in product((-1, 0, 1), repeat=len(shape) - 1)
        # each pair of lines once: the later one looks at the earlier one
        if step < (0,) * (len(shape) - 1)
    ]
    first, second = (np.concatenate(side) for side in zip(*pairs, strict=True)) if pairs else (np.zeros(0, int),) * 2
    alike = values[first] == values[second]
    first, second = first[alike], second[alike]
    links = coo_array((np.ones(len(first), bool), (first, second)), shape=(len(starts),) * 2)
    number, member = connected_components(links, directed=False)
    found = np.zeros(number, values.dtype)
    found[member] = values
    return Components(found, np.bincount(member, weights=ends - starts, minlength=number).astype(np.int64))


def _touching(starts: np.ndarray, ends: np.ndarray, offset: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the pairs of runs of which the second, moved back by `offset`, overlaps the first or meets its corner."""
    # In voxels counted through the whole array; the border keeps runs of other lines at a distance.
    low = np.searchsorted(ends, starts + offset, side="left")
    high = np.searchsorted(starts, ends + offset, side="right")
    counts = high - low
    first = np.repeat(np.arange(len(starts)), counts)
    # 0, 1, .. within each run's share of the pairs, added to its first neighbour
    within = np.arange(len(first)) - np.repeat(np.cumsum(counts) - counts, counts)
    return first, np.repeat(low, counts) + within
