"""U-RWKV: a light U-Net whose deepest map one RWKV reads by rows and columns, forth and back (arXiv:2507.11415)."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from unetkit.blocks.conv import ConvNormAct
from unetkit.blocks.layers import Layers, Size
from unetkit.blocks.rwkv import ChannelMix, SpatialMix, quad_shift
from unetkit.blocks.unet import Decoder, Encoder, Heads, UNet, check_inputs
from unetkit.errors import ModelError, ShapeError
from unetkit.registry import ModelInfo, register
from unetkit.types import TaskShape

REDUCTION = 8
EXPANSION = 4


class WideStage(nn.Module):
    """A depthwise convolution as a residual, then two 1 wide ones, `EXPANSION` times as many channels between them."""

    def __init__(self, layers: Layers, in_channels: int, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Sequential(
            layers.conv(in_channels, in_channels, groups=in_channels), layers.act(), layers.norm(in_channels)
        )
        self.mlp = nn.Sequential(
            ConvNormAct(layers, in_channels, EXPANSION * in_channels, kernel=1),
            ConvNormAct(layers, EXPANSION * in_channels, channels, kernel=1),
        )
        self.residual = in_channels == channels

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, *S] to [B, channels, *S]."""
        y = self.mlp(x + self.depthwise(x))
        return x + y if self.residual else y


