"""U-Net (arXiv:1505.04597), padded as most people use it today, and its best known relatives as variants."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from unetkit.blocks.borders import MirrorBorder
from unetkit.blocks.conv import ConvStack
from unetkit.blocks.encoders import TimmEncoder, encoder_for
from unetkit.blocks.init import he_init, smp_init
from unetkit.blocks.layers import Layers, Size
from unetkit.blocks.unet import Decoder, Encoder, Heads, UNet
from unetkit.errors import ModelError
from unetkit.registry import ModelInfo, choose, register
from unetkit.types import TaskShape

WIDTHS = (64, 128, 256, 512, 1024)
DEFAULT = "milesial"


@dataclass(frozen=True)
class Variant:
    """What one published U-Net does differently: its widths and its `Layers`.

    `thin`: maps are enlarged without weights, so the blocks narrow them instead.
    """

    widths: tuple[int, ...] = WIDTHS
    layers: dict[str, Any] = field(default_factory=dict)
    thin: bool = False


VARIANTS = {
    "milesial": Variant(layers={"bias": False}),
    "bilinear": Variant(layers={"bias": False, "up": "linear_aligned"}, thin=True),
    "u_bench": Variant(layers={"up": "nearest_conv"}),
    "original": Variant(layers={"norm": "none", "padded": False}),
    "monai": Variant(
        (32, 32, 64, 128, 256), {"norm": "instance", "act": ("leaky_relu", {"negative_slope": 0.1, "inplace": True})}
    ),
}


def _hidden(layers: Layers, in_channels: int, channels: int, stride: Size = 1) -> nn.Module:
    """Two convolutions with half as many channels between them as come in."""
    return ConvStack(layers, in_channels, channels, stride, hidden=in_channels // 2)


def _on_encoder(task: TaskShape, encoder: TimmEncoder, deep_supervision: bool) -> nn.Module:
    """Join a timm encoder to the decoder of segmentation_models.pytorch."""
    layers = Layers(task.dims, bias=False, up="nearest")
    widths = encoder.decoder_widths
    decoder = Decoder(layers, encoder.channels, encoder.strides, ConvStack, widths=widths, join="up_first")
    heads = Heads(layers, widths, task.num_classes, deep_supervision=deep_supervision, kernel=3)
    smp_init(decoder, heads)
    return UNet(encoder, decoder, heads, encoder.divisor)


@register(
    ModelInfo(
        title="U-Net",
        family="cnn",
        year=2015,
        paper="1505.04597",
        dims=(2, 3),
        min_size=16,
        multiple_by={"encoder": 32},
        min_size_by={"widths": 1},
        deep_supervision=True,
        source=("github:milesial/Pytorch-UNet", "21d7850", "GPL-3.0"),
        params={2: 31037698},
        params_at={2: (3, 2, (256, 256))},
        gflops={2: 96.34},
        activation_mb={2: 343.2},
        new="skips: at every level the maps of the way down, which know where, join those of the way up",
        notes="variants milesial (the default), bilinear, u_bench, original (unpadded, mirrored border), monai; "
        "with a timm encoder the decoder is that of segmentation_models.pytorch (2D, sides multiples of 32)",
    )
)
def unet(
    task: TaskShape,
    *,
    variant: str = DEFAULT,
    widths: Sequence[int] | None = None,
    dropout: float = 0.0,
    encoder: str | None = None,
    pretrained: bool = False,
    weights: str | None = None,
    deep_supervision: bool = False,
) -> nn.Module:
    """Build a U-Net of `widths` channels per level, finest first, or on a timm `encoder` instead.

    Raises ModelError for an unknown variant or options that do not go together.
    """
    own = {"variant": variant != DEFAULT, "widths": widths, "dropout": dropout}
    network = encoder_for(task, encoder, pretrained=pretrained, weights=weights, unused=own)
    if network is not None:
        return _on_encoder(task, network, deep_supervision)
    chosen = choose(VARIANTS, variant, "variant")
    channels = tuple(widths or chosen.widths)
    layers = Layers(task.dims, dropout=dropout, **chosen.layers)
    up_widths = channels[:-1]
    if chosen.thin:  # nothing narrows the enlarged maps, so the blocks before and after them do
        up_widths = (channels[0], *(c // 2 for c in channels[1:-1]))
        channels = (*channels[:-1], channels[-1] // 2)
    down = Encoder(layers, task.in_channels, channels, ConvStack)
    up = Decoder(layers, channels, down.strides, _hidden if chosen.thin else ConvStack, widths=up_widths)
    model = UNet(down, up, Heads(layers, up_widths, task.num_classes, deep_supervision=deep_supervision))
    if layers.padded:
        return model
    if deep_supervision:
        raise ModelError(
            f"variant={variant} loses the border of every map and has no deep supervision; drop one of them"
        )
    he_init(model)  # section 3 of the paper: sqrt(2 / N)
    return MirrorBorder(model, len(channels))
