"""ResUNet++: residual units with squeeze-and-excitation, dilated bridge and attention (arXiv:1911.07067)."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from unetkit.blocks.checks import check_levels
from unetkit.blocks.conv import PreActivationUnit
from unetkit.blocks.gates import SqueezeExcite
from unetkit.blocks.init import he_init
from unetkit.blocks.layers import Layers, Size
from unetkit.blocks.unet import Encoder, Heads, UNet
from unetkit.registry import ModelInfo, register
from unetkit.types import TaskShape

WIDTHS = (32, 64, 128, 256)
RATES = (6, 12, 18)


class DilatedPyramid(nn.Module):
    """Convolutions of several dilation rates side by side, each with activation and norm, mixed by one 1 wide."""

    def __init__(self, layers: Layers, in_channels: int, channels: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(
                layers.conv(in_channels, channels, padding=rate, dilation=rate), layers.act(), layers.norm(channels)
            )
            for rate in RATES
        )
        self.mix = layers.conv(len(RATES) * channels, channels, 1)
        he_init(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(torch.cat([branch(x) for branch in self.branches], 1))


class MapAttention(nn.Module):
    """Weigh a coarse map [B, Q, *S / 2] by what it and the encoder's map [B, C, *S] say, weights not squashed."""

    def __init__(self, layers: Layers, channels: int, query_channels: int) -> None:
        super().__init__()

        def branch(before: int, after: int, kernel: Size = 3) -> nn.Sequential:
            return nn.Sequential(layers.norm(before), layers.act(), layers.conv(before, after, kernel))

        self.skip = nn.Sequential(branch(channels, query_channels), layers.pool())
        self.query = branch(query_channels, query_channels)
        self.mask = branch(query_channels, 1, 1)

    def forward(self, skip: Tensor, below: Tensor) -> Tensor:
        return below * self.mask(self.skip(skip) + self.query(below))


class AttentiveDecoder(nn.Module):
    """Bridge, then per level: attention on the map from below, linear enlargement, skip, residual unit.

    `channels` are those of the encoder; a level returns as many as the encoder has one level further down.
    """

    def __init__(self, layers: Layers, channels: Sequence[int], bridge: int) -> None:
        super().__init__()
        unit = partial(PreActivationUnit, shortcut=3)
        self.bridge = DilatedPyramid(layers, channels[-1], bridge)
        below = (*channels[2:], bridge)
        self.attentions = nn.ModuleList(MapAttention(layers, c, q) for c, q in zip(channels[:-1], below, strict=True))
        self.up = layers.up(bridge, bridge)
        self.units = nn.ModuleList(
            unit(layers, q + c, w) for c, q, w in zip(channels[:-1], below, channels[1:], strict=True)
        )
        self.out = DilatedPyramid(layers, channels[1], channels[0])

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        x = self.bridge(maps[-1])
        for level in reversed(range(len(self.units))):
            enlarged = self.up(self.attentions[level](maps[level], x))
            x = self.units[level](torch.cat([enlarged, maps[level]], 1))
        return [self.out(x)]


def _excited(layers: Layers, in_channels: int, channels: int, stride: Size = 1) -> nn.Module:
    """Weigh the channels that come in, then apply a residual unit."""
    return nn.Sequential(
        SqueezeExcite(in_channels), PreActivationUnit(layers, in_channels, channels, stride, shortcut=3)
    )


@register(
    ModelInfo(
        title="ResUNet++",
        family="cnn",
        year=2019,
        paper="1911.07067",
        dims=(2, 3),
        multiple=8,
        multiple_by={"widths": 1},
        source=("github:rishikksh20/ResUnet", "9998512", "none stated"),
        params={2: 14482564},
        params_at={2: (3, 1, (256, 256))},
        gflops={2: 141.2},
        activation_mb={2: 569.3},
        notes="as the public PyTorch code: 3 wide shortcuts, attention weights are not squashed, no norm beside the "
        "first unit",
    )
)
def resunetpp(task: TaskShape, *, widths: Sequence[int] | None = None, bridge: int = 512) -> nn.Module:
    """Build a ResUNet++ of `widths` channels per level, finest first, and `bridge` channels behind the deepest.

    Raises ModelError for fewer than 2 widths.
    """
    channels = tuple(widths or WIDTHS)
    check_levels(widths=channels)
    layers = Layers(task.dims, up="linear")
    first = partial(PreActivationUnit, first=True, shortcut=3, shortcut_norm=False)
    encoder = Encoder(layers, task.in_channels, channels, [first, *[_excited] * (len(channels) - 1)], pool=False)
    decoder = AttentiveDecoder(layers, channels, bridge)
    return UNet(encoder, decoder, Heads(layers, channels[:1], task.num_classes))
