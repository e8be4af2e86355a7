"""nnU-Net's networks: plain convolutions (doi:10.1038/s41592-020-01008-z) or a residual encoder (arXiv:2404.09556).

Depth, strides, kernels and widths follow from the patch unless a plan gives them.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import nn

from unetkit.blocks.conv import Block, ConvNormAct, ConvStack, Repeat, ResidualBlockD
from unetkit.blocks.init import he_init
from unetkit.blocks.layers import Layers, Size
from unetkit.blocks.stages import StageSizes
from unetkit.blocks.unet import Encoder
from unetkit.registry import ModelInfo, register, variant
from unetkit.types import TaskShape

SLOPE = 0.01
RESIDUAL_BLOCKS = (1, 3, 4, 6)

Stage = Callable[[int, Size], Block]
"""(level, kernel) -> the block of that level."""


def _assemble(task: TaskShape, sizes: StageSizes, encoder: Stage, decoder: Stage, deep_supervision: bool) -> nn.Module:
    layers = Layers(task.dims, norm="instance", act="leaky_relu")
    levels = range(len(sizes.widths))
    stages = [encoder(i, sizes.kernels[i]) for i in levels]
    down = Encoder(layers, task.in_channels, sizes.widths, stages, strides=sizes.strides, pool=False)
    blocks = [decoder(i, sizes.kernels[i]) for i in levels[:-1]]
    model = sizes.network(layers, down, blocks, task.num_classes, deep_supervision)
    he_init(model, SLOPE, zero_bias=True, zero_last=True)
    return model


def _per_level(counts: Sequence[int] | int | None, default: Sequence[int], levels: int) -> list[int]:
    """Return one count per level: the last of a shorter list is repeated."""
    known = [counts] if isinstance(counts, int) else list(counts or default)
    return [known[min(i, len(known) - 1)] for i in range(levels)]


def _stack(counts: Sequence[int]) -> Stage:
    return lambda level, kernel: partial(ConvStack, kernel=kernel, count=counts[level])


def _residual(counts: Sequence[int]) -> Stage:
    return lambda level, kernel: partial(Repeat, block=partial(ResidualBlockD, kernel=kernel), count=counts[level])


def _with_stem(residual: Stage) -> Stage:
    """Put one convolution to the first width before the blocks of the first level."""

    def stage(level: int, kernel: Size) -> Block:
        block = residual(level, kernel)
        if level > 0:
            return block

        def first(layers: Layers, in_channels: int, channels: int, stride: Size = 1) -> nn.Module:
            # the stem keeps the size: the stride is the block's
            stem = ConvNormAct(layers, in_channels, channels, 1, kernel)
            return nn.Sequential(stem, block(layers, channels, channels, stride))

        return first

    return stage


@register(
    ModelInfo(
        title="nnU-Net PlainConvUNet",
        family="cnn",
        year=2021,
        paper="10.1038/s41592-020-01008-z",
        dims=(2, 3),
        min_size=2,
        multiple_by={"strides": "product"},
        deep_supervision=True,
        source=("github:MIC-DKFZ/dynamic-network-architectures", "d35f85c", "Apache-2.0"),
        params={2: 46324558, 3: 31195594},
        params_at={2: (1, 2, (512, 512)), 3: (1, 2, (128, 128, 128))},
        gflops={2: 119.2, 3: 954.5},
        activation_mb={2: 658.0, 3: 3580.0},
        presets=("plain",),
        new="instance norm and strided convolutions; depth, strides and widths follow from the data",
        notes="sides must be multiples of the product of strides, which follow from the patch or the plan; "
        "without deep supervision the lower heads are built but unused",
    )
)
def plain_unet(
    task: TaskShape,
    *,
    widths: Sequence[int] | None = None,
    strides: Sequence[Size] | None = None,
    kernels: Sequence[Size] | None = None,
    blocks: Sequence[int] | int | None = None,
    decoder_blocks: Sequence[int] | int | None = None,
    deep_supervision: bool = False,
) -> nn.Module:
    """Build the plain network: `blocks` and `decoder_blocks` are convolutions per level, finest first.

    Raises ModelError if the lists differ in length, ShapeError if the strides do not divide the patch.
    """
    sizes = StageSizes(task, widths, strides, kernels)
    levels = len(sizes.widths)
    down, up = (_stack(_per_level(b, [2], levels)) for b in (blocks, decoder_blocks))
    return _assemble(task, sizes, down, up, deep_supervision)


@variant(
    plain_unet,
    title="nnU-Net ResidualEncoderUNet",
    year=2024,
    paper="2404.09556",
    params={2: 140017038, 3: 102349770},
    gflops={2: 260.2, 3: 1435.0},
    activation_mb={2: 1016.0, 3: 4373.0},
    presets=("M", "L", "XL"),
    new="a residual encoder, deep at its coarse levels, beside a decoder of one convolution a level",
    notes="M, L and XL are memory budgets of the planner, not networks; sides as plain_unet; "
    "without deep supervision the lower heads are built but unused",
)
def resenc_unet(
    task: TaskShape,
    *,
    blocks: Sequence[int] | int | None = None,
    decoder_blocks: Sequence[int] | int | None = None,
    residual_decoder: bool = False,
    deep_supervision: bool = False,
    **sizes: Any,
) -> nn.Module:
    """Build the residual-encoder network: `blocks` are residual blocks per level, finest first.

    `decoder_blocks` are convolutions per level, or residual blocks with `residual_decoder` (the ResidualUNet of the
    same library); widths, strides and kernels as for `plain_unet`, which see for what is raised.
    """
    found = StageSizes(task, **sizes)
    levels = len(found.widths)
    down = _with_stem(_residual(_per_level(blocks, RESIDUAL_BLOCKS, levels)))
    counts = _per_level(decoder_blocks, [1], levels)
    return _assemble(task, found, down, (_residual if residual_decoder else _stack)(counts), deep_supervision)
