"""Rearrangements without weights: voxels become channels, channels become voxels, channels move along an axis."""

from collections.abc import Sequence
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

SHIFTS = (-2, -1, 0, 1, 2)


def tokens_of(maps: Sequence[Tensor], channels: int) -> Tensor:
    """Read maps [B, *S, m C] as tokens [B, N, C]: m in a row for each voxel."""
    return torch.cat([m.reshape(len(m), -1, channels) for m in maps], 1)


def maps_of(tokens: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Cut tokens [B, N, C] into maps shaped like others, whose channels are multiples of C; undoes `tokens_of`."""
    counts = [prod(m.shape[1:]) // tokens.shape[-1] for m in like]
    return [part.reshape(m.shape) for part, m in zip(tokens.split(counts, 1), like, strict=True)]


def haar(x: Tensor, stride: Sequence[int]) -> Tensor:
    """Return the orthonormal Haar bands [B, N * C, *S / stride] of [B, C, *S] along the axes whose stride is 2.

    The band of averages comes first; the last axis varies fastest.
    """
    bands = [x]
    for axis, step in enumerate(stride, start=2):
        if step == 2:
            pairs = [band.unflatten(axis, (-1, 2)).unbind(axis + 1) for band in bands]
            bands = [half for a, b in pairs for half in ((a + b) / 2**0.5, (a - b) / 2**0.5)]
    return torch.cat(bands, 1)


def sub_pixels(x: Tensor, stride: Sequence[int]) -> Tensor:
    """Spread the channels of [B, C, *S] over blocks of `stride` voxels, the last axis running fastest.

    PyTorch's pixel_shuffle for any number of axes, each with its own stride (arXiv:1609.05158).
    """
    x = x.unflatten(1, (-1, *stride))  # [B, C, *stride, *S]
    dims = len(stride)
    order = [n for axis in range(dims) for n in (2 + dims + axis, 2 + axis)]  # each step behind its own axis
    x = x.permute(0, 1, *order)
    return x.reshape(*x.shape[:2], *(n * s for n, s in zip(x.shape[2::2], x.shape[3::2], strict=True)))


def shift(x: Tensor, axis: int) -> Tensor:
    """Move five groups of the channels of a map [B, *S, C] by -2 to 2 voxels along one axis; zeros come in.

    The axial shift of AS-MLP (arXiv:2107.08391).
    """
    reach, size = max(SHIFTS), x.shape[axis]
    # F.pad counts from the last axis
    padded = F.pad(x, [0, 0] * (x.ndim - 1 - axis) + [reach, reach])
    # chunk leaves the last group smaller where 5 does not divide, and the published weights know it so
    groups = padded.chunk(len(SHIFTS), -1)
    return torch.cat([g.narrow(axis, reach - step, size) for g, step in zip(groups, SHIFTS, strict=False)], -1)
