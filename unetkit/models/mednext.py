"""MedNeXt: ConvNeXt blocks at every step of a U-Net, those that change the resolution included (arXiv:2303.09975).

The network stands in `_mednext`; large kernels start from the weights of one with small ones, see `_upkern`.
"""

from typing import Any

from torch import nn

from unetkit.models._mednext import Scale, build_mednext
from unetkit.registry import ModelInfo, register, variant
from unetkit.types import TaskShape


@register(
    ModelInfo(
        title="MedNeXt-S",
        family="cnn",
        year=2023,
        paper="2303.09975",
        dims=(2, 3),
        multiple=16,
        min_size=32,
        deep_supervision=True,
        source=("github:MIC-DKFZ/MedNeXt", "0b78ed8", "Apache-2.0"),
        params={3: 5550914},
        params_at={3: (1, 2, (128, 128, 128))},
        gflops={3: 254.5},
        activation_mb={3: 15130.0},
        notes="as_published=true adds the reference's dummy_tensor, one unused parameter; counted here without it and"
        " without the lower heads of deep supervision",
    )
)
def mednext_s(
    task: TaskShape,
    *,
    kernel: int = 3,
    weights: str | None = None,
    deep_supervision: bool = False,
    as_published: bool = False,
) -> nn.Module:
    """Build MedNeXt-S with depthwise kernels of 3 or 5.

    `weights` (.safetensors or .npz) may have been trained with the other kernel: see `upkern`. Raises ModelError for
    another kernel.
    """
    return build_mednext(task, Scale((2,) * 9, (2,) * 9), kernel, weights, deep_supervision, as_published)


@variant(mednext_s, title="MedNeXt-B", params={3: 10526306}, gflops={3: 333.3}, activation_mb={3: 16520.0})
def mednext_b(task: TaskShape, **options: Any) -> nn.Module:
    """Build MedNeXt-B; options as those of `mednext_s`."""
    return build_mednext(task, Scale((2, 3, 4, 4, 4, 4, 4, 3, 2), (2,) * 9), **options)


@variant(
    mednext_s,
    title="MedNeXt-M",
    params={3: 17548962},
    gflops={3: 487.1},
    activation_mb={3: 3042.0},
    notes="as mednext_s; blocks are computed again in the backward pass, as published",
)
def mednext_m(task: TaskShape, **options: Any) -> nn.Module:
    """Build MedNeXt-M; options as those of `mednext_s`."""
    scale = Scale((2, 3, 4, 4, 4, 4, 4, 3, 2), (3, 4, 4, 4, 4, 4, 4, 4, 3), save_memory=True)
    return build_mednext(task, scale, **options)


@variant(mednext_m, title="MedNeXt-L", params={3: 61779266}, gflops={3: 989.1}, activation_mb={3: 3214.0})
def mednext_l(task: TaskShape, **options: Any) -> nn.Module:
    """Build MedNeXt-L; options as those of `mednext_s`."""
    scale = Scale((3, 4, 8, 8, 8, 8, 8, 4, 3), (3, 4, 8, 8, 8, 8, 8, 4, 3), save_memory=True)
    return build_mednext(task, scale, **options)
