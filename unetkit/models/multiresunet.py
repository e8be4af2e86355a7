"""MultiResUNet: chained convolutions seen at all their reaches, and skips with convolutions (arXiv:1902.04049)."""

from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn

from unetkit.blocks.conv import ConvNormAct
from unetkit.blocks.init import glorot_init
from unetkit.blocks.layers import Layers, Size
from unetkit.blocks.unet import Decoder, Encoder, Finest, UNet
from unetkit.registry import ModelInfo, choose, register
from unetkit.types import TaskShape

WIDTHS = (32, 64, 128, 256, 512)
ALPHA = 1.67
SHARES = (0.167, 0.333, 0.5)  # of a level's width, for the reaches 3, 5 and 7
KERAS_NORM = ("batch", {"eps": 1e-3, "momentum": 0.01})
VARIANTS = {"keras": True, "torch": False}
"""The implementations of the authors, which differ wherever `keras` is asked below."""


def _unit(
    layers: Layers, in_channels: int, channels: int, kernel: int = 3, *, keras: bool, act: bool = True
) -> nn.Module:
    """Return convolution, norm (in Keras without scale) and, if asked for, activation."""
    unit = ConvNormAct(layers if act else layers.but(act="none"), in_channels, channels, 1, kernel)
    if keras:
        unit[1].register_parameter("weight", None)
    return unit


def _after_sum(layers: Layers, channels: int, keras: bool) -> nn.Module:
    """Return norm and activation, in Keras the other way round."""
    norm, act = layers.norm(channels), layers.act()
    return nn.Sequential(act, norm) if keras else nn.Sequential(norm, act)


def branches(width: int) -> tuple[int, ...]:
    """Return the channels of the three chained convolutions of a level."""
    return tuple(int(width * ALPHA * share) for share in SHARES)


class MultiResBlock(nn.Module):
    """Three chained convolutions on [B, C, *S], maps joined, beside a projection; channels follow from the `width`."""

    def __init__(
        self, layers: Layers, in_channels: int, channels: int, stride: Size = 1, *, keras: bool, width: int
    ) -> None:
        super().__init__()
        self.shortcut = _unit(layers, in_channels, channels, 1, keras=keras, act=False)
        chain = pairwise((in_channels, *branches(width)))
        self.chain = nn.ModuleList(_unit(layers, before, after, keras=keras) for before, after in chain)
        self.norm = layers.norm(channels)
        self.after = _after_sum(layers, channels, keras)

    def forward(self, x: Tensor) -> Tensor:
        shortcut, maps = self.shortcut(x), []
        for unit in self.chain:
            x = unit(x)
            maps.append(x)
        return self.after(self.norm(torch.cat(maps, 1)) + shortcut)


class ResPath(nn.Module):
    """Convolutions on a skip [B, C, *S], `length` of them, each beside a projection: the gap between its two ends."""

    def __init__(self, layers: Layers, in_channels: int, channels: int, length: int, keras: bool) -> None:
        super().__init__()
        before = [in_channels, *[channels] * (length - 1)]
        self.shortcuts = nn.ModuleList(_unit(layers, c, channels, 1, keras=keras, act=False) for c in before)
        self.convs = nn.ModuleList(_unit(layers, c, channels, keras=keras) for c in before)
        self.after = nn.ModuleList(_after_sum(layers, channels, keras) for _ in before)
        # outside Keras a sum shares its norm with the convolution before it
        self.twice = not keras

    def forward(self, skip: Tensor, *_: Tensor) -> Tensor:
        for shortcut, conv, after in zip(self.shortcuts, self.convs, self.after, strict=True):
            y = conv(skip)
            skip = after((after(y) if self.twice else y) + shortcut(skip))
        return skip


@register(
    ModelInfo(
        title="MultiResUNet",
        family="cnn",
        year=2020,
        paper="1902.04049",
        dims=(2, 3),
        multiple=16,
        source=("github:nibtehaz/MultiResUNet", "5318aaf", "MIT"),
        params={2: 7238228, 3: 18633167},
        params_at={2: (3, 1, (256, 256)), 3: (4, 1, (80, 80, 48))},
        gflops={2: 31.35, 3: 195.3},
        activation_mb={2: 603.7, 3: 2060.0},
        notes="variant keras is the paper's network (7,262,750 and 18,657,689 with the statistics of its norms), torch "
        "the authors' other release, which normalises elsewhere and has one output channel more than it has classes",
    )
)
def multiresunet(task: TaskShape, *, variant: str = "keras") -> nn.Module:
    """Build MultiResUNet. Raises ModelError for an unknown variant."""
    keras = choose(VARIANTS, variant, "variant")
    layers = Layers(task.dims, KERAS_NORM if keras else "batch", bias=not keras)
    widths = [sum(branches(w)) for w in WIDTHS]
    blocks = [partial(MultiResBlock, keras=keras, width=w) for w in WIDTHS]
    encoder = Encoder(layers, task.in_channels, widths, blocks)
    # the higher a skip, the less its encoder map resembles what it is joined to
    paths = [ResPath(layers, widths[i], w, len(WIDTHS) - 1 - i, keras) for i, w in enumerate(WIDTHS[:-1])]
    channels = (*WIDTHS[:-1], widths[-1])
    decoder = Decoder(layers, channels, encoder.strides, blocks, widths=widths[:-1], gates=paths, join="up_first")
    head = _unit(layers, widths[0], task.num_classes, 1, keras=keras, act=False)
    model = UNet(encoder, decoder, Finest(head))
    if keras:
        glorot_init(model)
    return model
