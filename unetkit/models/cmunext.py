"""CMUNeXt: large depthwise kernels mix space, wide 1 x 1 layers channels, in blocks and skips (arXiv:2308.01239)."""

from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn

from unetkit.blocks.checks import check_levels
from unetkit.blocks.conv import ConvActNorm, ConvNormAct
from unetkit.blocks.layers import Layers, Resize, Size
from unetkit.blocks.unet import Decoder, Encoder, Heads, UNet
from unetkit.errors import ModelError
from unetkit.registry import ModelInfo, register, variant
from unetkit.types import TaskShape

EXPANSION = 4


class MixBlock(nn.Module):
    """A depthwise convolution beside a shortcut, then two 1 wide ones with `EXPANSION` times the channels between."""

    def __init__(self, layers: Layers, channels: int, kernel: int) -> None:
        super().__init__()
        self.space = ConvActNorm(layers, channels, channels, kernel=kernel, groups=channels)
        self.widen = ConvActNorm(layers, channels, EXPANSION * channels, kernel=1)
        self.narrow = ConvActNorm(layers, EXPANSION * channels, channels, kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, *S] to the same shape."""
        return self.narrow(self.widen(self.space(x) + x))


def _stage(
    layers: Layers, in_channels: int, channels: int, stride: Size = 1, *, depth: int, kernel: int, stem: bool = False
) -> nn.Module:
    """Return `depth` MixBlocks at the incoming width, then a convolution to `channels`; `stem`: one before as well."""
    first = [ConvNormAct(layers, in_channels, channels, stride)] if stem else []
    width = channels if stem else in_channels
    blocks = [MixBlock(layers.but(act="gelu"), width, kernel) for _ in range(depth)]
    return nn.Sequential(*first, *blocks, ConvNormAct(layers, width, channels))


def _fuse_skip(layers: Layers, in_channels: int, channels: int, stride: Size = 1) -> nn.Module:
    """Return what mixes skip and enlarged map each in its own group, then both over wide 1 x 1 layers."""
    gelu = layers.but(act="gelu")
    return nn.Sequential(
        ConvActNorm(gelu, in_channels, in_channels, groups=2),
        ConvActNorm(gelu, in_channels, EXPANSION * channels, kernel=1),
        ConvActNorm(gelu, EXPANSION * channels, channels, kernel=1),
    )


def _enlarge(layers: Layers, in_channels: int, channels: int, stride: Size) -> nn.Module:
    return nn.Sequential(Resize(layers.dims, "linear", stride), ConvNormAct(layers, in_channels, channels))


@register(
    ModelInfo(
        title="CMUNeXt",
        family="cnn",
        year=2023,
        paper="2308.01239",
        dims=(2, 3),
        multiple=16,
        multiple_by={"widths": 1},
        source=("github:FengheTan9/CMUNeXt", "affbf03", "MIT"),
        params={2: 3149185},
        params_at={2: (3, 1, (256, 256))},
        gflops={2: 14.46},
        activation_mb={2: 411.4},
        notes="3D by the same rules, of which nothing is published",
    )
)
def cmunext(
    task: TaskShape,
    *,
    widths: Sequence[int] = (16, 32, 128, 160, 256),
    depths: Sequence[int] = (1, 1, 1, 3, 1),
    kernels: Sequence[int] = (3, 3, 7, 7, 7),
) -> nn.Module:
    """Build CMUNeXt of `widths` channels, `depths` blocks and depthwise `kernels` per level; raises ModelError."""
    check_levels(widths=widths, depths=depths, kernels=kernels)
    if even := [k for k in kernels if k % 2 == 0]:
        raise ModelError(f"kernels {list(kernels)}: {even[0]} is even and would move the map; give odd ones")
    layers = Layers(task.dims, up=_enlarge)
    first, *others = (partial(_stage, depth=d, kernel=k) for d, k in zip(depths, kernels, strict=True))
    encoder = Encoder(layers, task.in_channels, widths, [partial(first, stem=True), *others])
    decoder = Decoder(layers, widths, encoder.strides, _fuse_skip)
    return UNet(encoder, decoder, Heads(layers, widths[:-1], task.num_classes))


@variant(
    cmunext,
    title="CMUNeXt-S",
    multiple_by={},
    params={2: 417505},
    gflops={2: 2.025},
    activation_mb={2: 175.8},
    new="CMUNeXt with fewer channels and blocks, and a wider kernel at the deepest level",
)
def cmunext_s(task: TaskShape) -> nn.Module:
    """Build CMUNeXt-S: fewer channels, a block per level, a kernel of 9 at the deepest."""
    return cmunext(task, widths=(8, 16, 32, 64, 128), depths=(1, 1, 1, 1, 1), kernels=(3, 3, 7, 7, 9))


@variant(
    cmunext,
    title="CMUNeXt-L",
    multiple_by={},
    params={2: 8286721},
    gflops={2: 33.71},
    activation_mb={2: 757.7},
    new="CMUNeXt with more channels and blocks",
)
def cmunext_l(task: TaskShape) -> nn.Module:
    """Build CMUNeXt-L: twice the channels of CMUNeXt and more blocks in the two deepest levels."""
    return cmunext(task, widths=(32, 64, 128, 256, 512), depths=(1, 1, 1, 6, 3))
