"""Attention U-Net: each skip is weighed by what the decoder asks for (arXiv:1804.03999)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from unetkit.blocks.conv import ConvNormAct, ConvStack
from unetkit.blocks.gates import AdditiveGate
from unetkit.blocks.init import he_init
from unetkit.blocks.layers import Layers, Size
from unetkit.blocks.unet import Decoder, Encoder, Heads, UNet
from unetkit.errors import ModelError
from unetkit.registry import ModelInfo, choose, register
from unetkit.types import TaskShape

WIDTHS = (64, 128, 256, 512, 1024)
OKTAY_WIDTHS = (16, 32, 64, 128, 256)
DEFAULT = {2: "leejunhyun", 3: "oktay"}
NORM_STD = 0.02


class GridAttention(nn.Module):
    """Attend to a skip [B, C, *S] at half its resolution, asked by a coarser map [B, Q, *R]."""

    def __init__(self, layers: Layers, channels: int, query_channels: int) -> None:
        super().__init__()
        self.layers = layers
        self.skip = layers.conv(channels, channels, 2, stride=2, padding=0, bias=False)
        self.query = layers.conv(query_channels, channels, 1)
        self.mask = layers.conv(channels, 1, 1)
        self.out = ConvNormAct(layers.but(act="none"), channels, channels, kernel=1)

    def forward(self, skip: Tensor, query: Tensor) -> Tensor:
        # equations 1 and 2 of the paper: a = sigmoid(psi(relu(W_x x + W_g g))), at the resolution of W_x x
        half = self.skip(skip)
        mask = torch.sigmoid(self.mask(torch.relu(half + self.layers.linear(self.query(query), half.shape[2:]))))
        return self.out(skip * self.layers.linear(mask, skip.shape[2:]))


class GridGate(nn.Module):
    """One or more GridAttentions on a skip, merged; `signal` prepares the map from below that asks.

    The deepest map asks through a convolution of its own, the others as they are.
    """

    def __init__(self, layers: Layers, channels: int, query_channels: int, *, count: int, signal: bool) -> None:
        super().__init__()
        self.signal = ConvNormAct(layers, query_channels, query_channels, kernel=1) if signal else nn.Identity()
        self.attentions = nn.ModuleList(GridAttention(layers, channels, query_channels) for _ in range(count))
        self.combine = ConvNormAct(layers, count * channels, channels, kernel=1)

    def forward(self, skip: Tensor, enlarged: Tensor, below: Tensor) -> Tensor:
        query = self.signal(below)
        return self.combine(torch.cat([attend(skip, query) for attend in self.attentions], 1))


class MixedHeads(nn.Module):
    """A head per decoder map, finest first, enlarged to full size and mixed into one by a last convolution.

    With deep supervision the heads of the lower maps follow the mixed one, at their own resolution.
    """

    def __init__(self, layers: Layers, channels: Sequence[int], num_classes: int, deep_supervision: bool) -> None:
        super().__init__()
        self.layers = layers
        self.deep_supervision = deep_supervision
        self.convs = nn.ModuleList(layers.conv(c, num_classes, 1) for c in channels)
        self.mix = layers.conv(len(channels) * num_classes, num_classes, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor | tuple[Tensor, ...]:
        logits = [conv(x) for conv, x in zip(self.convs, maps, strict=True)]
        full = maps[0].shape[2:]
        mixed = self.mix(torch.cat([logits[0], *(self.layers.linear(x, full) for x in logits[1:])], 1))
        return (mixed, *logits[1:]) if self.deep_supervision else mixed


def _additive(task: TaskShape, widths: Sequence[int], deep_supervision: bool) -> nn.Module:
    """Build the 2D network most people know: gates at full resolution on all skips."""
    layers = Layers(task.dims, up="nearest_conv")
    encoder = Encoder(layers, task.in_channels, widths, ConvStack)
    gates = [AdditiveGate(layers, c, c) for c in widths[:-1]]
    decoder = Decoder(layers, widths, encoder.strides, ConvStack, gates=gates)
    return UNet(encoder, decoder, Heads(layers, widths[:-1], task.num_classes, deep_supervision=deep_supervision))


def _monai(task: TaskShape, widths: Sequence[int], deep_supervision: bool) -> nn.Module:
    """Build MONAI's version: strided convolutions down, transposed ones up, one convolution after each skip."""

    def enlarge(layers: Layers, in_channels: int, channels: int, stride: Size) -> nn.Module:
        conv = layers.transposed(in_channels, channels, 3, stride=stride, padding=1, output_padding=1)
        return nn.Sequential(conv, layers.norm(channels), layers.act())

    def merge(layers: Layers, in_channels: int, channels: int, stride: Size = 1) -> nn.Module:
        return ConvNormAct(layers.but(norm=("instance", {"affine": False}), act="prelu"), in_channels, channels, stride)

    layers = Layers(task.dims, up=enlarge)
    encoder = Encoder(layers, task.in_channels, widths, ConvStack, pool=False)
    gates = [AdditiveGate(layers, c, c) for c in widths[:-1]]
    decoder = Decoder(layers, widths, encoder.strides, merge, gates=gates)
    return UNet(encoder, decoder, Heads(layers, widths[:-1], task.num_classes, deep_supervision=deep_supervision))


