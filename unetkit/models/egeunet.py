"""EGE-UNet: learned maps multiply groups of channels, and skips are led by masks from below (arXiv:2307.08473)."""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unetkit.blocks.conv import separable
from unetkit.blocks.layers import ChannelNorm, Layers
from unetkit.blocks.pooled import GROUPS, DilatedGroups, light_init, light_layers, light_stages
from unetkit.errors import ModelError
from unetkit.registry import ModelInfo, register
from unetkit.types import TaskShape

DILATIONS = (1, 2, 5, 7)
LEARNED_SIDE = 8
_norm = partial(ChannelNorm, eps=1e-6)


class HadamardAttention(nn.Module):
    """Multiply groups of channels by learned maps: one over all axes, one over each axis; one group is convolved.

    The maps are stored small, enlarged to the size of the input, and passed through two convolutions.
    """

    def __init__(self, layers: Layers, in_channels: int, channels: int) -> None:
        super().__init__()
        self.layers = layers
        # equal groups in 2D; chunk leaves the last smaller in 3D
        self.parts = layers.dims + 2
        space, *lines, rest = [len(part) for part in torch.arange(in_channels).chunk(self.parts)]
        self.norm = _norm(in_channels)
        self.space = nn.Parameter(torch.ones(1, space, *[LEARNED_SIDE] * layers.dims))
        self.space_convs = separable(layers, space, space, layers.act())
        self.lines = nn.ParameterList(torch.ones(1, 1, c, LEARNED_SIDE) for c in lines)
        self.line_convs = nn.ModuleList(
            nn.Sequential(nn.Conv1d(c, c, 3, padding=1, groups=c), layers.act(), nn.Conv1d(c, c, 1)) for c in lines
        )
        self.rest = nn.Sequential(layers.conv(rest, rest, 1), layers.act(), layers.conv(rest, rest, groups=rest))
        self.out = nn.Sequential(_norm(in_channels), *separable(layers, in_channels, channels, layers.act()))

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, in_channels, *S] to [B, channels, *S]."""
        space, *lines, rest = self.norm(x).chunk(self.parts, 1)
        size = x.shape[2:]
        found = [space * self.space_convs(self.layers.linear(self.space, size, aligned=True))]
        for axis, (part, small, convs) in enumerate(zip(lines, self.lines, self.line_convs, strict=True)):
            line = convs(F.interpolate(small[0], size[axis], mode="linear", align_corners=True))  # [1, c, n]
            shape = [n if i == axis else 1 for i, n in enumerate(size)]
            found.append(part * line.view(1, -1, *shape))
        return self.out(torch.cat([*found, self.rest(rest)], 1))


class GroupBridge(nn.Module):
    """Merge a skip with the skip below and a mask, quarters of the channels each at their own dilation."""

    def __init__(self, layers: Layers, below: int, channels: int, masks: int) -> None:
        super().__init__()
        self.layers = layers
        self.project = layers.conv(below, channels, 1)
        merged = 2 * channels + GROUPS * masks  # each group sees the whole mask
        self.groups = DilatedGroups(layers, merged, DILATIONS, _norm)
        self.out = nn.Sequential(_norm(merged), layers.conv(merged, channels, 1))

    def forward(self, below: Tensor, skip: Tensor, mask: Tensor) -> Tensor:
        """Return the merged skip, of the shape of `skip`."""
        below = self.layers.linear(self.project(below), skip.shape[2:], aligned=True)
        parts = zip(below.chunk(GROUPS, 1), skip.chunk(GROUPS, 1), strict=True)
        return self.out(self.groups([torch.cat([low, high, mask], 1) for low, high in parts]))


class EGEUNet(nn.Module):
    """Stages down; per step up a mask of the target, which leads the bridge between that level's skip and the last.

    With deep supervision the enlarged masks follow the logits, finest first, all at full size.
    """

    def __init__(self, task: TaskShape, widths: Sequence[int], masks: int, deep_supervision: bool) -> None:
        super().__init__()
        layers = light_layers(task.dims)
        self.layers, self.deep_supervision = layers, deep_supervision
        self.stages, steps = light_stages(layers, task.in_channels, widths, HadamardAttention, HadamardAttention)
        self.steps = nn.ModuleList(steps)
        self.masks = nn.ModuleList(layers.conv(c, masks, 1) for c in widths[:-1])
        self.bridges = nn.ModuleList(GroupBridge(layers, below, c, masks) for c, below in pairwise(widths))
        self.head = layers.conv(widths[0], task.num_classes, 1)
        light_init(self)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Map an image [B, C, *S] to logits [B, K, *S], or to a tuple with the masks behind them."""
        size = x.shape[2:]
        masks: list[Tensor] = []
        *skips, x = self.stages(x)
        below = x
        for level in reversed(range(len(skips))):
            x = self.steps[level](x)
            masks.insert(0, self.masks[level](x))
            below = self.bridges[level](below, skips[level], masks[0])
            x = x + below
        logits, *auxiliary = (self.layers.linear(m, size, aligned=True) for m in (self.head(x), *masks))
        return (logits, *auxiliary) if self.deep_supervision else logits


@register(
    ModelInfo(
        title="EGE-UNet",
        family="cnn",
        year=2023,
        paper="2307.08473",
        dims=(2, 3),
        multiple=32,
        multiple_by={"widths": 1},
        deep_supervision=True,
        source=("github:JCruan519/EGE-UNet", "f52ba30", "Apache-2.0"),
        params={2: 53374},
        params_at={2: (3, 1, (256, 256))},
        gflops={2: 0.1442},
        activation_mb={2: 26.51},
        notes="a mask has a channel per class, so that it can be supervised; the code (as_published) always gives it"
        " one, which is the same for one class; in 3D there is a group of channels per axis, five in all",
    )
)
def egeunet(
    task: TaskShape,
    *,
    widths: Sequence[int] = (8, 16, 24, 32, 48, 64),
    as_published: bool = False,
    deep_supervision: bool = False,
) -> nn.Module:
    """Build EGE-UNet of `widths` channels per level; the two deepest share a resolution.

    Raises ModelError if 4 groups do not divide the widths, or one mask is to be compared with several classes.
    """
    if as_published and deep_supervision and task.num_classes > 1:
        raise ModelError(
            f"as_published masks of one channel cannot be compared with {task.num_classes} classes; "
            "drop it or deep_supervision"
        )
    return EGEUNet(task, tuple(widths), 1 if as_published else task.num_classes, deep_supervision)