class ChainStage(nn.Module):
    """Reduce the channels, run every other of them through a chain of depthwise convolutions, join all of its maps."""

    def __init__(self, layers: Layers, in_channels: int, channels: int) -> None:
        super().__init__()
        plain = layers.but(act="none")
        part = channels // REDUCTION // 2
        self.reduce = ConvNormAct(plain, in_channels, channels // REDUCTION, kernel=1)
        self.chain = nn.ModuleList(layers.conv(part, part, groups=part) for _ in range(REDUCTION - 1))
        self.project = ConvNormAct(plain, channels // 2, channels, kernel=1)
        self.residual = in_channels == channels

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, *S] to [B, channels, *S]."""
        y = self.reduce(x)
        last = y[:, 1::2]
        maps = [y[:, 0::2] + last]
        for conv in self.chain:
            last = conv(last)
            maps.append(last)
        y = self.project(torch.cat(maps, 1))
        return x + y if self.residual else y


def inward(x: Tensor) -> Tensor:
    """Read a map [B, C, H, W] by columns from both ends, upper halves down, then lower halves up: [B, C, N]."""
    middle = x.shape[2] // 2
    return torch.cat([x[:, :, :middle], x[:, :, middle:].flip(2)], 2).transpose(2, 3).flatten(2)


class QuadScan(nn.Module):
    """Mix the voxels of a map as tokens along each of its axes, forth and back, by the same layers; then channels.

    Neighbours of a token are its `quad_shift` in the map as it is read, or as_published what `inward` has at its place.
    """

    def __init__(self, channels: int, as_published: bool) -> None:
        super().__init__()
        self.as_published = as_published
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.scale1, self.scale2 = (nn.Parameter(torch.ones(channels)) for _ in range(2))
        self.spatial = SpatialMix(channels)
        self.channel = ChannelMix(channels, EXPANSION)
        _start(self.spatial, self.channel)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, *S] to the same shape."""
        maps = []
        for axis in range(x.ndim - 1, 1, -1):  # along rows, then columns
            for flips in ((), (axis,)):
                read = x.flip(flips).movedim(axis, -1)
                tokens = read.flatten(2).transpose(1, 2)
                y = self.norm1(tokens)
                y = tokens + self.scale1 * self.spatial(y, self._neighbours(y, read.shape[2:]))
                maps.append(y.transpose(1, 2).reshape(read.shape).movedim(-1, axis).flip(flips))
        tokens = torch.stack(maps).mean(0).flatten(2).transpose(1, 2)
        y = self.norm2(tokens)
        tokens = tokens + self.scale2 * self.channel(y, self._neighbours(y, x.shape[2:]))
        return tokens.transpose(1, 2).reshape(x.shape)

    def _neighbours(self, tokens: Tensor, size: Sequence[int]) -> Tensor:
        read = tokens.transpose(1, 2).unflatten(2, tuple(size))
        return (inward(read) if self.as_published else quad_shift(read).flatten(2)).transpose(1, 2)


@torch.no_grad()
def _start(spatial: SpatialMix, channel: ChannelMix) -> None:
    """Spread decays, bonuses and mixes over the channels, as RWKV does in its first layer."""
    channels = spatial.decay.numel()
    place = torch.arange(channels) / channels
    spatial.decay.copy_(-5 + 8 * (torch.arange(channels) / max(channels - 1, 1)) ** 0.7)
    spatial.first.copy_(math.log(0.3) + 0.5 * ((torch.arange(channels) + 1) % 3 - 1))
    for mix in (spatial.mix_key, spatial.mix_value, channel.mix_key, channel.mix_gate):
        mix.copy_(place[None, None])
    spatial.mix_gate.copy_(place[None, None].sqrt())


class BothWays(nn.Module):
    """Add what a layer makes of a map and of its transpose, transposed back; as_published it is not."""

    def __init__(self, layer: nn.Module, as_published: bool) -> None:
        super().__init__()
        self.layer = layer
        self.as_published = as_published

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, *S] to the same shape."""
        axes = (0, 1, *range(x.ndim - 1, 1, -1))
        turned = self.layer(x.permute(axes))
        return self.layer(x) + (turned if self.as_published else turned.permute(axes))


def _fuse(layers: Layers, in_channels: int, channels: int, stride: Size = 1) -> nn.Module:
    """Return a convolution in two groups, then two 1 wide ones; norms come after the activations."""
    wide = EXPANSION * channels
    pairs = (
        (layers.conv(in_channels, in_channels, groups=2), in_channels),
        (layers.conv(in_channels, wide, 1), wide),
        (layers.conv(wide, channels, 1), channels),
    )
    return nn.Sequential(*(part for conv, n in pairs for part in (conv, layers.act(), layers.norm(n))))


@register(
    ModelInfo(
        title="U-RWKV",
        family="rwkv",
        year=2025,
        paper="2507.11415",
        dims=(2, 3),
        multiple=16,
        multiple_by={"widths": 1},
        source=("github:hbyecoding/U-RWKV", "32f2d3c", "MIT"),
        params={2: 2977313},
        params_at={2: (3, 1, (256, 256))},
        gflops={2: 14.33},
        activation_mb={2: 425.9},
        notes="The base network of the public code, which names none as the paper's. It carries parameters that its "
        "forward pass skips (3004450 in all), takes as neighbours of a token what another order of reading has at its "
        "place, and adds what it makes of the transposed map without transposing it back: as_published=true does all "
        "of this, with those parameters unused, on square images alone. 3D is our extension.",
    )
)
def u_rwkv(
    task: TaskShape, *, widths: Sequence[int] = (16, 32, 128, 160, 256), as_published: bool = False
) -> nn.Module:
    """Build U-RWKV of `widths` channels per level, the first also those of the stem.

    Raises ModelError for widths or dims that it cannot have, ShapeError for an image that is not square as_published.
    """
    if len(widths) < 2 or widths[-1] % (2 * REDUCTION) or min(widths) < 1:
        raise ModelError(f"widths {tuple(widths)}: give 2 levels or more, the last a multiple of {2 * REDUCTION}")
    layers = Layers(task.dims, norm="batch", act="gelu", up="nearest_conv")
    mix = BothWays(QuadScan(widths[-1], as_published), as_published)

    def first(layers: Layers, in_channels: int, channels: int, stride: Size = 1) -> nn.Module:
        return nn.Sequential(ConvNormAct(layers, in_channels, channels), WideStage(layers, channels, channels))

    def deepest(layers: Layers, in_channels: int, channels: int, stride: Size = 1) -> nn.Module:
        return nn.Sequential(ChainStage(layers, in_channels, channels), mix)

    blocks = [first, *[_wide] * (len(widths) - 2), deepest]
    encoder = Encoder(layers, task.in_channels, widths, blocks)
    decoder = Decoder(layers, widths, encoder.strides, _fuse)
    model = UNet(encoder, decoder, Heads(layers, widths[:1], task.num_classes), [2 ** (len(widths) - 1)] * task.dims)
    if as_published:
        check_inputs(model, _check_square)
        _check_square(task.patch_size)
        model.unused = _unused(layers, widths, task.num_classes)
    return model


def _wide(layers: Layers, in_channels: int, channels: int, stride: Size = 1) -> nn.Module:
    return WideStage(layers, in_channels, channels)


def _check_square(size: Sequence[int]) -> None:
    if len(size) != 2 or size[0] != size[1]:
        raise ShapeError(f"size {tuple(size)}: with as_published=true images must be square; set it to false")


def _unused(layers: Layers, widths: Sequence[int], num_classes: int) -> nn.ModuleList:
    """Return what the reference carries and its forward pass skips."""
    before = [widths[0], *widths[:-2]]
    plain = layers.but(act="none")
    unused = nn.ModuleList(ConvNormAct(plain, a, b, kernel=1) for a, b in zip(before, widths[:-1], strict=True))
    scale = nn.Module()
    scale.scale = nn.Parameter(torch.ones(widths[-1]))
    unused.extend([nn.LayerNorm(widths[-1]), scale, layers.conv(widths[0], num_classes, 1)])
    return unused
