"""Stages that normalise, change the resolution and only then activate, with skips that are added.

The frame of the lightest U-Nets: UNeXt (arXiv:2203.04967), MALUNet (arXiv:2211.01784), EGE-UNet (arXiv:2307.08473).
Their heads stand at half resolution or below a last enlargement without a skip.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from unetkit.blocks.init import fan_out_init, linear_init
from unetkit.blocks.layers import Layers, Size
from unetkit.blocks.unet import Chain
from unetkit.errors import ModelError

CONV_LEVELS = 3
GROUPS = 4


class PoolStage(nn.Sequential):
    """A block that gives `channels`, norm, max pooling by `stride`, activation."""

    def __init__(self, layers: Layers, block: nn.Module, channels: int, stride: Size = 2) -> None:
        super().__init__(block, layers.norm(channels), layers.pool(stride), layers.act())


class EnlargeStage(nn.Sequential):
    """A block that gives `channels`, norm, enlargement without weights by `stride`, activation."""

    def __init__(self, layers: Layers, block: nn.Module, channels: int, stride: int = 2) -> None:
        up = layers.up(channels, channels, stride) if stride > 1 else nn.Identity()
        super().__init__(block, layers.norm(channels), up, layers.act())


class SumDecoder(nn.Module):
    """From the deepest map up: a step, the skip of that level added, what comes after.

    `steps` and `after` are listed finest first, as the maps are. More steps than skips go on above the finest skip.
    """

    def __init__(self, steps: Sequence[nn.Module], after: Sequence[nn.Module] = ()) -> None:
        super().__init__()
        self.steps = nn.ModuleList(steps)
        self.after = nn.ModuleList(after or (nn.Identity() for _ in steps))

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Map encoder maps [B, C, *S], finest first, to as many decoder maps as there are steps, finest first."""
        *skips, x = maps
        found: list[Tensor] = []
        for step, after in zip(reversed(self.steps), reversed(self.after), strict=True):
            x = step(x)
            x = after(x + skips.pop()) if skips else after(x)
            found.insert(0, x)
        return found


class DilatedGroups(nn.ModuleList):
    """Equal groups of channels, each through a depthwise convolution of its own dilation, side by side again.

    `channels` are those of all groups; `norm(width)`, if given, returns what comes before each convolution.
    """

    def __init__(
        self, layers: Layers, channels: int, dilations: Sequence[int], norm: Callable[[int], nn.Module] | None = None
    ) -> None:
        part = channels // len(dilations)
        convs = [layers.conv(part, part, padding=step, dilation=step, groups=part) for step in dilations]
        super().__init__(nn.Sequential(norm(part), conv) if norm else conv for conv in convs)

    def forward(self, groups: Sequence[Tensor]) -> Tensor:
        """Map as many maps [B, C / groups, *S] as there are dilations to one [B, C, *S]."""
        return torch.cat([layer(group) for layer, group in zip(self, groups, strict=True)], 1)


def light_layers(dims: int) -> Layers:
    """Return the layers of MALUNet and EGE-UNet: four groups per norm, GELU, corners aligned when enlarging."""
    return Layers(dims, norm=("group", {"groups": GROUPS}), act="gelu", up="linear_aligned")


def light_stages(
    layers: Layers,
    in_channels: int,
    widths: Sequence[int],
    down: Callable[..., nn.Module],
    up: Callable[..., nn.Module],
) -> tuple[Chain, list[nn.Module]]:
    """Return the stages down and the steps up of MALUNet and EGE-UNet, finest first.

    The first levels are single convolutions, the others down(layers, in_channels, channels) and up(...) of the paper.
    The first map has half the resolution of the image, the two deepest share theirs. Raises ModelError unless there are
    levels below the convolutions and all widths divide into groups.
    """
    if len(widths) <= CONV_LEVELS or any(w % GROUPS or w < 1 for w in widths):
        raise ModelError(
            f"widths {list(widths)}: give more than {CONV_LEVELS}, each a multiple of {GROUPS}, as channels are grouped"
        )
    stages = Chain()
    steps: list[nn.Module] = []
    for level, (before, width) in enumerate(zip((in_channels, *widths), widths, strict=False)):
        deepest, plain = level == len(widths) - 1, level < CONV_LEVELS
        block = layers.conv(before, width) if plain else down(layers, before, width)
        stages.append(nn.Sequential(block, layers.act()) if deepest else PoolStage(layers, block, width))
        if level:
            block = layers.conv(width, before) if plain else up(layers, width, before)
            steps.append(EnlargeStage(layers, block, before, 1 if deepest else 2))
    return stages, steps


def light_init(model: nn.Module) -> None:
    """Draw starting weights as the code of MALUNet and EGE-UNet does."""
    linear_init(model)
    fan_out_init(model)
    for module in model.modules():
        if isinstance(module, nn.Conv1d):  # unlike the others not per group
            nn.init.normal_(module.weight, 0.0, (2 / (module.kernel_size[0] * module.out_channels)) ** 0.5)
