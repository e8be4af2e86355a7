"""A network over an image larger than its patch: overlapping windows, weighted by a Gaussian and averaged.

Windows are spread evenly, the last one flush with the border. Weights never fall below a thousandth of
their maximum, so that voxels seen by window corners alone keep their precision. Sums are fp32. Windows go
along one axis, and rows of it that no later window reaches are handed on: what is held of all classes is a window's
thickness of the image.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import product
from math import ceil

import torch
from torch import Tensor, nn
from torch.nn import functional

from unetkit.errors import ShapeError
from unetkit.infer.forward import Forward, WindowSettings, batches

WEIGHT_FLOOR = 1e-3
"""Smallest window weight, as a share of the largest."""
# Of the window's side, as nnU-Net has it: the next window's centre, at half a side, then has weight exp(-8).
_SIGMA = 1 / 8

Box = tuple[slice, ...]


def sliding_window(
    network: nn.Module, image: Tensor, patch_size: Sequence[int], num_outputs: int, settings: WindowSettings
) -> Tensor:
    """Return logits [K, *S], fp32, for an image [C, *S]; see `window_slabs`."""
    out = image.new_empty((num_outputs, *image.shape[1:]), dtype=torch.float32)
    done = 0
    for slab in window_slabs(network, image, patch_size, num_outputs, settings):
        out[:, done : done + slab.shape[1]] = slab
        done += slab.shape[1]
    return out


def window_slabs(
    network: nn.Module,
    image: Tensor,
    patch_size: Sequence[int],
    num_outputs: int,
    settings: WindowSettings,
    *,
    axis: int = 0,
    region: Box | None = None,
) -> Iterator[Tensor]:
    """Yield the logits of an image [C, *S] by rows of `axis`, in order: fp32 [K, rows, *rest], with that axis first.

    A slab is valid until the next one is asked for. Sums lie where the image lies, the network may lie elsewhere. A 2D
    network runs on every slice along the first axis of a volume. An image smaller than the patch is padded with zeros
    on both sides for the network's eyes only. With `region` (a box of S) only that part is computed.
    Raises ShapeError if dims do not fit.
    """
    slices = image.ndim - 1 - len(patch_size)
    if slices not in (0, 1) or (slices and len(patch_size) != 2):
        raise ShapeError(
            f"image of shape {tuple(image.shape)} for a {len(patch_size)}D network: "
            f"it takes [C, *S] with {'2 or 3' if len(patch_size) == 2 else '3'} spatial axes"
        )
    # A slice is a window one voxel thick: one code for both.
    window = (1,) * slices + tuple(patch_size)
    padded, inner = pad_to(image, window)
    if region is not None:
        inner = tuple(slice(i.start + r.start, i.start + r.stop) for i, r in zip(inner, region, strict=True))
    boxes = _boxes(padded.shape[1:], window, settings.overlap, axis, inner)
    forward = Forward(network, image.device, slices, settings)
    # One window alone: its weights would cancel.
    if len(boxes) == 1:
        logits = forward(padded[(slice(None), *boxes[0])][None])[0]
        shifted = (slice(i.start - b.start, i.stop - b.start) for i, b in zip(inner, boxes[0], strict=True))
        yield logits[(slice(None), *shifted)].movedim(axis + 1, 1)
        return
    groups = list(batches(boxes, forward.at_once))
    rows = max(group[-1][axis].stop - group[0][axis].start for group in groups)
    sums = _Sums(num_outputs, inner, axis, rows, gaussian(window, image.device))
    for group in groups:
        # No window from here on reaches above the first one's start.
        yield from sums.finished(group[0][axis].start)
        logits = forward(torch.stack([padded[(slice(None), *box)] for box in group]))
        for box, one in zip(group, logits, strict=True):
            sums.add(box, one)
    yield from sums.finished(inner[axis].stop)


def positions(length: int, window: int, overlap: float) -> list[int]:
    """Return where windows start along an axis: as many as the overlap asks for, evenly spread, the last one flush."""
    # n = ceil((L - p) / ((1 - overlap) p)) + 1, then spread, where others keep the step and shift the last one.
    count = ceil((length - window) / (window * (1 - overlap))) + 1 if length > window else 1
    # a set, because steps of less than a voxel meet
    return sorted({round(i * (length - window) / max(count - 1, 1)) for i in range(count)})


@lru_cache(maxsize=8)
def gaussian(window: tuple[int, ...], device: torch.device) -> Tensor:
    """Return weights [*window], fp32, at most 1: Gaussian around the centre, sigma an eighth of each side, floored."""
    # Separable: the outer product of one curve per axis.
    weights = torch.ones(())
    for size in window:
        x = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
        weights = weights[..., None] * torch.exp(-0.5 * (x / (size * _SIGMA)) ** 2)
    weights = weights / weights.max()
    return weights.clamp(min=WEIGHT_FLOOR).float().to(device)


def pad_to(image: Tensor, size: Sequence[int]) -> tuple[Tensor, Box]:
    """Pad [C, *S] with zeros, equally on both sides, to at least `size`; also return where the image lies in it."""
    missing = [max(p - n, 0) for n, p in zip(image.shape[1:], size, strict=True)]
    inner = tuple(slice(m // 2, m // 2 + n) for m, n in zip(missing, image.shape[1:], strict=True))
    if not any(missing):
        return image, inner
    sides = [side for m in reversed(missing) for side in (m // 2, m - m // 2)]  # torch counts from the last axis
    return functional.pad(image, sides), inner


def _boxes(shape: Sequence[int], window: Sequence[int], overlap: float, axis: int, inner: Box) -> list[Box]:
    """Return the windows that touch `inner`, those that start first along `axis` first."""
    grid = [
        [slice(s, s + p) for s in positions(n, p, overlap) if s < part.stop and s + p > part.start]
        for n, p, part in zip(shape, window, inner, strict=True)
    ]
    # `product` turns its last wheel fastest; `axis` goes to the front and back to its place in each box.
    first = grid.pop(axis)
    return [(*rest[:axis], row, *rest[axis:]) for row, *rest in product(first, *grid)]


class _Sums:
    """Weighted sums of windows over the part `inner` of an image, of which `rows` along `axis` are held at a time."""

    def __init__(self, num_outputs: int, inner: Box, axis: int, rows: int, weights: Tensor) -> None:
        self.inner, self.axis, self.weights = inner, axis, weights
        rest = [s.stop - s.start for a, s in enumerate(inner) if a != axis]
        self.total = weights.new_zeros((num_outputs, rows, *rest))
        self.norm = weights.new_zeros((rows, *rest))
        self.first = inner[axis].start

    def add(self, box: Box, logits: Tensor) -> None:
        """Add a window's logits [K, *window], as far as they lie in the part that is asked for."""
        start = [self.first if a == self.axis else s.start for a, s in enumerate(self.inner)]
        common = [slice(max(b.start, i.start), min(b.stop, i.stop)) for b, i in zip(box, self.inner, strict=True)]
        source = tuple(slice(c.start - b.start, c.stop - b.start) for c, b in zip(common, box, strict=True))
        target = [slice(c.start - s, c.stop - s) for c, s in zip(common, start, strict=True)]
        target.insert(0, target.pop(self.axis))
        weights = self.weights[source].movedim(self.axis, 0)
        # result(x) = sum_i w_i(x) f_i(x) / sum_i w_i(x); the floor keeps the denominator away from 0.
        part = logits[(slice(None), *source)].movedim(self.axis + 1, 1)
        self.total[(slice(None), *target)].addcmul_(part, weights)
        self.norm[tuple(target)] += weights

    def finished(self, until: int) -> Iterator[Tensor]:
        """Yield the means of the rows before `until`, if any are left, and make room for others."""
        count = min(until, self.inner[self.axis].stop) - self.first
        if count <= 0:
            return
        yield self.total[:, :count].div_(self.norm[:count])
        self.first += count
        for sums in (self.total, self.norm[None]):
            _move_up(sums, count)


def _move_up(sums: Tensor, count: int) -> None:
    """Move rows [:, count:] to the front, and put zeros behind them."""
    rows = sums.shape[1]
    # By `count` rows at a time, since source and target must not overlap; nothing is allocated.
    for start in range(0, max(rows - count, 0), count):
        stop = min(start + count, rows - count)
        sums[:, start:stop] = sums[:, start + count : stop + count]
    sums[:, max(rows - count, 0) :] = 0
