"""What the implementations of the selective scan share: their inputs and the size of the states they keep."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

CHUNK = 64
"""Tokens from one state that is kept to the next: kept states take N / CHUNK of what an input takes."""

LOG2E = 1 / math.log(2)
"""exp(x) is computed as 2^(x LOG2E): on CPUs where torch has no fast exp it is ten times faster, nowhere slower."""


class ScanInputs(NamedTuple):
    """What `selective_scan` was given, B and C [B, G, N, L] with their axis of groups."""

    u: Tensor
    delta: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor | None
    z: Tensor | None
    delta_bias: Tensor | None
    softplus: bool
    reverse: bool

    @property
    def dtype(self) -> torch.dtype:
        """What arithmetic and states are in: fp32, or fp64 if an input is."""
        return working_dtype(*self[:8])

    @property
    def states(self) -> tuple[int, int, int, int, int]:
        """Shape of the states kept, those before each chunk: [chunks, B, G, N, D / G]."""
        batch, channels, length = self.u.shape
        groups = self.B.shape[1]
        return -(-length // CHUNK), batch, groups, self.A.shape[1], channels // groups


def working_dtype(*tensors: Tensor | None) -> torch.dtype:
    """Return fp64 if a tensor is fp64, else fp32."""
    double = any(t is not None and t.dtype == torch.float64 for t in tensors)
    return torch.float64 if double else torch.float32


class SsdInputs(NamedTuple):
    """What `ssd` was given."""

    x: Tensor
    dt: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor | None
    chunk: int

    @property
    def dtype(self) -> torch.dtype:
        """What arithmetic and states are in: fp32, or fp64 if an input is."""
        return working_dtype(*self[:6])

    @property
    def states(self) -> tuple[int, int, int, int, int]:
        """Shape of the states kept, those before each chunk: [chunks, B, G, N, H / G * P]."""
        batch, length, heads, width = self.x.shape
        groups, states = self.B.shape[2:]
        return -(-length // self.chunk), batch, groups, states, heads // groups * width
