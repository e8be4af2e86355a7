"""MultiResUNet: chained convolutions seen at all their reaches, and skips with convolutions (arXiv:1902.04049)."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from unetkit.blocks.conv import ConvNormAct
from unetkit.blocks.init import glorot_init
from unetkit.blocks.layers import Layers, Named, Size
from unetkit.blocks.unet import Decoder, Encoder, UNet
from unetkit.registry import ModelInfo, choose, register
from unetkit.types import TaskShape

WIDTHS = (32, 64, 128, 256, 512)
ALPHA = 1.67
SHARES = (0.167, 0.333, 0.5)  # of a level's width, for the reaches 3, 5 and 7


@dataclass(frozen=True)
class Variant:
    """How the two implementations of the authors differ.

    `norm` and `bias`: those of all convolutions. `scale`: norms behind convolutions have one. `act_first`: after a sum
    the activation comes before the norm. `twice`: a skip's sum shares its norm with the convolution before it.
    """

    norm: Named = "batch"
    bias: bool = True
    scale: bool = True
    act_first: bool = False
    twice: bool = True


VARIANTS = {
    "keras": Variant(("batch", {"eps": 1e-3, "momentum": 0.01}), bias=False, scale=False, act_first=True, twice=False),
    "torch": Variant(),
}


class Parts:
    """Makes the parts both blocks are made of, as one variant has them."""

    def __init__(self, layers: Layers, variant: Variant) -> None:
        self.layers = layers
        self.variant = variant

    def unit(self, in_channels: int, channels: int, kernel: int = 3, act: bool = True) -> nn.Module:
        """Return convolution, norm and, if asked for, activation."""
        layers = self.layers if act else self.layers.but(act="none")
        unit = ConvNormAct(layers, in_channels, channels, 1, kernel)
        if not self.variant.scale:
            unit[1].register_parameter("weight", None)
        return unit

    def after_sum(self, channels: int) -> nn.Module:
        """Return norm and activation in the order of the variant."""
        norm, act = self.layers.norm(channels), self.layers.act()
        return nn.Sequential(act, norm) if self.variant.act_first else nn.Sequential(norm, act)


def branches(width: int) -> tuple[int, ...]:
    """Return the channels of the three chained convolutions of a level."""
    return tuple(int(width * ALPHA * share) for share in SHARES)


class MultiResBlock(nn.Module):
    """Three chained convolutions on [B, C, *S], all their maps joined, beside a projection.

    `width` is that of the level, from which their channels follow.
    """

    def __init__(
        self, layers: Layers, in_channels: int, channels: int, stride: Size = 1, *, variant: Variant, width: int
    ) -> None:
        super().__init__()
        parts, chain = Parts(layers, variant), branches(width)
        self.shortcut = parts.unit(in_channels, channels, 1, act=False)
        self.chain = nn.ModuleList(map(parts.unit, (in_channels, *chain), chain))
        self.norm = layers.norm(channels)
        self.after = parts.after_sum(channels)

    def forward(self, x: Tensor) -> Tensor:
        shortcut, maps = self.shortcut(x), []
        for unit in self.chain:
            x = unit(x)
            maps.append(x)
        return self.after(self.norm(torch.cat(maps, 1)) + shortcut)


class ResPath(nn.Module):
    """Convolutions on a skip [B, C, *S], `length` of them, each beside a projection: the gap between its two ends."""

    def __init__(self, layers: Layers, in_channels: int, channels: int, length: int, variant: Variant) -> None:
        super().__init__()
        parts = Parts(layers, variant)
        before = [in_channels, *[channels] * (length - 1)]
        self.shortcuts = nn.ModuleList(parts.unit(c, channels, 1, act=False) for c in before)
        self.convs = nn.ModuleList(parts.unit(c, channels) for c in before)
        self.after = nn.ModuleList(parts.after_sum(channels) for _ in before)
        self.twice = variant.twice

    def forward(self, skip: Tensor, *_: Tensor) -> Tensor:
        for shortcut, conv, after in zip(self.shortcuts, self.convs, self.after, strict=True):
            y = conv(skip)
            skip = after((after(y) if self.twice else y) + shortcut(skip))
        return skip


class Finest(nn.Sequential):
    """Apply a head to the first of several maps."""

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        return super().forward(maps[0])


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
    chosen = choose(VARIANTS, variant, "variant")
    layers = Layers(task.dims, chosen.norm, bias=chosen.bias)
    widths = [sum(branches(w)) for w in WIDTHS]
    blocks = [partial(MultiResBlock, variant=chosen, width=w) for w in WIDTHS]
    encoder = Encoder(layers, task.in_channels, widths, blocks)
    # the higher a skip, the less its encoder map resembles what it is joined to
    paths = [ResPath(layers, widths[i], w, len(WIDTHS) - 1 - i, chosen) for i, w in enumerate(WIDTHS[:-1])]
    channels = (*WIDTHS[:-1], widths[-1])
    decoder = Decoder(layers, channels, encoder.strides, blocks, widths=widths[:-1], gates=paths, join="up_first")
    head = Parts(layers, chosen).unit(widths[0], task.num_classes, 1, act=False)
    model = UNet(encoder, decoder, Finest(head))
    if variant == "keras":
        glorot_init(model)
    return model