def _grid(task: TaskShape, widths: Sequence[int], deep_supervision: bool, count: int = 1) -> nn.Module:
    """Build the authors' network: gates at half resolution on all skips but the finest, and mixed heads."""
    if len(widths) < 2:
        raise ModelError(f"widths {list(widths)}: a gated skip needs at least 2 levels")
    layers = Layers(task.dims, up="linear")
    encoder = Encoder(layers, task.in_channels, widths, ConvStack)
    deepest = len(widths) - 2
    gates = [
        GridGate(layers, widths[i], widths[i + 1], count=count, signal=i == deepest) if i else None
        for i in range(len(widths) - 1)
    ]
    decoder = Decoder(layers, widths, encoder.strides, ConvStack, gates=gates)
    model = UNet(encoder, decoder, MixedHeads(layers, widths[:-1], task.num_classes, deep_supervision))
    # the authors' starting weights; the other variants keep torch's
    he_init(model, norm_std=NORM_STD)
    return model


def _grid_twice(task: TaskShape, widths: Sequence[int], deep_supervision: bool) -> nn.Module:
    """Build the authors' network with two attentions per gate."""
    return _grid(task, widths, deep_supervision, count=2)


VARIANTS = {
    "leejunhyun": (_additive, WIDTHS),
    "monai": (_monai, WIDTHS),
    "oktay": (_grid, OKTAY_WIDTHS),
    "oktay_multi": (_grid_twice, OKTAY_WIDTHS),
}


@register(
    ModelInfo(
        title="Attention U-Net",
        family="cnn",
        year=2018,
        paper="1804.03999",
        dims=(2, 3),
        multiple=16,
        multiple_by={"widths": 1},
        deep_supervision=True,
        source=("github:ozan-oktay/Attention-Gated-Networks", "eee4881", "MIT"),
        params={2: 34878573, 3: 6214151},
        params_at={2: (3, 1, (256, 256)), 3: (1, 4, (64, 64, 64))},
        gflops={2: 132.8, 3: 36.59},
        activation_mb={2: 516.9, 3: 300.1},
        notes="2D by default LeeJunHyun's network (gates at full resolution), 3D the authors' own (grid attention), for"
        " which the paper prints 6.40 M parameters; variants leejunhyun, oktay, oktay_multi, monai, each in both dims",
    )
)
def attention_unet(
    task: TaskShape,
    *,
    variant: str | None = None,
    widths: Sequence[int] | None = None,
    deep_supervision: bool = False,
) -> nn.Module:
    """Build an Attention U-Net of `widths` channels per level, finest first.

    Raises ModelError for an unknown variant.
    """
    build, own = choose(VARIANTS, variant or DEFAULT[task.dims], "variant")
    return build(task, tuple(widths or own), deep_supervision)
