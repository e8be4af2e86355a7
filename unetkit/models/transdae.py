"""TransDAE: blocks that attend over a coarser map and over channels, skips that see all scales (arXiv:2409.02018).

The paper has no public code and names no widths: this is a reconstruction on the frame of DAE-Former.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from unetkit.blocks.attention import TransformerBlock
from unetkit.blocks.checks import check_even, check_heads, check_levels
from unetkit.blocks.efficient import EfficientMixing
from unetkit.blocks.init import glorot_init
from unetkit.blocks.layers import Layers
from unetkit.blocks.mix_transformer import MLP_RATIO, JoinTo, MixMlp, MixUnet, ReducedAttention
from unetkit.blocks.swin import stem_channels
from unetkit.registry import ModelInfo, register
from unetkit.types import TaskShape


class LargeKernel(nn.Sequential):
    """The reach of a 21 wide convolution in three cheap ones: depthwise, depthwise dilated, 1 wide (VAN)."""

    def __init__(self, layers: Layers, channels: int) -> None:
        near = layers.conv(channels, channels, 5, groups=channels)
        # 7 wide at dilation 3 reaches 9 voxels to either side
        far = layers.conv(channels, channels, 7, padding=9, dilation=3, groups=channels)
        super().__init__(near, far, layers.conv(channels, channels, 1))


class ScaleExchange(nn.Module):
    """Add to the map of each level all maps at its size, mixed and weighted by large kernels."""

    def __init__(self, layers: Layers, widths: Sequence[int]) -> None:
        super().__init__()
        self.layers = layers
        self.mix = nn.ModuleList(layers.conv(sum(widths), width, 1) for width in widths)
        self.weigh = nn.ModuleList(LargeKernel(layers, width) for width in widths)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Map one map [B, *S, C] for each level to maps of the same shapes."""
        first = [x.movedim(-1, 1) for x in maps]  # channels
        found = []
        for own, mix, weigh in zip(first, self.mix, self.weigh, strict=True):
            size = own.shape[2:]
            scales = [x if x is own else self.layers.linear(x, size) for x in first]
            mixed = mix(torch.cat(scales, 1))
            found.append((own + mixed * weigh(mixed)).movedim(1, -1))
        return found


@register(
    ModelInfo(
        title="TransDAE",
        family="transformer",
        year=2024,
        paper="2409.02018",
        dims=(2, 3),
        multiple=16,
        multiple_by={"widths": 4},
        notes=(
            "A reconstruction: there is no public code. Stated in the paper's abstract are dual attention, over space "
            "with spatial reduction and over channels by efficient attention, and skips through an inter-scale module "
            "of decomposed large kernels. Widths and blocks are those of DAE-Former; heads, reductions, kernels "
            "(5, and 7 at dilation 3) and the exchange by concatenated scales are ours. Counts cannot be compared."
        ),
    )
)
def transdae(
    task: TaskShape,
    *,
    widths: Sequence[int] = (128, 320, 512),
    depths: Sequence[int] = (2, 2, 2),
    heads: Sequence[int] = (2, 5, 8),
    reductions: Sequence[int] = (4, 2, 1),
) -> nn.Module:
    """Build TransDAE with encoder `depths` per level; space is attended by `heads` on maps coarser by `reductions`.

    Raises ModelError if the options contradict each other.
    """
    check_levels(widths=widths, depths=depths, heads=heads, reductions=reductions)
    check_heads(widths, heads)
    check_even(widths)
    layers = Layers(task.dims)

    def block(level: int) -> nn.Module:
        width = widths[level]
        space = ReducedAttention(layers, width, heads[level], reductions[level])
        parts = (space, EfficientMixing(layers, width))
        mlps = (MixMlp(layers, width, MLP_RATIO * width) for _ in parts)
        return nn.Sequential(*(TransformerBlock(width, part, mlp) for part, mlp in zip(parts, mlps, strict=True)))

    joins = [JoinTo(below // 2, width) for width, below in reversed(list(pairwise(widths)))]
    model = MixUnet(layers, (stem_channels(task), task.num_classes), widths, depths, block, joins)
    model.bridge = ScaleExchange(layers, widths)
    glorot_init(model.bridge)
    return model
