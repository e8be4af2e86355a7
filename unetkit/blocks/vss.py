"""Visual state-space blocks: scans that cross a map along every axis, both ways (VMamba, arXiv:2401.10166).

Maps are channels last, [B, *S, C]. Parameters are called as in VMamba, but for the convolution, which has no dims in
its name.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unetkit.blocks.attention import DropPath
from unetkit.blocks.init import linear_init
from unetkit.blocks.layers import Layers
from unetkit.blocks.mamba import CHANNELS_PER_RANK, EXPAND, STATE, decay_logs, step_bias, step_weight, undecayed
from unetkit.blocks.patches import PatchEmbed, PatchMerging
from unetkit.blocks.precision import at_least_fp32, no_autocast
from unetkit.blocks.scan import cross_merge, cross_orders, cross_scan, selective_scan
from unetkit.blocks.swin import rising


class CrossScan(nn.Module):
    """Project to twice the channels and a gate, convolve depthwise, walk through the map in all orders, project back.

    Of an image these are rows, columns and both reversed; of a volume six orders. Each has projections of its own.
    """

    def __init__(self, layers: Layers, channels: int, *, state: int = STATE, expand: int = EXPAND) -> None:
        super().__init__()
        inner, rank = expand * channels, math.ceil(channels / CHANNELS_PER_RANK)
        walks = len(cross_orders(layers.dims))
        self.in_proj = nn.Linear(channels, 2 * inner, bias=False)
        self.conv = layers.conv(inner, inner, groups=inner)
        bound = inner**-0.5  # as a linear layer starts
        self.x_proj_weight = nn.Parameter(torch.empty(walks, rank + 2 * state, inner).uniform_(-bound, bound))
        self.dt_projs_weight = nn.Parameter(step_weight(walks, inner, rank))
        self.dt_projs_bias = undecayed(step_bias(walks, inner))
        self.A_logs = decay_logs(walks * inner, state)
        self.Ds = undecayed(torch.ones(walks * inner))
        self.out_norm = nn.LayerNorm(inner)
        self.out_proj = nn.Linear(inner, channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, *S, C] to the same shape."""
        x, gate = self.in_proj(x).chunk(2, -1)
        x = F.silu(self.conv(x.movedim(-1, 1)))
        y = self.out_norm(self.cross(x).movedim(1, -1))
        return self.out_proj(y * F.silu(gate))

    def cross(self, x: Tensor) -> Tensor:
        """Scan a map [B, D, *S] in all orders and sum what they give, in fp32 whatever the autocast."""
        rank, state = self.dt_projs_weight.shape[2], self.A_logs.shape[1]
        with no_autocast(x):
            walks = cross_scan(at_least_fp32(x))  # [B, orders, D, L]
            step, B, C = (self.x_proj_weight @ walks).split([rank, state, state], 2)
            y = selective_scan(
                walks.flatten(1, 2),
                (self.dt_projs_weight @ step).flatten(1, 2),
                -torch.exp(self.A_logs),
                B,
                C,
                self.Ds,
                delta_bias=self.dt_projs_bias.flatten(),
                delta_softplus=True,
            )
            return cross_merge(y.unflatten(1, walks.shape[1:3]), x.shape[2:])


class VssBlock(nn.Module):
    """Norm and a cross scan beside a shortcut, under drop path; there is no MLP."""

    def __init__(self, layers: Layers, channels: int, drop_path: float = 0.0) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(channels)
        self.self_attention = CrossScan(layers, channels)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, *S, C] to the same shape."""
        return x + self.drop_path(self.self_attention(self.ln_1(x)))


class VssStage(nn.Module):
    """Blocks of one resolution, with the step that leads to it or away from it."""

    def __init__(
        self,
        layers: Layers,
        channels: int,
        rates: Sequence[float],
        *,
        upsample: nn.Module | None = None,
        downsample: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.upsample = upsample
        self.blocks = nn.Sequential(*[VssBlock(layers, channels, rate) for rate in rates])
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        """Enlarge a map [B, *S, C] if there is a step for it, and apply the blocks."""
        return self.blocks(x if self.upsample is None else self.upsample(x))


class VssEncoder(nn.Module):
    """Patches, then stages of cross scans with patch merging between them: VMamba without its classifier."""

    def __init__(
        self, layers: Layers, in_channels: int, width: int, depths: Sequence[int], *, patch: int, drop_path: float
    ) -> None:
        super().__init__()
        self.channels = tuple(width * 2**i for i in range(len(depths)))
        self.patch_embed = PatchEmbed(layers, in_channels, width, patch)
        steps = [PatchMerging(layers.dims, channels) for channels in self.channels[:-1]]
        self.layers = nn.ModuleList(
            VssStage(layers, channels, rates, downsample=step)
            for channels, rates, step in zip(self.channels, rising(drop_path, depths), [*steps, None], strict=True)
        )
        linear_init(self)

    def forward(self, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Return what enters and what leaves the blocks of each stage, both [B, *S, C], finest first."""
        x = self.patch_embed(x)
        entered, left = [], []
        for stage in self.layers:
            assert isinstance(stage, VssStage)
            entered.append(x)
            left.append(stage(x))
            x = left[-1] if stage.downsample is None else stage.downsample(left[-1])
        return entered, left


def falling(rate: float, depths: Sequence[int]) -> list[tuple[float, ...]]:
    """Return a drop path rate for each block of each level of a decoder, deepest first, from `rate` down to 0."""
    return [tuple(reversed(own)) for own in reversed(rising(rate, depths[::-1]))]
