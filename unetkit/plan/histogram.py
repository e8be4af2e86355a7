"""How intensities spread, over any number of voxels in constant memory and without sampling.

Voxels are counted in bins of the float32 number line: the bit pattern, turned so that its order is that of the
values, without its last 12 bits. That is 2^20 bins at most; whole numbers below 4096 have one each, beyond a bin is
2^-11 of its value wide. Each bin keeps the smallest and the largest value it met, so that one which met a single value
says it exactly. Two histograms add up bin by bin, in whatever order.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

_DROPPED_BITS = 12
_CHUNK = 1 << 22
_FAR_OUT = 50
_PENDING = 1 << 18
"""Bins that wait before they are added up; sorting few large heaps is cheaper than many small ones."""


@dataclass(frozen=True)
class Moments:
    """Weight, mean, sum of squared deviations from it, smallest and largest of some values."""

    weight: float = 0.0
    mean: float = 0.0
    squares: float = 0.0
    low: float = np.inf
    high: float = -np.inf

    @property
    def std(self) -> float:
        """Deviation of all values, divided by their number."""
        return float(np.sqrt(self.squares / self.weight)) if self.weight else 0.0

    def __add__(self, other: Moments) -> Moments:
        # Chan, Golub and LeVeque 1983: pairwise, so that no sum of squares ever cancels.
        weight = self.weight + other.weight
        if not weight:
            return self
        apart, share = other.mean - self.mean, other.weight / weight
        return Moments(
            weight,
            self.mean + apart * share,
            self.squares + other.squares + apart * apart * self.weight * share,
            min(self.low, other.low),
            max(self.high, other.high),
        )

    def weighing(self, weight: float) -> Moments:
        """Return the same values with another total weight."""
        return replace(self, weight=weight, squares=self.squares * weight / self.weight)


def moments(values: np.ndarray) -> Moments:
    """Return the moments of an array of any shape, in float64 and a few megabytes of memory."""
    total = Moments()
    # In the order of memory, which spares a copy of Fortran-ordered volumes.
    flat = values.ravel(order="K")
    for start in range(0, flat.size, _CHUNK // 16):
        stored = flat[start : start + _CHUNK // 16]
        part = stored.astype(np.float64)
        mean = float(part.mean())
        part -= mean
        # Not part @ part: a product would go to the threads of BLAS, of which every reading thread has as many.
        np.square(part, out=part)
        total += Moments(float(part.size), mean, float(part.sum()), float(stored.min()), float(stored.max()))
    return total


@dataclass(frozen=True, eq=False)
class Histogram:
    """The bins that are not empty, ascending: numbers uint32 [N], weights float64, smallest and largest value float32.

    `moments` are those of the values themselves and not of the bins.
    """

    bins: np.ndarray
    weights: np.ndarray
    lows: np.ndarray
    highs: np.ndarray
    moments: Moments

    def weighing(self, weight: float) -> Histogram:
        """Return the same spread with another total weight."""
        scaled = self.weights * (weight / self.moments.weight)
        return replace(self, weights=scaled, moments=self.moments.weighing(weight))

    def quantiles(self, shares: Sequence[float]) -> list[float]:
        """Return the values below which these shares (0..1) of the weight lie, linear between the ends of a bin."""
        reached = np.cumsum(self.weights)
        wanted = np.asarray(shares) * reached[-1]
        found = np.minimum(np.searchsorted(reached, wanted), len(reached) - 1)
        within = 1 - (reached[found] - wanted) / self.weights[found]
        low, high = (ends[found].astype(np.float64) for ends in (self.lows, self.highs))
        return [float(value) for value in low + (high - low) * np.clip(within, 0, 1)]

    def bars(self, low: float, high: float, number: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return edges and shares of the weight of at most so many bars from `low` to `high`, for a drawing.

        Over whole numbers they hold equally many each, as the drawing would otherwise have a comb of its own making.
        Where a few values lie far out, bars grow wider with the distance from the median.
        """
        first, median, third = self.quantiles((0.25, 0.5, 0.75))
        width = third - first
        if high - low > _FAR_OUT * width > 0:
            # evenly spaced in asinh, which is linear within the middle half of the values and a logarithm beyond it
            ends = [float(np.arcsinh((end - median) / width)) for end in (low, high)]
            edges = median + width * np.sinh(np.linspace(ends[0], ends[1], number + 1))
        elif (self.lows == np.rint(self.lows)).all() and (self.highs == np.rint(self.highs)).all():
            step = max(1.0, np.ceil((high - low + 1) / number))
            edges = np.arange(np.floor(low) - 0.5, high + step, step)
        else:
            edges = np.linspace(low, high if high > low else low + 1, number + 1)
        middles = (self.lows.astype(np.float64) + self.highs) / 2
        heights = np.histogram(middles, edges, weights=self.weights)[0] / self.weights.sum()
        return tuple(edges.tolist()), tuple(heights.tolist())


EMPTY = Histogram(
    np.zeros(0, np.uint32), np.zeros(0, np.float64), np.zeros(0, np.float32), np.zeros(0, np.float32), Moments()
)


def histogram(values: np.ndarray) -> Histogram:
    """Return the histogram of finite values [N], each of weight 1."""
    return added(_count(values[start : start + _CHUNK]) for start in range(0, values.size, _CHUNK))


def _count(values: np.ndarray) -> Histogram:
    # numpy's stable sort of short whole numbers is a radix sort, ten times as fast as comparing where a processor
    # has no instructions for it. The zero that is added makes -0 the same as 0.
    ordered = np.sort(values, kind="stable" if values.itemsize < 4 else "quicksort").astype(np.float32) + np.float32(0)
    numbers = _bin_numbers(ordered)
    starts = np.flatnonzero(np.concatenate(([True], numbers[1:] != numbers[:-1])))
    ends = np.append(starts[1:], len(ordered))
    weights = (ends - starts).astype(np.float64)
    return Histogram(numbers[starts], weights, ordered[starts], ordered[ends - 1], moments(ordered))


def _bin_numbers(values: np.ndarray) -> np.ndarray:
    bits = values.view(np.uint32)
    # IEEE 754: the patterns of positive numbers ascend, those of negative ones descend and have the top bit set.
    return np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31)) >> np.uint32(_DROPPED_BITS)


def added(histograms: Iterable[Histogram]) -> Histogram:
    """Return the sum of histograms, holding no more of them at a time than make up a full one."""
    total, pending = EMPTY, []
    for one in histograms:
        pending.append(one)
        if sum(len(part.bins) for part in pending) > _PENDING:
            total, pending = _sum([total, *pending]), []
    return _sum([total, *pending])


def _sum(parts: Sequence[Histogram]) -> Histogram:
    parts = [part for part in parts if len(part.bins)]
    if len(parts) < 2:
        return parts[0] if parts else EMPTY
    bins = np.concatenate([part.bins for part in parts])
    order = np.argsort(bins, kind="stable")
    bins = bins[order]
    starts = np.flatnonzero(np.concatenate(([True], bins[1:] != bins[:-1])))
    weights, lows, highs = (
        add.reduceat(np.concatenate([getattr(part, name) for part in parts])[order], starts)
        for name, add in (("weights", np.add), ("lows", np.minimum), ("highs", np.maximum))
    )
    return Histogram(bins[starts], weights, lows, highs, sum((part.moments for part in parts), Moments()))
