"""The two mixing layers of Vision-RWKV on tokens [B, N, C]: over all tokens, and over channels (arXiv:2403.02308)."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unetkit.blocks.attention import DropPath
from unetkit.blocks.scan import bi_wkv


def quad_shift(x: Tensor) -> Tensor:
    """Move groups of the channels of a map [B, C, *S] by one voxel each, forth and back along each axis; zeros come in.

    The last axis comes first, and channels that do not divide into the groups stay.
    """
    axes = range(x.ndim - 1, 1, -1)
    groups = 2 * len(axes)
    bounds = [x.shape[1] * i // groups for i in range(groups + 1)]
    moved = []
    for i, (start, stop) in enumerate(pairwise(bounds)):
        axis, forth = axes[i // 2], i % 2 == 0
        # F.pad counts from the last axis
        padding = [0, 0] * (x.ndim - 1 - axis) + ([1, -1] if forth else [-1, 1])
        moved.append(F.pad(x[:, start:stop], padding))
    return torch.cat(moved, 1)


class SpatialMix(nn.Module):
    """Let tokens average the values of all others by key and distance, under a gate of their own (bi-WKV).

    Keys, values and gates are made from tokens and their neighbours, mixed channel by channel.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.decay = nn.Parameter(torch.zeros(channels))
        self.first = nn.Parameter(torch.zeros(channels))
        self.mix_key, self.mix_value, self.mix_gate = (_half(channels) for _ in range(3))
        self.key, self.value, self.gate, self.out = (nn.Linear(channels, channels, bias=False) for _ in range(4))
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor, shifted: Tensor) -> Tensor:
        """Map tokens and their neighbours, both [B, N, C], to [B, N, C]."""
        k = self.key(_between(shifted, x, self.mix_key))
        v = self.value(_between(shifted, x, self.mix_value))
        gate = self.gate(_between(shifted, x, self.mix_gate)).sigmoid()
        return self.out(gate * self.norm(bi_wkv(k, v, self.decay, self.first)))


class ChannelMix(nn.Module):
    """Two linear layers over the channels of each token with the square of a ReLU between them, under a gate."""

    def __init__(self, channels: int, ratio: int) -> None:
        super().__init__()
        self.mix_key, self.mix_gate = (_half(channels) for _ in range(2))
        self.key = nn.Linear(channels, ratio * channels, bias=False)
        self.norm = nn.LayerNorm(ratio * channels)
        self.gate = nn.Linear(channels, channels, bias=False)
        self.value = nn.Linear(ratio * channels, channels, bias=False)

    def forward(self, x: Tensor, shifted: Tensor) -> Tensor:
        """Map tokens and their neighbours, both [B, N, C], to [B, N, C]."""
        # the square of a large half overflows: it is taken in fp32
        hidden = self.key(_between(shifted, x, self.mix_key)).relu()
        hidden = self.norm(hidden.to(self.norm.weight.dtype).square())
        return self.gate(_between(shifted, x, self.mix_gate)).sigmoid() * self.value(hidden)


class MixBranch(nn.Module):
    """Add to a map [B, C, *S] what one of these layers makes of its voxels and their `quad_shift`, after a norm."""

    def __init__(self, mix: SpatialMix | ChannelMix, channels: int, drop_path: float) -> None:
        super().__init__()
        self.mix = mix
        self.norm = nn.LayerNorm(channels)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, *S] to the same shape."""
        tokens, shifted = (t.flatten(2).transpose(1, 2) for t in (x, quad_shift(x)))
        tokens = tokens + self.drop_path(self.norm(self.mix(tokens, shifted)))
        return tokens.transpose(1, 2).reshape(x.shape)


def _between(shifted: Tensor, x: Tensor, share: Tensor) -> Tensor:
    # torch.lerp refuses the mixed precisions of autocast
    return shifted + share * (x - shifted)


def _half(channels: int) -> nn.Parameter:
    return nn.Parameter(torch.full((1, 1, channels), 0.5))
