"""From the network's grid back to the case's own: labels and probabilities, slab by slab.

A slab is logits fp32 [K, rows, *rest]: some rows of one prepared axis, that axis first, in order. Whatever is written
goes through a view of the result that has the prepared orientation, so that flip, transposition and crop are exact
and nothing is held twice.

Interpolation is linear, which is a mean of corners: where all corners of a cell have the same winning class, everything
within has it too. Only the other cells are interpolated, as a list of points, so that labels cost little more than
one look at each logit. Products and sums are separate operations in one fixed order, whether they are done for a
list or for whole rows: both are equal to the bit.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from unetkit.data.preprocess import Geometry, oriented
from unetkit.data.resample import linear_taps, nearest_index
from unetkit.errors import ShapeError
from unetkit.plan.plan import Plan
from unetkit.types import IGNORE

# Where more voxels than this share lie in mixed cells (an untrained network), whole rows cost less than a list.
_DENSE = 0.25
# Worked on at a time: voxels of a label map, values of probabilities; voxels and points that stay in a CPU's cache.
_VOXELS, _VALUES, _CACHED, _POINTS = 1 << 22, 1 << 24, 1 << 15, 1 << 14
# A GPU wants few and large steps.
_GPU_FACTOR = 64
# Stands in a label map for a cell whose corners disagree; no class has this number.
_MIXED = IGNORE

Decide = Callable[[Iterable[Tensor]], Tensor]
"""Takes the logits of the channels, one after the other, to labels uint8."""


@dataclass(frozen=True, eq=False)
class Taps:
    """Where the samples of one axis of the result lie between those of the network's grid.

    Sample i is (1 - share[i]) x[low[i]] + share[i] x[high[i]]; `low` and `high` are the same where share is 0.
    """

    low: np.ndarray
    high: np.ndarray
    share: np.ndarray

    @property
    def exact(self) -> bool:
        """Whether every sample is one of the network's grid."""
        return bool((self.low == self.high).all())

    def part(self, samples: slice, offset: int = 0) -> Taps:
        """Return the taps of some samples, with the network's grid counted from `offset`."""
        return Taps(self.low[samples] - offset, self.high[samples] - offset, self.share[samples])


@dataclass(frozen=True)
class Band:
    """A part of the result, `columns` of prepared axis `axis`, and the `region` of the network's grid it is made of."""

    axis: int
    columns: slice
    region: slice


def bands(geometry: Geometry, axis: int, count: int) -> list[Band]:
    """Divide the result along a prepared axis into at most `count` bands of nearly the same size."""
    taps = _grid_taps(geometry, linear=True)[axis]
    size = len(taps.low)
    edges = sorted({round(i * size / count) for i in range(count + 1)})
    # Bands meet between two rows of the network's grid, both of which either side needs.
    return [
        Band(axis, slice(start, stop), slice(int(taps.low[start]), int(taps.high[stop - 1]) + 1))
        for start, stop in pairwise(edges)
    ]


class Restored(ABC):
    """An array `result` [N, *S] on the input's grid that is made of slabs of logits along prepared axis `axis`."""

    def __init__(self, result: np.ndarray, geometry: Geometry, axis: int, *, linear: bool) -> None:
        self.result, self.axis = result, axis
        window = tuple(slice(start, stop) for start, stop in geometry.box)
        # A view: what is written here lands in its place on the input's grid.
        view = oriented(result, geometry.axes, geometry.flips)[(slice(None), *window)]
        self._view = np.moveaxis(view, axis + 1, 1)
        self._taps = list(_grid_taps(geometry, linear=linear))
        self._taps.insert(0, self._taps.pop(axis))

    def writer(self, band: Band | None = None) -> Writer:
        """Return what takes the slabs of a band, or of everything, from the first row to the last."""
        taps, view = list(self._taps), self._view
        if band is not None:
            # Axes before `axis` stand one place further back in a slab.
            place = band.axis + (band.axis < self.axis)
            taps[place] = taps[place].part(band.columns, band.region.start)
            view = view[(slice(None),) * (place + 1) + (band.columns,)]
        return Writer(self._write, taps, view)

    @abstractmethod
    def _write(self, block: Tensor, taps: Sequence[Taps], out: np.ndarray) -> None:
        """Fill `out` [N, *M] with what follows from logits [K, *P] at the taps of each axis of P."""


