"""RWKV-UNet: blocks of token and depthwise mixing encode, one channel mix joins the skips (arXiv:2501.08458)."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from unetkit.blocks.attention import DropPath
from unetkit.blocks.checks import check_rate
from unetkit.blocks.conv import ConvNormAct
from unetkit.blocks.gates import FullExcite
from unetkit.blocks.init import linear_init
from unetkit.blocks.layers import ChannelNorm, Layers, Size
from unetkit.blocks.rwkv import ChannelMix, MixBranch, SpatialMix
from unetkit.blocks.swin import rising, stem_channels
from unetkit.blocks.unet import Chain, Decoder, Heads, UNet
from unetkit.models._pretrained import load_matching, read_weights, rename
from unetkit.models._rwkv_weights import NAMES
from unetkit.registry import ModelInfo, register, variant
from unetkit.types import TaskShape

EPS = 1e-6
STEM = 24
WIDE = 9
CLASSES = 1000
Stages = tuple[Sequence[int], Sequence[int], Sequence[float]]
"""Widths and depths of the stages, and how much wider their blocks are inside."""
GLOBAL_FROM = 2
"""The first stage, of four, whose blocks mix tokens; those before have batch norm in place of layer norm."""


class GlobalLocal(nn.Module):
    """Inverted bottleneck: widen, mix tokens where `tokens`, convolve depthwise, project; residual where it can be.

    `hidden` are the channels inside. `norm` comes first.
    """

    def __init__(
        self, layers: Layers, channels: tuple[int, int, int], norm: nn.Module, stride: Size, rate: float, tokens: bool
    ) -> None:
        super().__init__()
        before, hidden, after = channels
        self.norm = norm
        self.widen = ConvNormAct(layers.but(act="relu"), before, hidden, kernel=1)
        self.tokens = MixBranch(SpatialMix(hidden), hidden, rate) if tokens else nn.Identity()
        self.local = _depthwise(layers, hidden, 5, stride)
        self.gate: nn.Module = nn.Identity()
        self.project = layers.conv(hidden, after, 1, bias=False)
        self.drop_path = DropPath(rate)
        self.residual = before == after and stride == 1

    def forward(self, x: Tensor) -> Tensor:
        y = self.tokens(self.widen(self.norm(x)))
        y = self.gate(self.local(y)) + (y if self.residual else 0)
        y = self.project(y)
        return x + self.drop_path(y) if self.residual else y


def _depthwise(layers: Layers, channels: int, kernel: int, stride: Size = 1) -> nn.Module:
    conv = layers.conv(channels, channels, kernel, stride=stride, groups=channels, bias=False)
    return nn.Sequential(conv, layers.norm(channels), nn.SiLU(inplace=True))


class RwkvEncoder(nn.Module):
    """A stem at full resolution and four stages that halve it; grey images are repeated to three channels."""

    def __init__(self, layers: Layers, in_channels: int, size: Stages, drop_path: float) -> None:
        super().__init__()
        self.in_channels = in_channels
        stem = GlobalLocal(layers, (in_channels, in_channels, STEM), nn.Identity(), 1, 0.0, False)
        stem.gate = FullExcite(layers, in_channels)
        self.stages = Chain([nn.Sequential(stem)])
        before, (widths, depths, ratios) = STEM, size
        for i, (width, rates) in enumerate(zip(widths, rising(drop_path, depths), strict=True)):
            blocks = []
            for j, rate in enumerate(rates):
                norm = ChannelNorm(before, EPS) if i >= GLOBAL_FROM else layers.norm(before)
                # the first block of a stage, which halves the map, is twice as wide and mixes no tokens
                hidden, stride = int(before * ratios[i] * (1 if j else 2)), 1 if j else 2
                tokens = i >= GLOBAL_FROM and j > 0
                blocks.append(GlobalLocal(layers, (before, hidden, width), norm, stride, rate, tokens))
                before = width
            self.stages.append(nn.Sequential(*blocks))
        linear_init(self)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Map [B, C, *S] to five maps, finest first."""
        maps: list[Tensor] = self.stages(x.expand(-1, self.in_channels, *[-1] * (x.ndim - 2)))
        return maps


class CrossChannelMix(MixBranch):
    """Let the channels of several skips mix at the resolution of the finest, each at `widths[0]` channels."""

    def __init__(self, layers: Layers, widths: Sequence[int], drop_path: float) -> None:
        inner, joined = widths[0], widths[0] * len(widths)
        super().__init__(ChannelMix(joined, 2), joined, drop_path)
        self.layers = layers
        self.before = nn.ModuleList(layers.conv(width, inner, 1) for width in widths)
        self.after = nn.ModuleList(layers.conv(inner, width, 1) for width in widths)

    def forward(self, skips: Sequence[Tensor]) -> list[Tensor]:  # type: ignore[override]
        """Map skips [B, C, *S], finest first, to as many of the same shapes."""
        size = skips[0].shape[2:]
        # 1 wide convolutions and linear resampling may change places: this way fewer voxels are convolved
        joined = torch.cat(
            # the coarsest comes first in the published weights
            [self.layers.linear(conv(x), size) for conv, x in zip(self.before, skips, strict=True)][::-1],
            1,
        )
        parts = super().forward(joined).chunk(len(skips), 1)[::-1]
        return [
            conv(self.layers.linear(part, skip.shape[2:]))
            for conv, part, skip in zip(self.after, parts, skips, strict=True)
        ]


