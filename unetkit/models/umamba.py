"""U-Mamba: a residual U-Net in which Mamba reads whole maps, the deepest or all of the encoder (arXiv:2401.04722)."""

from collections.abc import Sequence
from functools import partial

from torch import nn

from unetkit.blocks.layers import Layers, Size
from unetkit.blocks.mamba import Mamba
from unetkit.blocks.stages import StageSizes
from unetkit.blocks.tokens import After, halved_counts, no_layer, over_tokens, tie_to_patch, token_unet
from unetkit.registry import ModelInfo, register
from unetkit.types import TaskShape

TOP_SKIP = {2: False, 3: True}
"""Whether the decoder sees the finest map of the encoder."""
EVERY = {2: 2, 3: 1}
"""Every how many-th stage of U-Mamba Enc has a layer, counted from the deepest."""
BLOCKS = 2


def _normed(channels: int) -> nn.Module:
    return nn.Sequential(nn.LayerNorm(channels), Mamba(channels))


def _mamba(layers: Layers, channels: int, size: tuple[int, ...], *, swap: bool = False) -> nn.Module:
    return over_tokens(_normed, channels, size, swap=swap)


def _umamba(task: TaskShape, sizes: StageSizes, after: Sequence[After], deep_supervision: bool) -> nn.Module:
    levels = len(sizes.widths)
    counts = halved_counts(BLOCKS, levels)
    return token_unet(
        task,
        sizes,
        counts,
        (after, [no_layer] * (levels - 1)),
        top_skip=TOP_SKIP[task.dims],
        deep_supervision=deep_supervision,
    )


@register(
    ModelInfo(
        title="U-Mamba Bot",
        family="ssm",
        year=2024,
        paper="2401.04722",
        dims=(2, 3),
        min_size=2,
        multiple_by={"strides": "product"},
        deep_supervision=True,
        source=("github:bowang-lab/U-Mamba", "28459e3", "Apache-2.0"),
        params={2: 47533012, 3: 42130054},
        params_at={2: (1, 14, (320, 320)), 3: (1, 14, (128, 128, 128))},
        gflops={2: 82.02, 3: 1941.0},
        activation_mb={2: 521.6, 3: 7936.0},
        new="a Mamba layer over the voxels of the deepest map of a residual U-Net",
        notes="Sides must be multiples of the product of strides, which follow from the patch or the plan; without "
        "deep supervision the lower heads are built but unused. As in the reference the Mamba layer has no residual, "
        "half of the levels have one block, and in 2D the decoder does not see the finest map.",
    )
)
def umamba_bot(
    task: TaskShape,
    *,
    widths: Sequence[int] | None = None,
    strides: Sequence[Size] | None = None,
    kernels: Sequence[Size] | None = None,
    deep_supervision: bool = False,
) -> nn.Module:
    """Build U-Mamba with one layer after the deepest stage.

    Raises ModelError if the lists differ in length, ShapeError if the strides do not divide the patch.
    """
    sizes = StageSizes(task, widths, strides, kernels)
    after: list[After] = [*(no_layer for _ in sizes.widths[1:]), _mamba]
    return _umamba(task, sizes, after, deep_supervision)


@register(
    ModelInfo(
        title="U-Mamba Enc",
        family="ssm",
        year=2024,
        paper="2401.04722",
        dims=(2, 3),
        min_size=2,
        multiple_by={"strides": "product"},
        deep_supervision=True,
        source=("github:bowang-lab/U-Mamba", "28459e3", "Apache-2.0"),
        params={2: 49355476, 3: 43403654},
        params_at={2: (1, 14, (320, 320)), 3: (1, 14, (128, 128, 128))},
        gflops={2: 87.83, 3: 2031.0},
        activation_mb={2: 787.2, 3: 13460.0},
        new="Mamba layers over the voxels of every map of the encoder of a residual U-Net",
        notes="As U-Mamba Bot; in 2D every other stage has a layer. as_published=true takes channels as tokens where "
        "a map has no more voxels than channels, which ties the weights to the patch size: 47015538 parameters in 2D. "
        "By default voxels are the tokens everywhere; the counts are those of the reference with that rule switched "
        "off. Without deep supervision the lower heads are built but unused.",
    )
)
def umamba_enc(
    task: TaskShape,
    *,
    widths: Sequence[int] | None = None,
    strides: Sequence[Size] | None = None,
    kernels: Sequence[Size] | None = None,
    deep_supervision: bool = False,
    as_published: bool = False,
) -> nn.Module:
    """Build U-Mamba with layers along the encoder, in 3D after every stage; `as_published` ties it to the patch size.

    Raises ModelError if the lists differ in length, ShapeError if the strides do not divide the patch.
    """
    sizes = StageSizes(task, widths, strides, kernels)
    levels = len(sizes.widths)
    layer = partial(_mamba, swap=as_published)
    after = [no_layer if (levels - 1 - i) % EVERY[task.dims] else layer for i in range(levels)]
    model = _umamba(task, sizes, after, deep_supervision)
    if as_published:
        tie_to_patch(model, task.patch_size)
    return model
