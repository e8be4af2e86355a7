"""The block of Vision-LSTM: a gated residual layer around the matrix memory of xLSTM (arXiv:2406.04303).

Scales of norms are stored less 1, as in the reference, so that weight decay pulls them to 1 and its weights fit.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unetkit.blocks.scan import causal_conv1d, mlstm

EXPANSION = 2
KERNEL = 4


class ScaleNorm(nn.Module):
    """Layer norm over [..., C], in `groups` of the channels, with a scale of 1 + weight and no shift."""

    def __init__(self, channels: int, groups: int = 1) -> None:
        super().__init__()
        self.groups = groups
        self.weight = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., C] to the same shape."""
        parts = x.unflatten(-1, (self.groups, -1))
        return F.layer_norm(parts, parts.shape[-1:]).flatten(-2) * (1 + self.weight)


class BlockLinear(nn.Module):
    """Linear layer on [..., C] that mixes `size` neighbouring channels at a time, without bias."""

    def __init__(self, channels: int, size: int, std: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(channels // size, size, size) * std)

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., C] to the same shape."""
        return torch.einsum("...hi,hoi->...ho", x.unflatten(-1, self.weight.shape[:2]), self.weight).flatten(-2)


class MatrixMemory(nn.Module):
    """The mLSTM of some heads: gates from queries, keys and values together, norm of each head's output."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.input_gate = nn.Linear(3 * channels, heads)
        self.forget_gate = nn.Linear(3 * channels, heads)
        self.norm = ScaleNorm(channels, heads)
        # open memories of different length at the start, whatever the input
        for gate in (self.input_gate, self.forget_gate):
            nn.init.zeros_(gate.weight)
        nn.init.normal_(self.input_gate.bias, std=0.1)
        self.forget_gate.bias.data = torch.linspace(3.0, 6.0, heads)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Map three of [B, N, C] to one."""
        together = torch.cat([q, k, v], -1)
        i, f = (gate(together).transpose(1, 2) for gate in (self.input_gate, self.forget_gate))
        # [B, H, N, C / H]
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (q, k, v))
        out: Tensor = self.norm(mlstm(q, k, v, i, f).transpose(1, 2).flatten(2))
        return out


class VisionLstmBlock(nn.Module):
    """Residual block on tokens [B, N, C], read from first to last: norm, mLSTM on twice the channels, gate.

    Queries and keys see the three tokens before theirs, values do not. Heads are as many as channels that the
    projections mix at a time: 4, or 2 where C does not divide by 4.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner, size = EXPANSION * channels, 2 if channels % 4 else 4
        std = math.sqrt(2 / (5 * channels))
        self.norm = ScaleNorm(channels)
        self.up = nn.Linear(channels, 2 * inner, bias=False)
        self.query, self.key, self.value = (BlockLinear(inner, size, std) for _ in range(3))
        self.conv = nn.Conv1d(inner, inner, KERNEL, groups=inner)
        self.memory = MatrixMemory(inner, size)
        self.learnable_skip = nn.Parameter(torch.ones(inner))
        self.down = nn.Linear(inner, channels, bias=False)
        nn.init.normal_(self.up.weight, std=std)
        nn.init.normal_(self.down.weight, std=2 / math.sqrt(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, N, C] to the same shape."""
        inner, gate = self.up(self.norm(x)).chunk(2, -1)
        seen = causal_conv1d(inner.transpose(1, 2), self.conv.weight[:, 0], self.conv.bias, "silu").transpose(1, 2)
        out = self.memory(self.query(seen), self.key(seen), self.value(inner))
        return x + self.down((out + self.learnable_skip * seen) * F.silu(gate))
