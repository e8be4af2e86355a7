"""U-Mamba: a residual U-Net in which Mamba reads whole maps, the deepest or all of the encoder (arXiv:2401.04722)."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from unetkit.blocks.layers import Size
from unetkit.blocks.mamba import Mamba
from unetkit.blocks.stages import StageSizes
from unetkit.blocks.tokens import no_layer, over_tokens, tie_to_patch, token_encoder_unet
from unetkit.registry import ModelInfo, register, variant
from unetkit.types import TaskShape

EVERY = {2: 2, 3: 1}
"""Every how many-th stage of U-Mamba Enc has a layer, counted from the deepest."""


def _normed(channels: int) -> nn.Module:
    return nn.Sequential(nn.LayerNorm(channels), Mamba(channels))


def _build(task: TaskShape, every: int | None, swap: bool, deep_supervision: bool, **lists: Any) -> nn.Module:
    """Build the network with a layer after the deepest stage, or after `every` so many-th from there up."""
    sizes = StageSizes(task, **lists)
    levels = len(sizes.widths)
    layer = over_tokens(_normed, swap=swap)
    after = [no_layer if (levels - 1 - i) % (every or levels) else layer for i in range(levels)]
    model = token_encoder_unet(task, sizes, after, deep_supervision)
    if swap:
        tie_to_patch(model, task.patch_size)
    return model


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
    return _build(task, None, False, deep_supervision, widths=widths, strides=strides, kernels=kernels)


@variant(
    umamba_bot,
    title="U-Mamba Enc",
    params={2: 49355476, 3: 43403654},
    gflops={2: 87.83, 3: 2031.0},
    activation_mb={2: 787.2, 3: 13460.0},
    new="Mamba layers over the voxels of every map of the encoder of a residual U-Net",
    notes="As U-Mamba Bot; in 2D every other stage has a layer. as_published=true takes channels as tokens where "
    "a map has no more voxels than channels, which ties the weights to the patch size: 47015538 parameters in 2D. "
    "By default voxels are the tokens everywhere; the counts are those of the reference with that rule switched "
    "off. Without deep supervision the lower heads are built but unused.",
)
def umamba_enc(task: TaskShape, *, as_published: bool = False, **options: Any) -> nn.Module:
    """Build U-Mamba with layers along the encoder, in 3D after every stage; `as_published` ties it to the patch size.

    Other options and errors are those of `umamba_bot`.
    """
    return _build(task, EVERY[task.dims], as_published, **options)
