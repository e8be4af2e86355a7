"""A network over an image larger than its patch: overlapping windows, weighted by a Gaussian and averaged.

Windows are spread evenly, the last one flush with the border. Weights never fall below a thousandth of
their maximum, so that voxels seen by window corners alone keep their precision. Sums are fp32.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations, islice, product
from math import ceil

import torch
from torch import Tensor, nn
from torch.nn import functional

from unetkit.errors import ShapeError

WEIGHT_FLOOR = 1e-3
"""Smallest window weight, as a share of the largest."""
# Of the window's side, as nnU-Net has it: the next window's centre, at half a side, then has weight exp(-8).
_SIGMA = 1 / 8


@dataclass(frozen=True)
class WindowSettings:
    """How windows overlap and how the network is run on them.

    `overlap`: share of a window that its neighbour covers; `window_batch`: windows per forward pass;
    `mirror_axes`: axes of the patch over all of whose mirrored combinations the output is averaged;
    `dtype`: number format of the network (fp32: as it is); `channels_last`: memory layout of the windows.
    """

    overlap: float = 0.5
    window_batch: int = 1
    mirror_axes: tuple[int, ...] = ()
    dtype: torch.dtype = torch.float32
    channels_last: bool = False


def sliding_window(
    network: nn.Module, image: Tensor, patch_size: Sequence[int], num_outputs: int, settings: WindowSettings
) -> Tensor:
    """Return logits [K, *S], fp32, for an image [C, *S]; they lie where the image lies, the network may lie elsewhere.

    A 2D network runs on every slice along the first axis of a volume. An image smaller than the patch is
    padded with zeros on both sides for the network's eyes only. Raises ShapeError if dims do not fit.
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
    grid = [positions(n, p, settings.overlap) for n, p in zip(padded.shape[1:], window, strict=True)]
    boxes = [tuple(slice(s, s + p) for s, p in zip(start, window, strict=True)) for start in product(*grid)]
    forward = _Forward(network, image.device, slices, settings)
    # One window alone: its weights would cancel.
    if len(boxes) == 1:
        return forward(padded[None])[0][(slice(None), *inner)]
    return _blend(forward, padded, boxes, num_outputs, settings.window_batch)[(slice(None), *inner)]


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


def pad_to(image: Tensor, size: Sequence[int]) -> tuple[Tensor, tuple[slice, ...]]:
    """Pad [C, *S] with zeros, equally on both sides, to at least `size`; also return where the image lies in it."""
    missing = [max(p - n, 0) for n, p in zip(image.shape[1:], size, strict=True)]
    inner = tuple(slice(m // 2, m // 2 + n) for m, n in zip(missing, image.shape[1:], strict=True))
    if not any(missing):
        return image, inner
    sides = [side for m in reversed(missing) for side in (m // 2, m - m // 2)]  # torch counts from the last axis
    return functional.pad(image, sides), inner


def _blend(
    forward: _Forward, image: Tensor, boxes: Sequence[tuple[slice, ...]], num_outputs: int, batch: int
) -> Tensor:
    """Return the weighted mean of the windows' outputs."""
    window = tuple(s.stop - s.start for s in boxes[0])
    weights = gaussian(window, image.device)
    total = image.new_zeros((num_outputs, *image.shape[1:]), dtype=torch.float32)
    norm = image.new_zeros(image.shape[1:], dtype=torch.float32)
    for group in _batches(boxes, batch):
        logits = forward(torch.stack([image[(slice(None), *box)] for box in group]))
        # result(x) = sum_i w_i(x) f_i(x) / sum_i w_i(x); the floor keeps the denominator away from 0.
        for box, one in zip(group, logits, strict=True):
            total[(slice(None), *box)].addcmul_(one, weights)
            norm[box] += weights
    return total.div_(norm)


def _batches(boxes: Sequence[tuple[slice, ...]], size: int) -> Iterator[list[tuple[slice, ...]]]:
    rest = iter(boxes)
    while group := list(islice(rest, size)):
        yield group


class _Forward:
    """Windows [B, C, *window] to fp32 logits [B, K, *window]: slices, mirroring, precision and devices seen to."""

    def __init__(self, network: nn.Module, home: torch.device, slices: int, settings: WindowSettings) -> None:
        self.network, self.home, self.slices, self.settings = network, home, slices, settings
        parameter = next(network.parameters(), None)
        self.device = home if parameter is None else parameter.device
        # All subsets of the axes, the empty one first: 4 in 2D, 8 in 3D. Logits are averaged, not probabilities.
        axes = settings.mirror_axes
        self.flips = [c for n in range(len(axes) + 1) for c in combinations([a + 2 for a in axes], n)]

    def __call__(self, windows: Tensor) -> Tensor:
        if self.slices:
            windows = windows.squeeze(2)
        windows = windows.to(self.device, non_blocking=True)
        if self.settings.channels_last:
            layout = torch.channels_last if windows.ndim == 4 else torch.channels_last_3d
            windows = windows.contiguous(memory_format=layout)
        logits = self._run(windows)
        for flip in self.flips[1:]:
            logits += self._run(windows.flip(flip)).flip(flip)
        logits = (logits / len(self.flips)).to(self.home)
        return logits.unsqueeze(2) if self.slices else logits

    def _run(self, windows: Tensor) -> Tensor:
        with self._autocast():
            out = self.network(windows)
        return (out[0] if isinstance(out, tuple | list) else out).float()  # deep supervision: the finest one

    def _autocast(self) -> AbstractContextManager[object]:
        if self.settings.dtype is torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, self.settings.dtype)
