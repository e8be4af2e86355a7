"""3D U-Net: volumes learnt from a few annotated slices, channels doubled before each pooling (arXiv:1606.06650)."""

from collections.abc import Callable, Sequence
from functools import partial

from torch import nn

from unetkit.blocks.borders import MirrorBorder
from unetkit.blocks.conv import ConvStack
from unetkit.blocks.layers import Layers, Size
from unetkit.blocks.unet import Decoder, Encoder, Heads, UNet
from unetkit.errors import ModelError
from unetkit.registry import ModelInfo, choose, register
from unetkit.types import TaskShape

WIDTHS = (64, 128, 256, 512)


class NormFirstStack(nn.Sequential):
    """Norm, convolution without bias, activation, twice; `hidden` channels between the convolutions."""

    def __init__(
        self, layers: Layers, in_channels: int, channels: int, stride: Size = 1, *, hidden: int | None = None
    ) -> None:
        parts: list[nn.Module] = []
        for before, after, step in ((in_channels, hidden or channels, stride), (hidden or channels, channels, 1)):
            parts += [layers.norm(before), layers.conv(before, after, stride=step, bias=False), layers.act()]
        super().__init__(*parts)


def _doubling(
    stack: Callable[..., nn.Module], layers: Layers, in_channels: int, channels: int, stride: Size = 1
) -> nn.Module:
    """Make half the channels with the first convolution, unless that lost some, and all with the second."""
    return stack(layers, in_channels, channels, stride, hidden=max(channels // 2, in_channels))


def _paper(task: TaskShape, widths: Sequence[int], deep_supervision: bool, *, padded: bool = True) -> nn.Module:
    """Build the paper's network: enlarging keeps the channels, the block behind it narrows them."""
    layers = Layers(task.dims, padded=padded)
    encoder = Encoder(layers, task.in_channels, widths, partial(_doubling, ConvStack))
    decoder = Decoder(layers, widths, encoder.strides, ConvStack, enlarged=widths[1:], join="up_first")
    return UNet(encoder, decoder, Heads(layers, widths[:-1], task.num_classes, deep_supervision=deep_supervision))


def _original(task: TaskShape, widths: Sequence[int], deep_supervision: bool) -> nn.Module:
    """Build it with unpadded convolutions, as it was trained."""
    if deep_supervision:
        raise ModelError("variant=original loses the border of every map and has no deep supervision; drop one of them")
    return MirrorBorder(_paper(task, widths, False, padded=False), len(widths))


def _wolny(task: TaskShape, widths: Sequence[int], deep_supervision: bool) -> nn.Module:
    """Build pytorch-3dunet's network: group norm before each convolution, maps enlarged without weights."""
    layers = Layers(task.dims, norm="group", up="nearest")
    encoder = Encoder(layers, task.in_channels, widths, partial(_doubling, NormFirstStack))
    decoder = Decoder(layers, widths, encoder.strides, NormFirstStack)
    return UNet(encoder, decoder, Heads(layers, widths[:-1], task.num_classes, deep_supervision=deep_supervision))


VARIANTS = {"paper": _paper, "original": _original, "wolny": _wolny}


@register(
    ModelInfo(
        title="3D U-Net",
        family="cnn",
        year=2016,
        paper="1606.06650",
        dims=(2, 3),
        multiple=8,
        multiple_by={"widths": 1},
        deep_supervision=True,
        source=("github:wolny/pytorch-3dunet", "a33e2c7", "MIT"),
        params={3: 19075523},
        params_at={3: (3, 3, (64, 64, 64))},
        gflops={3: 489.4},
        activation_mb={3: 920.1},
        notes="the authors' own code is a fork of Caffe: they print 19,069,955 parameters, which leaves out 896 biases "
        "of transposed convolutions and 4,672 scales and shifts of norms; variants original (unpadded, mirrored "
        "border: 132 x 132 x 116 sees 44 x 44 x 28), wolny (pytorch-3dunet)",
    )
)
def unet3d(
    task: TaskShape,
    *,
    variant: str = "paper",
    widths: Sequence[int] | None = None,
    deep_supervision: bool = False,
) -> nn.Module:
    """Build a 3D U-Net of `widths` channels per level, finest first.

    Raises ModelError for an unknown variant.
    """
    build = choose(VARIANTS, variant, "variant")
    channels = tuple(widths or WIDTHS)
    return build(task, channels, deep_supervision)
