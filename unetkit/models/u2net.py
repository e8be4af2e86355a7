"""U^2-Net: a U-Net whose every stage is a small U-Net of its own (arXiv:2005.09007)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from unetkit.blocks.layers import Layers
from unetkit.errors import ModelError
from unetkit.registry import ModelInfo, register, variant
from unetkit.types import TaskShape

# levels of each stage's own U-Net, finest stage first; 0 stands for the flat one, which dilates instead of pooling
DEPTHS = (7, 6, 5, 4, 0, 0)
FLAT_DILATIONS = (1, 2, 4, 8)
# channels inside and behind each stage on the way down, then on the way up
DOWN = ((32, 64), (32, 128), (64, 256), (128, 512), (256, 512), (256, 512))
UP = ((16, 64), (32, 64), (64, 128), (128, 256), (256, 512))
NARROW = ((16, 64),) * 6
# in 3D the published channels would make 130 million parameters
SHRINK = {2: 1, 3: 2}


class DilatedUnit(nn.Sequential):
    """Convolution, norm, activation; the kernel's voxels stand `dilation` apart."""

    def __init__(self, layers: Layers, in_channels: int, channels: int, dilation: int = 1) -> None:
        conv = layers.conv(in_channels, channels, padding=dilation, dilation=dilation)
        super().__init__(conv, layers.norm(channels), layers.act())


class Climb(nn.Module):
    """From the last of several maps [B, C, *S] to the first: enlarge to the next one's size, join, apply its block.

    `blocks` stand in the order of the maps, one for all maps but the last. Returns one map per block.
    """

    def __init__(self, layers: Layers, blocks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.layers = layers
        self.blocks = nn.ModuleList(blocks)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        x = maps[-1]
        found: list[Tensor] = []
        for block, skip in zip(reversed(self.blocks), reversed(maps[:-1]), strict=True):
            if x.shape[2:] != skip.shape[2:]:
                x = self.layers.linear(x, skip.shape[2:])
            x = block(torch.cat([x, skip], 1))
            found.insert(0, x)
        return found


class ResidualU(nn.Module):
    """The paper's RSU: a U-Net of `depth` units on the projected input [B, out, *S], added to that input.

    All units but the last two halve their map before the next one; odd sizes are rounded up. With depth 0 there are
    four units at one resolution, with growing dilation.
    """

    def __init__(self, layers: Layers, in_channels: int, hidden: int, channels: int, depth: int) -> None:
        super().__init__()
        dilations = (*[1] * (depth - 1), 2) if depth else FLAT_DILATIONS
        last = len(dilations) - 1
        self.project = DilatedUnit(layers, in_channels, channels)
        self.down = nn.ModuleList(
            DilatedUnit(layers, channels if i == 0 else hidden, hidden, d) for i, d in enumerate(dilations)
        )
        self.pools = max(depth - 2, 0)
        self.pool = layers.pool(ceil_mode=True)
        up = [
            DilatedUnit(layers, 2 * hidden, channels if i == 0 else hidden, dilations[i] if not depth else 1)
            for i in range(last)
        ]
        self.up = Climb(layers, up)

    def forward(self, x: Tensor) -> Tensor:
        whole = x = self.project(x)
        maps = []
        for i, unit in enumerate(self.down):
            x = unit(self.pool(x) if 0 < i <= self.pools else x)
            maps.append(x)
        return self.up(maps)[0] + whole


class U2Net(nn.Module):
    """Stages on the way down and up, a side output of each decoder map and of the deepest, and their fusion.

    All outputs have the size of the input, for the side outputs are enlarged before they are fused; with deep
    supervision they follow the fused one, finest first.
    """

    def __init__(
        self,
        layers: Layers,
        task: TaskShape,
        down: Sequence[tuple[int, int]],
        up: Sequence[tuple[int, int]],
        deep_supervision: bool,
    ) -> None:
        super().__init__()
        self.layers = layers
        self.deep_supervision = deep_supervision
        self.pool = layers.pool(ceil_mode=True)
        widths = [width for _, width in down]
        before = (task.in_channels, *widths)
        self.down = nn.ModuleList(
            ResidualU(layers, c, hidden, width, depth)
            for c, (hidden, width), depth in zip(before, down, DEPTHS, strict=False)
        )
        # a decoder stage sees its skip and what comes from below
        ups = [*[width for _, width in up], widths[-1]]
        self.up = Climb(
            layers,
            [ResidualU(layers, widths[i] + ups[i + 1], *up[i], DEPTHS[i]) for i in range(len(up))],
        )
        self.sides = nn.ModuleList(layers.conv(c, task.num_classes) for c in ups)
        self.fuse = layers.conv(len(ups) * task.num_classes, task.num_classes, 1)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        full, maps = x.shape[2:], []
        for i, stage in enumerate(self.down):
            x = stage(self.pool(x) if i else x)
            maps.append(x)
        climbed = [*self.up(maps), maps[-1]]
        sides = [self.layers.linear(side(m), full) for side, m in zip(self.sides, climbed, strict=True)]
        fused = self.fuse(torch.cat(sides, 1))
        return (fused, *sides) if self.deep_supervision else fused


@register(
    ModelInfo(
        title="U²-Net",
        family="cnn",
        year=2020,
        paper="2005.09007",
        dims=(2, 3),
        deep_supervision=True,
        source=("github:xuebinqin/U-2-Net", "ac7e1c8", "Apache-2.0"),
        params={2: 44009869},
        params_at={2: (3, 1, (256, 256))},
        gflops={2: 75.01},
        activation_mb={2: 524.1},
        notes="any size: pooling rounds up and maps are enlarged to the size of their skip; the reference ends in a "
        "sigmoid and always returns the fused and the six side outputs, here they come with deep_supervision; in 3D, "
        "which the paper does not have, the channels are halved unless shrink=1",
    )
)
def u2net(task: TaskShape, *, shrink: int | None = None, deep_supervision: bool = False) -> nn.Module:
    """Build U^2-Net in its full size, or with all channels divided by `shrink` (1 to 16).

    Raises ModelError for another divisor.
    """
    by = SHRINK[task.dims] if shrink is None else shrink
    if not 1 <= by <= DOWN[0][0] // 2:
        raise ModelError(f"shrink={by} leaves stages without channels; give 1 to {DOWN[0][0] // 2}")
    down, up = ([(hidden // by, width // by) for hidden, width in stages] for stages in (DOWN, UP))
    return U2Net(Layers(task.dims), task, down, up, deep_supervision)


@variant(
    u2net,
    title="U²-Net, small",
    params={2: 1131181},
    gflops={2: 25.29},
    activation_mb={2: 366.0},
    notes="u2netp of the reference: every stage 16 channels wide inside and 64 behind; outputs as for u2net",
)
def u2net_small(task: TaskShape, *, deep_supervision: bool = False) -> nn.Module:
    """Build U^2-Net with all stages of one small width."""
    return U2Net(Layers(task.dims), task, NARROW, NARROW[:-1], deep_supervision)
