"""MALUNet: a tiny U-Net of dilated gates, external attention, and skips that weigh each other (arXiv:2211.01784)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from unetkit.blocks.conv import separable
from unetkit.blocks.external import ExternalAttention
from unetkit.blocks.layers import Layers
from unetkit.blocks.pooled import DilatedGroups, SumDecoder, light_init, light_layers, light_stages
from unetkit.blocks.unet import Heads
from unetkit.registry import ModelInfo, register
from unetkit.types import TaskShape

DILATIONS = (7, 5, 2, 1)


def _separable(layers: Layers, in_channels: int, channels: int, kernel: int, act: nn.Module) -> nn.Module:
    """Return a separable convolution, with a norm between its two, and an activation."""
    return nn.Sequential(*separable(layers, in_channels, channels, layers.norm(in_channels), kernel=kernel), act)


class DilatedGatedAttention(nn.Module):
    """Quarters of the channels each at their own dilation, mixed, then a gate between two receptive fields."""

    def __init__(self, layers: Layers, in_channels: int, channels: int) -> None:
        super().__init__()
        self.dilated = DilatedGroups(layers, in_channels, DILATIONS)
        self.mix = nn.Sequential(layers.norm(in_channels), layers.conv(in_channels, in_channels, 1), layers.act())
        self.gate = _separable(layers, in_channels, in_channels, 3, nn.Sigmoid())
        self.value = _separable(layers, in_channels, in_channels, 5, layers.act())
        self.out = _separable(layers, in_channels, channels, 3, layers.act())
        self.shortcut = layers.conv(in_channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, in_channels, *S] to [B, channels, *S]."""
        x = self.mix(self.dilated(x.chunk(len(DILATIONS), 1)))
        return self.out(self.gate(x) * self.value(x)) + self.shortcut(x)


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
def malunet(task: TaskShape, *, widths: Sequence[int] = (8, 16, 24, 32, 48, 64)) -> nn.Module:
    """Build MALUNet of `widths` channels per level; the two deepest share a resolution.

    Raises ModelError if 4 groups do not divide the widths.
    """
    return MALUNet(task, tuple(widths))
