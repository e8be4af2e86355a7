"""Mamba-1 layers over tokens [B, N, C] (arXiv:2312.00752), in one direction or in three (SegMamba, arXiv:2401.13560).

Parameters are called as in mamba-ssm. Between the projections at both ends everything is fp32 whatever the autocast:
step sizes and decays rounded to halves are what turns the training of Mamba U-Nets to NaN.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from unetkit.blocks.precision import at_least_fp32, no_autocast
from unetkit.blocks.scan import causal_conv1d, interslice, interslice_inverse, selective_scan

STATE = 16
"""Numbers kept per channel."""
EXPAND = 2
WIDTH = 4
"""Tokens that the convolution before the scan sees."""
CHANNELS_PER_RANK = 16
STEPS = (1e-3, 1e-1)
"""Smallest and largest step size at the start."""
LEAST_STEP = 1e-4


def step_bias(*size: int) -> Tensor:
    """Draw what a step size is before its softplus: the inverse of log-uniform numbers within `STEPS`."""
    low, high = (math.log(step) for step in STEPS)
    step = torch.exp(torch.empty(size).uniform_(low, high)).clamp(min=LEAST_STEP)
    return step + torch.log(-torch.expm1(-step))


def step_weight(*size: int) -> Tensor:
    """Draw projections [..., D, R] to step sizes, scaled by their rank R."""
    bound = size[-1] ** -0.5
    return torch.empty(size).uniform_(-bound, bound)


def undecayed(start: Tensor) -> nn.Parameter:
    """Return a parameter that no optimiser decays."""
    parameter = nn.Parameter(start)
    parameter._no_weight_decay = True  # type: ignore[attr-defined]
    return parameter


def decay_logs(channels: int, states: int) -> nn.Parameter:
    """Return log(-A) [D, N] of the decays A = -1, ..., -N that every channel starts with."""
    return undecayed(torch.arange(1.0, states + 1).log().repeat(channels, 1))


class ScanBranch(nn.Module):
    """One walk over tokens: causal convolution, step sizes and gates from what it finds, the scan, the outer gate."""

    def __init__(self, inner: int, rank: int, *, state: int = STATE, width: int = WIDTH) -> None:
        super().__init__()
        self.conv1d = nn.Conv1d(inner, inner, width, groups=inner, padding=width - 1)
        self.x_proj = nn.Linear(inner, rank + 2 * state, bias=False)
        self.dt_proj = nn.Linear(rank, inner)
        self.A_log = decay_logs(inner, state)
        self.D = undecayed(torch.ones(inner))
        with torch.no_grad():
            self.dt_proj.weight.copy_(step_weight(inner, rank))
            self.dt_proj.bias.copy_(step_bias(inner))

    def walk(self, x: Tensor, z: Tensor, *, reverse: bool = False) -> Tensor:
        """Map x and its gate z, both [B, D, L], to [B, D, L] in fp32; `reverse` begins at the last token."""
        rank, state = self.dt_proj.in_features, self.A_log.shape[1]
        with no_autocast(x):
            x = causal_conv1d(
                at_least_fp32(x), self.conv1d.weight[:, 0], self.conv1d.bias, activation="silu", reverse=reverse
            )
            # products from the left keep tokens last, as the scan wants them
            step, B, C = (self.x_proj.weight @ x).split([rank, state, state], 1)
            return selective_scan(
                x,
                self.dt_proj.weight @ step,
                -torch.exp(self.A_log),
                B,
                C,
                self.D,
                z=at_least_fp32(z),
                delta_bias=self.dt_proj.bias,
                delta_softplus=True,
                reverse=reverse,
            )


class Mamba(ScanBranch):
    """Project tokens to `expand` times the channels and a gate, walk over them, project back."""

    def __init__(self, channels: int, *, state: int = STATE, width: int = WIDTH, expand: int = EXPAND) -> None:
        inner = expand * channels
        super().__init__(inner, math.ceil(channels / CHANNELS_PER_RANK), state=state, width=width)
        self.in_proj = nn.Linear(channels, 2 * inner, bias=False)
        self.out_proj = nn.Linear(inner, channels, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map [B, N, C] to the same shape."""
        x, z = (self.in_proj.weight @ tokens.transpose(1, 2)).chunk(2, 1)
        return self.out_proj(self.walk(x, z).transpose(1, 2))


class TriMamba(nn.Module):
    """Mamba that walks forward, backward and from slice to slice, three branches between the same projections.

    Its tokens are those of `slices` slices in a row, or of as many as the slowest axis of the map is long.
    """

    def __init__(
        self, channels: int, *, slices: int | None = None, state: int = STATE, width: int = WIDTH, expand: int = EXPAND
    ) -> None:
        super().__init__()
        inner, rank = expand * channels, math.ceil(channels / CHANNELS_PER_RANK)
        self.slices = slices
        self.in_proj = nn.Linear(channels, 2 * inner, bias=False)
        self.forward_branch = ScanBranch(inner, rank, state=state, width=width)
        self.backward_branch = ScanBranch(inner, rank, state=state, width=width)
        self.slice_branch = ScanBranch(inner, rank, state=state, width=width)
        self.out_proj = nn.Linear(inner, channels, bias=False)

    def forward(self, tokens: Tensor, size: Sequence[int]) -> Tensor:
        """Map tokens [B, N, C] of a map of `size` to the same shape. Raises ShapeError if slices do not divide it."""
        slices = self.slices or size[0]
        xz = self.in_proj.weight @ tokens.transpose(1, 2)
        x, z = xz.chunk(2, 1)
        across = self.slice_branch.walk(*interslice(xz, slices).chunk(2, 1))
        y = self.forward_branch.walk(x, z) + self.backward_branch.walk(x, z, reverse=True)
        return self.out_proj((y + interslice_inverse(across, slices)).transpose(1, 2))
