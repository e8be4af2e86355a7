"""MBDRes-U-Net: light residual blocks whose grouped convolutions see three dilations at once (arXiv:2411.01896)."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from unetkit.blocks.init import he_init
from unetkit.blocks.layers import Layers, Resize, Size, per_axis
from unetkit.blocks.unet import Decoder, Encoder
from unetkit.errors import ModelError
from unetkit.registry import ModelInfo, register
from unetkit.types import TaskShape

DILATIONS = (1, 2, 3)


class NormActConv(nn.Sequential):
    """Norm, activation, convolution without bias; further arguments are the convolution's."""

    def __init__(self, layers: Layers, in_channels: int, channels: int, kernel: Size = 1, **conv: Any) -> None:
        made = layers.conv(in_channels, channels, kernel, bias=False, **conv)
        super().__init__(layers.norm(in_channels), layers.act(), made)


class Branches(nn.Module):
    """Grouped convolutions, 3 wide, one per dilation, summed with learned weights."""

    def __init__(self, layers: Layers, in_channels: int, channels: int, stride: Size, groups: int) -> None:
        super().__init__()
        make = partial(NormActConv, layers, in_channels, channels, 3, stride=stride, groups=groups)
        self.convs = nn.ModuleList(make(dilation=d, padding=d) for d in DILATIONS)
        self.scales = nn.ParameterList(torch.ones(1) for _ in DILATIONS)

    def forward(self, x: Tensor) -> Tensor:
        first, second, third = (scale * conv(x) for scale, conv in zip(self.scales, self.convs, strict=True))
        return first + second + third


class MultiBranchBlock(nn.Module):
    """Narrow to a quarter, look around in groups, within the volume and then within its slices, mix; a shortcut.

    `dilated`: the first look has three dilations.
    """

    def __init__(
        self, layers: Layers, in_channels: int, channels: int, stride: Size = 1, *, groups: int, dilated: bool = False
    ) -> None:
        super().__init__()
        narrow, middle = in_channels // 4, min(in_channels, channels)
        flat = (3, 3, 1)[: layers.dims]  # slices lie in the first two axes
        plain = partial(NormActConv, layers, narrow, middle, 3, stride=stride, groups=groups)
        self.main = nn.Sequential(
            NormActConv(layers, in_channels, narrow),
            Branches(layers, narrow, middle, stride, groups) if dilated else plain(),
            NormActConv(layers, middle, channels, flat, groups=groups),
            NormActConv(layers, channels, channels),
        )
        shrinks = max(per_axis(stride, layers.dims)) > 1
        self.shortcut: nn.Module = nn.Identity()
        if shrinks or in_channels != channels:
            # a kernel as wide as the stride: every voxel counts once
            self.shortcut = NormActConv(layers, in_channels, channels, stride, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        return self.main(x) + self.shortcut(x)


class InputAttention(nn.Module):
    """Weigh one half of the channels each by its average, the other half voxel by voxel; add the input and interleave.

    Of an odd number the second half has one more, and nothing is interleaved.
    """

    def __init__(self, layers: Layers, channels: int) -> None:
        super().__init__()
        first = channels // 2
        hidden = max(first // 2, 1)
        self.halves = (first, channels - first)
        self.channel = nn.Sequential(nn.Linear(first, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, first))
        self.place = layers.conv(channels - first, 1, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        first, second = x.split(self.halves, 1)
        gate = self.channel(first.flatten(2).mean(2)).sigmoid()
        first = first * gate.view(*gate.shape, *[1] * (x.ndim - 2))
        x = x + torch.cat([first, second * self.place(second).sigmoid()], 1)
        if self.halves[0] != self.halves[1]:
            return x
        return x.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)  # 0 1 2 3 -> 0 2 1 3


class MBDResUNet(nn.Module):
    """Attention on the image, encoder and decoder from half resolution on, an enlarging head."""

    def __init__(self, attention: nn.Module, encoder: nn.Module, decoder: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.attention = attention
        self.encoder = encoder
        self.decoder = decoder
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.decoder(self.encoder(self.attention(x)))[0])
        return out


def _first(layers: Layers, in_channels: int, channels: int, stride: Size = 1) -> nn.Module:
    return layers.conv(in_channels, channels, 3, stride=stride, bias=False)


def _stage(
    layers: Layers,
    in_channels: int,
    channels: int,
    stride: Size = 1,
    *,
    block: Callable[..., nn.Module],
    hidden: int | None = None,
) -> nn.Module:
    """Return three blocks, the first two of `hidden` channels."""
    wide = hidden or channels
    return nn.Sequential(
        block(layers, in_channels, wide, stride), block(layers, wide, wide), block(layers, wide, channels)
    )


@register(
    ModelInfo(
        title="MBDRes-U-Net",
        family="cnn",
        year=2024,
        paper="2411.01896",
        dims=(2, 3),
        multiple=16,
        source=("github:Huaibei-normal-university-cv-laboratory/mbdresunet", "115454d", "none stated"),
        params={3: 3870939},
        params_at={3: (4, 4, (128, 128, 128))},
        gflops={3: 51.44},
        activation_mb={3: 2076.0},
        notes="logits, where the reference has a softmax; dilated=false is its MBRes-U-Net. The reference counts 296"
        " parameters more, an attention that is unused, and draws the dilated blocks' starting weights from torch's own"
        " distribution: as_published=true does both. 2D is our extension; a single input channel is not weighed.",
    )
)
def mbdresunet(
    task: TaskShape,
    *,
    width: int = 32,
    channels: int = 128,
    groups: int = 8,
    dilated: bool = True,
    as_published: bool = False,
) -> nn.Module:
    """Build MBDRes-U-Net of `width` channels at half resolution and `channels`, then twice as many, below.

    Raises ModelError if a quarter of the widths does not divide into `groups`.
    """
    if groups < 1 or (width // 4) % groups or (channels // 4) % groups:
        raise ModelError(
            f"mbdresunet: groups={groups} must divide a quarter of width={width} and of channels={channels};"
            " change one of them"
        )
    layers = Layers(task.dims, up="linear")
    block = partial(MultiBranchBlock, groups=groups)
    many = partial(_stage, block=partial(block, dilated=dilated))
    deepest = partial(_stage, block=block, hidden=3 * channels)
    widths = (width, channels, 2 * channels, 2 * channels)
    encoder = Encoder(layers, task.in_channels, widths, [_first, many, many, deepest], strides=[2] * 4, pool=False)
    decoder = Decoder(layers, widths, encoder.strides, block)
    head = nn.Sequential(Resize(task.dims, "linear", 2), layers.conv(width, task.num_classes, 1, bias=False))
    # a single channel has no others to be weighed against
    attention = InputAttention(layers, task.in_channels) if task.in_channels > 1 else nn.Identity()
    model = MBDResUNet(attention, encoder, decoder, head)
    late = list(encoder.stages[1:3]) if as_published and dilated else []
    for part in (*encoder.stages, decoder, head, attention):
        if not any(part is other for other in late):
            he_init(part)
    if as_published:
        model.unused = InputAttention(layers, width)
    return model