class LabelMap(Restored):
    """Encoded labels uint8 [L, *S] on the input's grid: class indices, or 0/1 per region (or for all instances).

    The largest logit wins, on ties the lower class; a region is where the sigmoid is above a half. What had been
    cropped away is 0. With `nearest` labels are decided on the network's grid, and each voxel takes the nearest.
    """

    def __init__(self, geometry: Geometry, plan: Plan, *, axis: int = 0, nearest: bool = False) -> None:
        self.sigmoid = plan.labels.sigmoid
        result = np.zeros((plan.labels.class_layers, *geometry.input_shape), np.uint8)
        super().__init__(result, geometry, axis, linear=not nearest)

    def _write(self, block: Tensor, taps: Sequence[Taps], out: np.ndarray) -> None:
        for layer, labels in enumerate(out):
            if self.sigmoid:
                _decide(block[layer : layer + 1], taps, _positive, labels)
            else:
                _decide(block, taps, _winner, labels)


class ChanceMap(Restored):
    """Probabilities float32 [K, *S] on the input's grid; of instances the second is no probability but the distance.

    Softmax or sigmoid comes after the interpolation, so that the largest is the predicted class. What had been cropped
    away is background for certain.
    """

    def __init__(self, geometry: Geometry, plan: Plan, *, axis: int = 0) -> None:
        self.sigmoid = plan.labels.sigmoid
        result = np.zeros((plan.labels.num_outputs, *geometry.input_shape), np.float32)
        if not self.sigmoid:
            result[0] = 1
        super().__init__(result, geometry, axis, linear=True)

    def _write(self, block: Tensor, taps: Sequence[Taps], out: np.ndarray) -> None:
        for rows, part in _row_parts(taps, _VALUES // len(block)):
            logits = torch.stack([_interpolated(channel, part) for channel in block])
            chances = logits.sigmoid_() if self.sigmoid else logits.softmax(0)
            out[:, rows] = chances.cpu().numpy()


class Writer:
    """Takes slabs in order, and passes on each row of the result once all that it is made of is there."""

    def __init__(
        self, write: Callable[[Tensor, Sequence[Taps], np.ndarray], None], taps: Sequence[Taps], out: np.ndarray
    ) -> None:
        self._write, self._taps, self._out = write, taps, out
        self._seen = self._done = 0
        self._last: Tensor | None = None

    def add(self, slab: Tensor) -> None:
        """Take the next rows of logits [K, rows, *rest]; they are not needed any more afterwards.

        Raises ShapeError if [*rest] is not the prepared shape.
        """
        rows, *rest = self._taps
        self._check(slab)
        start, stop = self._seen, self._seen + slab.shape[1]
        # Rows of the result between the slab before and this one, then those within this one.
        between, ready = int(np.searchsorted(rows.low, start)), int(np.searchsorted(rows.high, stop))
        between = min(between, ready)
        if self._done < between and self._last is not None:
            pair = torch.stack([self._last, slab[:, 0]], 1)
            self._pass_on(pair, rows.part(slice(self._done, between), start - 1), rest)
        if self._done < ready:
            # Lists of points index each channel as one row of memory.
            block = slab if slab[0].is_contiguous() else slab.contiguous()
            self._pass_on(block, rows.part(slice(self._done, ready), start), rest)
        self._seen = stop
        waiting = self._done < len(rows.low) and rows.low[self._done] < stop
        self._last = slab[:, -1].clone() if waiting else None

    def _pass_on(self, block: Tensor, rows: Taps, rest: Sequence[Taps]) -> None:
        count = len(rows.low)
        self._write(block, [rows, *rest], self._out[:, self._done : self._done + count])
        self._done += count

    def _check(self, slab: Tensor) -> None:
        needed = [int(taps.high[-1]) + 1 for taps in self._taps]
        given = [self._seen + slab.shape[1], *slab.shape[2:]]
        # A coarser result may leave out the last row or column.
        if len(given) != len(needed) or any(a < b for a, b in zip(given[1:], needed[1:], strict=True)):
            raise ShapeError(f"slab of logits {tuple(slab.shape)}: the prepared grid after rows is {needed[1:]}")


def nearest_labels(labels: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Return labels [L, *P] of the network's grid on the input's, [L, *S]: those of the nearest voxel, or 0 outside."""
    result = np.zeros((len(labels), *geometry.input_shape), labels.dtype)
    window = tuple(slice(start, stop) for start, stop in geometry.box)
    rows = [taps.low for taps in _grid_taps(geometry, linear=False)]
    view = oriented(result, geometry.axes, geometry.flips)[(slice(None), *window)]
    view[...] = labels[np.ix_(np.arange(len(labels)), *rows)]
    return result


def _grid_taps(geometry: Geometry, *, linear: bool) -> tuple[Taps, ...]:
    """Return the taps of each prepared axis: linear but for the axis that was resampled apart, or nearest for all."""
    return tuple(
        _axis_taps(size, new, linear and axis != geometry.separate, geometry.corners)
        for axis, (size, new) in enumerate(zip(geometry.shape, geometry.cropped_shape, strict=True))
    )


def _axis_taps(size: int, new_size: int, linear: bool, corners: bool) -> Taps:
    if linear and size != new_size:
        return Taps(*linear_taps(size, new_size, corners))
    nearest = nearest_index(size, new_size, corners)
    return Taps(nearest, nearest, np.zeros(new_size))


def _row_parts(taps: Sequence[Taps], most: int) -> Iterator[tuple[slice, list[Taps]]]:
    """Divide the rows of a result so that no part has more than `most` voxels, but for one row."""
    rows, *rest = taps
    step = max(1, most // max(1, int(np.prod([len(t.low) for t in rest]))))
    for start in range(0, len(rows.low), step):
        part = slice(start, start + step)
        yield part, [rows.part(part), *rest]


def _winner(channels: Iterable[Tensor]) -> Tensor:
    """Index of the largest channel; on ties the lower one, as in torch.argmax, whose speed across channels is poor."""
    rest = iter(channels)
    best = next(rest).float().clone()
    winner = torch.zeros(best.shape, dtype=torch.uint8, device=best.device)
    for number, channel in enumerate(rest, start=1):
        ahead = channel > best
        torch.maximum(best, channel.float(), out=best)
        # A later winner has the larger number.
        torch.maximum(winner, ahead.view(torch.uint8) * number, out=winner)
    return winner


def _positive(channels: Iterable[Tensor]) -> Tensor:
    # sigmoid(x) > 0.5 is x > 0.
    (channel,) = channels
    return (channel > 0).to(torch.uint8)


def _decide(block: Tensor, taps: Sequence[Taps], decide: Decide, out: np.ndarray) -> None:
    """Write the labels [*M] of logits [K, *P] at the taps of each axis of P."""
    first = int(taps[0].low[0])
    block = block[:, first : int(taps[0].high[-1]) + 1]
    taps = [taps[0].part(slice(None), first), *taps[1:]]
    cells = _cells(block, taps, decide)
    large = _GPU_FACTOR if block.is_cuda else 1
    for rows, part in _row_parts(taps, _VOXELS * large):
        labels = cells
        for axis, of_axis in enumerate(part):
            labels = _picked(labels, axis, of_axis.low)
        labels = labels.contiguous()
        mixed = (labels.view(-1) == _MIXED).nonzero()[:, 0]
        if len(mixed) > _DENSE * labels.numel():
            labels = decide(_interpolated(channel, part) for channel in block)
        else:
            for points in mixed.split(_POINTS * large):
                labels.view(-1)[points] = decide(_at_points(block, part, points))
        out[rows] = labels.cpu().numpy()


def _cells(block: Tensor, taps: Sequence[Taps], decide: Decide) -> Tensor:
    """Return labels [*P] of the cells that begin at each voxel of logits [K, *P], `_MIXED` where corners disagree."""
    step = max(1, _CACHED * (_GPU_FACTOR if block.is_cuda else 1) // max(1, block[0, 0].numel()))
    labels = torch.cat([decide(iter(rows)) for rows in block.split(step, 1)])
    least, most = labels, labels
    for axis, of_axis in enumerate(taps):
        if not of_axis.exact:
            least, most = (_with_next(x, axis, f) for x, f in ((least, torch.minimum), (most, torch.maximum)))
    return labels.masked_fill(least != most, _MIXED)


def _with_next(labels: Tensor, axis: int, combine: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    size = labels.shape[axis]
    inner = combine(labels.narrow(axis, 0, size - 1), labels.narrow(axis, 1, size - 1))
    return torch.cat([inner, labels.narrow(axis, size - 1, 1)], axis)


def _picked(values: Tensor, axis: int, index: np.ndarray) -> Tensor:
    if np.array_equal(index, np.arange(values.shape[axis])):
        return values
    return values.index_select(axis, torch.from_numpy(index).to(values.device))


def _interpolated(channel: Tensor, taps: Sequence[Taps]) -> Tensor:
    """Return a channel [*P] at all taps, fp32 [*M]."""
    values = channel.float()
    for axis, of_axis in enumerate(taps):
        if of_axis.exact:
            values = _picked(values, axis, of_axis.low)
            continue
        shape = [-1 if a == axis else 1 for a in range(values.ndim)]
        keep, share = (x.view(shape) for x in _shares(of_axis, values.device))
        low, high = (torch.from_numpy(x).to(values.device) for x in (of_axis.low, of_axis.high))
        values = _blend(values.index_select(axis, low), values.index_select(axis, high), keep, share)
    return values


def _at_points(block: Tensor, taps: Sequence[Taps], points: Tensor) -> Iterator[Tensor]:
    """Yield the channels of logits [K, *P] at points, numbers into the voxels [*M] of the taps: each fp32 [N]."""
    device = block.device
    index: list[Tensor] = [torch.zeros_like(points)]
    shares: list[list[Tensor]] = []
    rest = points
    for axis in reversed(range(len(taps))):
        # place along the axis; torch.unravel_index would import two seconds' worth of symbolic mathematics
        place, rest = rest % len(taps[axis].low), torch.div(rest, len(taps[axis].low), rounding_mode="floor")
        stride = block[0].stride(axis)
        low, high = (torch.from_numpy(x * stride).to(device)[place] for x in (taps[axis].low, taps[axis].high))
        if taps[axis].exact:
            index = [i + low for i in index]
        else:
            # Corners that differ in this axis alone lie side by side; the first axis comes last, and is blended first.
            index = [corner for i in index for corner in (i + low, i + high)]
            shares.insert(0, [x[place] for x in _shares(taps[axis], device)])
    for channel in block:
        flat = channel.reshape(-1)
        values = [flat.index_select(0, i).float() for i in index]
        for keep, share in shares:
            values = [_blend(a, b, keep, share) for a, b in zip(values[::2], values[1::2], strict=True)]
        yield values[0]


def _shares(taps: Taps, device: torch.device) -> list[Tensor]:
    return [torch.from_numpy(x.astype(np.float32)).to(device) for x in (1 - taps.share, taps.share)]


def _blend(low: Tensor, high: Tensor, keep: Tensor, share: Tensor) -> Tensor:
    # Fused forms (lerp, addcmul) round differently in vectors and in what remains of them.
    return low.mul_(keep).add_(high.mul_(share))
