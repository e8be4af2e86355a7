"""SineNet: U-Nets in a row, each of which moves a field a little further in time (arXiv:2403.19507)."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from unetkit.blocks.conv import ConvStack
from unetkit.blocks.layers import CubicUp, Layers
from unetkit.errors import ModelError
from unetkit.registry import ModelInfo, choose, register
from unetkit.types import TaskShape

LEVELS = 5
# growth of the channels per level that gives about as many parameters for so many waves
GROWTH = {8: 1.425, 6: 1.5, 4: 1.611, 2: 1.8075, 1: 2.0}
PADDING = {"zeros": 0, "circular": 2}  # the cubic kernel reaches two pixels over the border


class ResidualStep(nn.Module):
    """Two convolutions, `repeats` times, each beside a shortcut; `extra` further channels are seen first.

    The first shortcut is a 1 wide convolution of the map without those channels, the others leave it as it is.
    """

    def __init__(self, layers: Layers, in_channels: int, extra: int, channels: int, repeats: int) -> None:
        super().__init__()
        self.first = ConvStack(layers, in_channels + extra, channels)
        self.shortcut = layers.conv(in_channels, channels, 1)
        self.rest = nn.ModuleList(ConvStack(layers, channels, channels) for _ in range(repeats - 1))

    def forward(self, x: Tensor, joined: Tensor) -> Tensor:
        x = self.shortcut(x) + self.first(joined)
        for block in self.rest:
            x = x + block(x)
        return x


class Wave(nn.Module):
    """A U-Net on a map [B, C, H, W], added to that map.

    With `dual` the map is carried down unchanged but for its resolution, and every level below the first way down
    sees it: the skips then need not keep it and can follow the flow.
    """

    def __init__(self, layers: Layers, widths: Sequence[int], repeats: int, dual: bool) -> None:
        super().__init__()
        self.dual = dual
        self.pool = layers.pool(kind="average")
        self.enlarge = CubicUp(PADDING[layers.border])
        pairs = list(pairwise(widths))
        self.down = nn.ModuleList(
            ResidualStep(layers, above, widths[0] if dual and i else 0, below, repeats)
            for i, (above, below) in enumerate(pairs)
        )
        self.up = nn.ModuleList(ResidualStep(layers, below, above, above, repeats) for above, below in reversed(pairs))

    def forward(self, x: Tensor) -> Tensor:
        maps, along = [x], x
        for i, step in enumerate(self.down):
            along, low = self.pool(along), self.pool(maps[-1])
            maps.append(step(low, torch.cat([low, along], 1) if self.dual and i else low))
        y = maps.pop()
        for step in self.up:
            y = self.enlarge(y)
            y = step(y, torch.cat([maps.pop(), y], 1))
        return x + y


@register(
    ModelInfo(
        title="SineNet",
        family="cnn",
        year=2024,
        paper="2403.19507",
        dims=(2,),
        multiple=16,
        min_size_by={"padding": {"circular": 32}},
        source=("github:divelab/AIRS", "4a16c68", "MIT"),
        params={2: 35490219},
        params_at={2: (12, 3, (128, 128))},
        gflops={2: 83.94},
        activation_mb={2: 631.3},
        notes="time steps and components of a field are channels: [B, T C, H, W] in, [B, T' C', H, W] out; waves=8, 6, "
        "4, 2 are the published sizes, waves=1 with width=128 and waves=1, repeats=8, growth=1.425 (deeper U-Net) the "
        "paper's comparisons, dual=false its entangled ablation; 2D only, for cubic enlargement",
    )
)
def sinenet(
    task: TaskShape,
    *,
    waves: int = 8,
    width: int = 64,
    growth: float | None = None,
    repeats: int = 1,
    dual: bool = True,
    padding: str = "zeros",
) -> nn.Module:
    """Build SineNet of so many `waves`, each from `width` channels, `growth` times more per level.

    `repeats` counts the blocks of a level, `padding` is "zeros" or, for periodic fields, "circular". Raises ModelError
    for another padding, or a number of waves that has no published growth if none is given.
    """
    if min(waves, width, repeats) < 1:
        raise ModelError(f"waves={waves}, width={width}, repeats={repeats}: give numbers from 1")
    if growth is None and waves not in GROWTH:
        raise ModelError(f"waves={waves} has no published growth; give growth, or one of {', '.join(map(str, GROWTH))}")
    by = GROWTH[waves] if growth is None else growth
    choose(PADDING, padding, "padding")
    layers = Layers(task.dims, norm=("group", {"groups": 1}), act="gelu", border=padding)
    # rounded down at each power, not from level to level
    widths = [int(width * by**level) for level in range(LEVELS)]
    return nn.Sequential(
        layers.conv(task.in_channels, width),
        *[Wave(layers, widths, repeats, dual) for _ in range(waves)],
        layers.conv(width, task.num_classes),
    )
