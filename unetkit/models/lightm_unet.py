"""LightM-UNet: Mamba layers instead of convolutions in the encoder of a narrow U-Net (arXiv:2403.05246)."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from unetkit.blocks.checks import check_levels
from unetkit.blocks.conv import Block, separable
from unetkit.blocks.layers import Layers, Size
from unetkit.blocks.mamba import Mamba
from unetkit.blocks.unet import Decoder, Encoder, Heads, UNet
from unetkit.registry import ModelInfo, register
from unetkit.types import TaskShape


class VisionMamba(nn.Module):
    """Norm and Mamba over voxels of [B, C, *S] beside a scaled shortcut, then the same norm and a linear layer."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(in_channels)
        self.mamba = Mamba(in_channels)
        self.proj = nn.Linear(in_channels, channels)
        self.skip_scale = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        mixed = self.mamba(self.norm(tokens)) + self.skip_scale * tokens
        return self.proj(self.norm(mixed)).transpose(1, 2).reshape(x.shape[0], -1, *x.shape[2:])


class ResidualMamba(nn.Module):
    """Norm, activation and Mamba layer, twice, beside a shortcut."""

    def __init__(self, layers: Layers, channels: int) -> None:
        super().__init__()
        units = [(layers.norm(channels), layers.act(), VisionMamba(channels, channels)) for _ in range(2)]
        self.main = nn.Sequential(*[part for unit in units for part in unit])

    def forward(self, x: Tensor) -> Tensor:
        return x + self.main(x)


class ResidualUp(nn.Module):
    """Norm, activation and separable convolution beside a scaled shortcut; norm and activation of the sum."""

    def __init__(self, layers: Layers, in_channels: int, channels: int, stride: Size = 1) -> None:
        super().__init__()
        conv = separable(layers, in_channels, channels, bias=False)
        self.main = nn.Sequential(layers.norm(in_channels), layers.act(), conv)
        self.after = nn.Sequential(layers.norm(channels), layers.act())
        self.skip_scale = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.main(x) + self.skip_scale * x)


def _stage(
    layers: Layers, in_channels: int, channels: int, stride: Size = 1, *, depth: int, first: bool = False
) -> nn.Module:
    """Return the way to a level and its blocks; the first level begins with a convolution."""
    if first:
        way: list[nn.Module] = [separable(layers, in_channels, channels, bias=False)]
    else:
        way = [VisionMamba(in_channels, channels), layers.pool(stride)]
    return nn.Sequential(*way, *[ResidualMamba(layers, channels) for _ in range(depth)])


class LightHeads(nn.Module):
    """Norm, activation and the last separable convolution, 1 wide."""

    def __init__(self, layers: Layers, channels: int, num_classes: int) -> None:
        super().__init__()
        each = layers.conv(channels, channels, 1, groups=channels)
        self.before = nn.Sequential(layers.norm(channels), layers.act(), each)
        self.heads = Heads(layers, [channels], num_classes)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        return self.heads([self.before(maps[0])])


@register(
    ModelInfo(
        title="LightM-UNet",
        family="ssm",
        year=2024,
        paper="2403.05246",
        dims=(2, 3),
        multiple=8,
        multiple_by={"depths": 1},
        source=("github:MrBlankness/LightM-UNet", "6b72e27", "Apache-2.0"),
        params={2: 5011683, 3: 5015766},
        params_at={2: (1, 2, (128, 128)), 3: (1, 3, (32, 32, 32))},
        gflops={2: 7.153, 3: 6.265},
        activation_mb={2: 327.6, 3: 408.2},
        notes="The paper states 1.09 M parameters; its published configuration, this one, has 5.01 M. As in the code "
        "the norm of a Mamba layer acts twice, and the layer is plain Mamba where the paper draws a visual state "
        "space.",
    )
)
def lightm_unet(task: TaskShape, *, width: int = 32, depths: Sequence[int] = (1, 2, 2, 4)) -> nn.Module:
    """Build LightM-UNet with `width` channels at full resolution and `depths` blocks per level.

    Raises ModelError if there is but one level.
    """
    check_levels(depths=depths)
    layers = Layers(task.dims, norm="group", up="project_linear")
    widths = [width * 2**i for i in range(len(depths))]
    stages: list[Block] = [partial(_stage, depth=depth, first=i == 0) for i, depth in enumerate(depths)]
    encoder = Encoder(layers, task.in_channels, widths, stages, pool=False)
    decoder = Decoder(layers, widths, encoder.strides, ResidualUp, join="sum")
    return UNet(encoder, decoder, LightHeads(layers, width, task.num_classes))
