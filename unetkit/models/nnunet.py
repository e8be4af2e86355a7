"""nnU-Net's networks: plain convolutions (doi:10.1038/s41592-020-01008-z) or a residual encoder (arXiv:2404.09556).

Depth, strides, kernels and widths follow from the patch unless a plan gives them.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import nn

from unetkit.blocks.conv import Block, ConvStack, Repeat, ResidualBlockD, Stemmed
from unetkit.blocks.init import he_init
from unetkit.blocks.layers import Layers, Size
from unetkit.blocks.stages import StageSizes
from unetkit.blocks.unet import Encoder
from unetkit.registry import ModelInfo, register, variant
from unetkit.types import TaskShape

SLOPE = 0.01
RESIDUAL_BLOCKS = (1, 3, 4, 6)


def _assemble(
    task: TaskShape, sizes: StageSizes, down: Sequence[Block], up: Sequence[Block], deep_supervision: bool
) -> nn.Module:
    layers = Layers(task.dims, norm="instance", act="leaky_relu")
    encoder = Encoder(layers, task.in_channels, sizes.widths, down, strides=sizes.strides, pool=False)
    model = sizes.network(layers, encoder, up[:-1], task.num_classes, deep_supervision)
    he_init(model, SLOPE, zero_bias=True, zero_last=True)
    return model


def _stack(count: int, kernel: Size) -> Block:
    return partial(ConvStack, kernel=kernel, count=count)


def _residual(count: int, kernel: Size) -> Block:
    return partial(Repeat, block=partial(ResidualBlockD, kernel=kernel), count=count)


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
    down, up = (sizes.blocks(_stack, counts, [2]) for counts in (blocks, decoder_blocks))
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
    first, *rest = found.blocks(_residual, blocks, RESIDUAL_BLOCKS)
    down = [partial(Stemmed, block=first, kernel=found.kernels[0]), *rest]
    up = found.blocks(_residual if residual_decoder else _stack, decoder_blocks, [1])
    return _assemble(task, found, down, up, deep_supervision)
