"""nnU-Net's networks: plain convolutions (doi:10.1038/s41592-020-01008-z) or a residual encoder (arXiv:2404.09556).

Depth, strides, kernels and widths follow from the patch unless a plan gives them.
"""

from collections.abc import Callable, Sequence
from functools import partial

from torch import nn

from unetkit.blocks.conv import Block, ConvNormAct, ConvStack, Repeat, ResidualBlockD
from unetkit.blocks.init import he_init
from unetkit.blocks.layers import Layers, Size, per_axis
from unetkit.blocks.unet import Decoder, Encoder, Heads, UNet, check_divides
from unetkit.errors import ModelError
from unetkit.registry import ModelInfo, register
from unetkit.topology import pool_topology
from unetkit.types import TaskShape

BASE_WIDTH = 32
MOST_WIDTH = {2: 512, 3: 320}
SLOPE = 0.01
RESIDUAL_BLOCKS = (1, 3, 4, 6)

Stage = Callable[[int, Size], Block]
"""(level, kernel) -> the block of that level."""


class Sizes:
    """Widths, strides and kernels of every level, given or derived from a patch of equal spacing.

    Raises ModelError if what is given is not of one length.
    """

    def __init__(
        self,
        task: TaskShape,
        widths: Sequence[int] | None,
        strides: Sequence[Size] | None,
        kernels: Sequence[Size] | None,
    ) -> None:
        # without a plan nothing is known of the spacing, so all axes are treated alike
        own_strides, own_kernels, _ = pool_topology(task.patch_size, (1.0,) * task.dims)
        chosen = strides or own_strides
        self.strides = tuple(per_axis(s, task.dims) for s in chosen)
        levels = len(self.strides)
        # kernels derived for other strides would not fit in number
        self.kernels = tuple(kernels or (own_kernels if strides is None else [3] * levels))
        most = MOST_WIDTH[task.dims]
        self.widths = tuple(widths or (min(BASE_WIDTH * 2**i, most) for i in range(levels)))
        if not levels == len(self.kernels) == len(self.widths):
            raise ModelError(
                f"{levels} strides, {len(self.kernels)} kernels and {len(self.widths)} widths for patch "
                f"{task.patch_size}; give one of each per level, or only strides"
            )
        self.divisor = tuple(_product(axis) for axis in zip(*self.strides, strict=True))
        check_divides(self.divisor, task.patch_size)


def _product(numbers: Sequence[int]) -> int:
    result = 1
    for n in numbers:
        result *= n
    return result


def _assemble(task: TaskShape, sizes: Sizes, encoder: Stage, decoder: Stage, deep_supervision: bool) -> nn.Module:
    layers = Layers(task.dims, norm="instance", act="leaky_relu")
    levels = range(len(sizes.widths))
    down = Encoder(
        layers,
        task.in_channels,
        sizes.widths,
        [encoder(i, sizes.kernels[i]) for i in levels],
        strides=sizes.strides,
        pool=False,
    )
    blocks = [decoder(i, sizes.kernels[i]) for i in levels[:-1]]
    up = Decoder(layers, sizes.widths, sizes.strides, blocks, join="up_first")
    # a patch too small to be halved leaves one level and no decoder; lower heads exist always, as in the reference
    heads = Heads(layers, up.channels or sizes.widths, task.num_classes, deep_supervision=deep_supervision, always=True)
    model = UNet(down, up, heads, sizes.divisor)
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
        presets=("plain",),
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
    sizes = Sizes(task, widths, strides, kernels)
    levels = len(sizes.widths)
    down, up = (_stack(_per_level(b, [2], levels)) for b in (blocks, decoder_blocks))
    return _assemble(task, sizes, down, up, deep_supervision)


@register(
    ModelInfo(
        title="nnU-Net ResidualEncoderUNet",
        family="cnn",
        year=2024,
        paper="2404.09556",
        dims=(2, 3),
        min_size=2,
        multiple_by={"strides": "product"},
        deep_supervision=True,
        source=("github:MIC-DKFZ/dynamic-network-architectures", "d35f85c", "Apache-2.0"),
        params={2: 140017038, 3: 102349770},
        params_at={2: (1, 2, (512, 512)), 3: (1, 2, (128, 128, 128))},
        presets=("M", "L", "XL"),
        notes="M, L and XL are memory budgets of the planner, not networks; sides as plain_unet; "
        "without deep supervision the lower heads are built but unused",
    )
)
def resenc_unet(
    task: TaskShape,
    *,
    widths: Sequence[int] | None = None,
    strides: Sequence[Size] | None = None,
    kernels: Sequence[Size] | None = None,
    blocks: Sequence[int] | int | None = None,
    decoder_blocks: Sequence[int] | int | None = None,
    residual_decoder: bool = False,
    deep_supervision: bool = False,
) -> nn.Module:
    """Build the residual-encoder network: `blocks` are residual blocks per level, finest first.

    `decoder_blocks` are convolutions per level, or residual blocks with `residual_decoder` (the ResidualUNet of the
    same library). Raises ModelError if the lists differ in length, ShapeError if the strides do not divide the patch.
    """
    sizes = Sizes(task, widths, strides, kernels)
    levels = len(sizes.widths)
    down = _with_stem(_residual(_per_level(blocks, RESIDUAL_BLOCKS, levels)))
    counts = _per_level(decoder_blocks, [1], levels)
    return _assemble(task, sizes, down, (_residual if residual_decoder else _stack)(counts), deep_supervision)