def _enlarge(layers: Layers, in_channels: int, channels: int, stride: Size) -> nn.Module:
    """Return a wide depthwise convolution between two 1 wide ones, then linear interpolation."""
    return nn.Sequential(
        ConvNormAct(layers, in_channels, in_channels, kernel=1),
        _depthwise(layers, in_channels, WIDE),
        ConvNormAct(layers, in_channels, channels, kernel=1),
        layers.but(up="linear").up(channels, channels, stride),
    )


def _as_it_is(layers: Layers, in_channels: int, channels: int, stride: Size = 1) -> nn.Module:
    return nn.Identity()


class RwkvUNet(UNet):
    """A U-Net whose skips between stem and bottom are mixed."""

    def __init__(
        self, layers: Layers, encoder: RwkvEncoder, widths: Sequence[int], num_classes: int, drop_path: float
    ) -> None:
        # a step enlarges to the channels of its skip, and both side by side are the next step's input
        decoder = Decoder(
            layers.but(up=_enlarge),
            (0, *widths),
            [1, *[2] * len(widths)],
            _as_it_is,
            widths=(STEM, *(2 * width for width in widths[:-1])),
            enlarged=(STEM, *widths[:-1]),
            join="up_first",
        )
        super().__init__(encoder, decoder, Heads(layers, (STEM,), num_classes))
        self.ccm = CrossChannelMix(layers, widths[:-1], drop_path)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Map images [B, C, *S] to logits [B, K, *S]."""
        stem, *skips, bottom = self.encoder(x)
        return self.heads(self.decoder([stem, *self.ccm(skips), bottom]))


def _rwkv_unet(task: TaskShape, size: Stages, drop_path: float, as_published: bool, weights: str | None) -> nn.Module:
    check_rate(drop_path)
    widths = size[0]
    layers = Layers(task.dims, norm=("batch", {"eps": EPS}), bias=False)
    encoder = RwkvEncoder(layers, stem_channels(task), size, drop_path)
    model = RwkvUNet(layers, encoder, widths, task.num_classes, drop_path)
    if as_published:
        model.unused = _unused(encoder, widths)
    if weights:
        load_matching(model, rename(read_weights(weights), NAMES))
    return model


def _unused(encoder: RwkvEncoder, widths: Sequence[int]) -> nn.ModuleList:
    """Return what the reference carries and its forward pass skips."""
    unused = nn.ModuleList([nn.LayerNorm(widths[-1]), nn.Linear(widths[-1], CLASSES), nn.LayerNorm(widths[-1])])
    unused.extend(nn.LayerNorm(2 * width) for width in widths[:-1])
    for block in encoder.modules():
        if isinstance(block, GlobalLocal):
            hidden: int = block.project.in_channels  # type: ignore[assignment]
            unused.append(nn.LayerNorm(hidden))
            if not isinstance(block.tokens, MixBranch):
                unused.extend([SpatialMix(hidden), nn.LayerNorm(hidden)])
    return unused


@register(
    ModelInfo(
        title="RWKV-UNet-B",
        family="rwkv",
        year=2025,
        paper="2501.08458",
        dims=(2, 3),
        multiple=16,
        source=("github:juntaoJianggavin/RWKV-UNet", "df96e2f", "none stated"),
        params={2: 17125713},
        params_at={2: (1, 9, (224, 224))},
        gflops={2: 21.55},
        activation_mb={2: 589.9},
        notes="The reference's 24642886 parameters at 224 x 224, 9 classes, contain those of a classifier, norms and "
        "token mixing that its forward pass skips; as_published=true carries them, unused. Its bi-WKV takes 1024 "
        "tokens and deviates from its formula where decays are not 0, here the formula holds for any size; it takes "
        "squares alone, other sizes and 3D are our extension. One channel is repeated to three. weights takes a "
        ".safetensors or .npz file of the released encoder or network.",
    )
)
def rwkv_unet_b(
    task: TaskShape, *, drop_path: float = 0.05, as_published: bool = False, weights: str | None = None
) -> nn.Module:
    """Build RWKV-UNet-B. Raises ModelError for weights that do not fit."""
    return _rwkv_unet(task, ((48, 72, 144, 240), (3, 3, 6, 3), (2.0, 2.5, 4.0, 4.0)), drop_path, as_published, weights)


@variant(
    rwkv_unet_b,
    title="RWKV-UNet-S",
    params={2: 9702145},
    gflops={2: 11.27},
    activation_mb={2: 435.6},
    new="RWKV-UNet with fewer channels",
    notes="As rwkv_unet_b; 15087982 parameters with those unused.",
)
def rwkv_unet_s(task: TaskShape, **options: Any) -> nn.Module:
    """Build RWKV-UNet-S, options as those of `rwkv_unet_b`."""
    return _rwkv_unet(task, ((32, 64, 128, 192), (3, 3, 6, 3), (2.0, 2.5, 3.0, 4.0)), **options)


@variant(
    rwkv_unet_b,
    title="RWKV-UNet-T",
    params={2: 3145961},
    params_at={2: (3, 9, (256, 256))},
    gflops={2: 6.959},
    activation_mb={2: 401.1},
    new="RWKV-UNet with fewer channels and blocks",
    notes="As rwkv_unet_b; 5677982 parameters with those unused, at 256 x 256.",
)
def rwkv_unet_t(task: TaskShape, **options: Any) -> nn.Module:
    """Build RWKV-UNet-T, options as those of `rwkv_unet_b`."""
    return _rwkv_unet(task, ((32, 48, 96, 160), (2, 2, 4, 2), (2.0, 2.5, 3.0, 3.5)), **options)
