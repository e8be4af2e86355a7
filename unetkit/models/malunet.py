"""MALUNet: a tiny U-Net of dilated gates, external attention, and skips that weigh each other (arXiv:2211.01784)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from unetkit.blocks.layers import Layers
from unetkit.blocks.pooled import GROUPS, SumDecoder, check_widths, light_init, light_layers, light_stages
from unetkit.blocks.unet import Heads
from unetkit.registry import ModelInfo, register
from unetkit.types import TaskShape

WIDTHS = (8, 16, 24, 32, 48, 64)
DILATIONS = (7, 5, 2, 1)
MEMORY = 4  # slots of the external memory per channel
TINY = 1e-9


def _separable(layers: Layers, in_channels: int, channels: int, kernel: int, act: nn.Module) -> nn.Module:
    """Return a depthwise convolution, norm, a pointwise convolution and an activation."""
    depthwise = layers.conv(in_channels, in_channels, kernel, groups=in_channels)
    return nn.Sequential(depthwise, layers.norm(in_channels), layers.conv(in_channels, channels, 1), act)


class DilatedGatedAttention(nn.Module):
    """Quarters of the channels each at their own dilation, mixed, then a gate between two receptive fields."""

    def __init__(self, layers: Layers, in_channels: int, channels: int) -> None:
        super().__init__()
        part = in_channels // GROUPS
        self.dilated = nn.ModuleList(
            layers.conv(part, part, padding=step, dilation=step, groups=part) for step in DILATIONS
        )
        self.mix = nn.Sequential(layers.norm(in_channels), layers.conv(in_channels, in_channels, 1), layers.act())
        self.gate = _separable(layers, in_channels, in_channels, 3, nn.Sigmoid())
        self.value = _separable(layers, in_channels, in_channels, 5, layers.act())
        self.out = _separable(layers, in_channels, channels, 3, layers.act())
        self.shortcut = layers.conv(in_channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, in_channels, *S] to [B, channels, *S]."""
        parts = [conv(part) for conv, part in zip(self.dilated, x.chunk(GROUPS, 1), strict=True)]
        x = self.mix(torch.cat(parts, 1))
        return self.out(self.gate(x) * self.value(x)) + self.shortcut(x)


class ExternalAttention(nn.Module):
    """Residual attention of all positions to a small learned memory (arXiv:2105.02358)."""

    def __init__(self, layers: Layers, channels: int) -> None:
        super().__init__()
        self.query = layers.conv(channels, channels, 1)
        self.keys = nn.Conv1d(channels, MEMORY * channels, 1, bias=False)
        self.values = nn.Conv1d(MEMORY * channels, channels, 1, bias=False)
        self.out = nn.Sequential(layers.conv(channels, channels, 1, bias=False), layers.norm(channels))
        self.act = layers.act()

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, *S] to the same shape."""
        scores = self.keys(self.query(x).flatten(2)).softmax(-1)  # [B, slots, N], over positions
        scores = scores / (TINY + scores.sum(1, keepdim=True))
        return self.act(x + self.out(self.values(scores).view(x.shape)))


def _attend_and_gate(layers: Layers, in_channels: int, channels: int) -> nn.Module:
    attention = ExternalAttention(layers, in_channels)
    return nn.Sequential(attention, DilatedGatedAttention(layers, in_channels, channels))


def _gate_and_attend(layers: Layers, in_channels: int, channels: int) -> nn.Module:
    return nn.Sequential(DilatedGatedAttention(layers, in_channels, channels), ExternalAttention(layers, channels))


class SpatialChannelBridge(nn.Module):
    """Weigh all skips [B, C, *S]: each by its own places, and their channels by those of all levels."""

    def __init__(self, layers: Layers, widths: Sequence[int]) -> None:
        super().__init__()
        self.places = layers.conv(2, 1, 7, padding=9, dilation=3)  # one for all levels
        self.across = nn.Conv1d(1, 1, 3, padding=1, bias=False)
        self.weights = nn.ModuleList(nn.Linear(sum(widths), width) for width in widths)

    def forward(self, skips: Sequence[Tensor]) -> list[Tensor]:
        """Return the weighed skips, finest first."""
        gates = [self.places(torch.cat([s.mean(1, keepdim=True), s.amax(1, keepdim=True)], 1)) for s in skips]
        placed = [gate.sigmoid() * s for gate, s in zip(gates, skips, strict=True)]
        summed = [p + s for p, s in zip(placed, skips, strict=True)]
        means = self.across(torch.cat([s.flatten(2).mean(2) for s in summed], 1)[:, None])[:, 0]  # [B, sum of C]
        scales = [layer(means).sigmoid() for layer in self.weights]
        return [
            scale.view(*scale.shape, *[1] * (u.ndim - 2)) * u + p
            for scale, u, p in zip(scales, summed, placed, strict=True)
        ]


class MALUNet(nn.Module):
    """Stages down, the bridge over all skips, steps up with the skips added, a head at half resolution."""

    def __init__(self, task: TaskShape, widths: Sequence[int]) -> None:
        super().__init__()
        layers = light_layers(task.dims)
        self.stages, steps = light_stages(layers, task.in_channels, widths, _attend_and_gate, _gate_and_attend)
        self.bridge = SpatialChannelBridge(layers, widths[:-1])
        self.decoder = SumDecoder(steps)
        self.heads = Heads(layers, widths[:1], task.num_classes)
        self.enlarge = layers.up(task.num_classes, task.num_classes)
        light_init(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map an image [B, C, *S] to logits [B, K, *S]."""
        *skips, x = self.stages(x)
        return self.enlarge(self.heads(self.decoder([*self.bridge(skips), x])))


@register(
    ModelInfo(
        title="MALUNet",
        family="cnn",
        year=2022,
        paper="2211.01784",
        dims=(2, 3),
        multiple=32,
        multiple_by={"widths": 1},
        source=("github:JCruan519/MALUNet", "e184b47", "none stated"),
        params={2: 177943},
        params_at={2: (3, 1, (256, 256))},
        gflops={2: 0.1655},
        activation_mb={2: 20.92},
        notes="the largest dilation meets the first channels, as in the code, which also starts both memories of an "
        "attention as one tensor, while here they are drawn apart; 3D by the same rules",
    )
)
def malunet(task: TaskShape, *, widths: Sequence[int] = WIDTHS) -> nn.Module:
    """Build MALUNet of `widths` channels per level; the two deepest share a resolution.

    Raises ModelError if 4 groups do not divide the widths.
    """
    check_widths(widths)
    return MALUNet(task, tuple(widths))
