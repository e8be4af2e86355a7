"""STU-Net: a residual U-Net of six levels whose depth and width grow together (arXiv:2304.06716)."""

import re
from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from unetkit.blocks.conv import ResidualUnit
from unetkit.blocks.layers import Layers, Size
from unetkit.blocks.stages import StageSizes
from unetkit.blocks.unet import Encoder
from unetkit.models._pretrained import Renames, load_matching, read_weights, rename
from unetkit.registry import ModelInfo, register, variant
from unetkit.topology import pool_topology
from unetkit.types import TaskShape

MULTIPLIERS = (1, 2, 4, 8, 16, 16)
LEVELS = len(MULTIPLIERS)


def _stage(layers: Layers, in_channels: int, channels: int, stride: Size = 1, *, depth: int) -> nn.Module:
    # the first unit projects even where channels and size stay, so that weights fit whatever the strides are
    first = ResidualUnit(layers, in_channels, channels, stride, project=True)
    return nn.Sequential(first, *(ResidualUnit(layers, channels, channels) for _ in range(depth - 1)))


def _build(
    task: TaskShape, base: int, depth: int, strides: Sequence[Size] | None, weights: str | None, deep_supervision: bool
) -> nn.Module:
    """Build the network of `base` channels at the finest level and `depth` units per level."""
    planned = list(strides or pool_topology(task.patch_size, (1.0,) * task.dims)[0])
    # six levels in any case: strides beyond are dropped, missing ones are 1
    own = [1, *planned[1:LEVELS], *[1] * (LEVELS - len(planned))]
    sizes = StageSizes(task, [base * m for m in MULTIPLIERS], own, None)
    layers = Layers(task.dims, norm="instance", act="leaky_relu", up="nearest_project")
    stage = partial(_stage, depth=depth)
    encoder = Encoder(layers, task.in_channels, sizes.widths, stage, strides=sizes.strides, pool=False)
    model = sizes.network(layers, encoder, stage, task.num_classes, deep_supervision)
    if weights:
        load_stunet(model, read_weights(weights))
    return model


def load_stunet(model: nn.Module, state: dict[str, Tensor]) -> int:
    """Load tensors under the names of the reference or our own; return how many were taken.

    The reference counts decoder levels from the deepest. Heads for other classes stay new. Raises ModelError if
    nothing fits.
    """

    def level(match: re.Match[str]) -> str:
        part = {"upsample_layers": "ups", "conv_blocks_localization": "blocks", "seg_outputs": "convs"}[match[1]]
        room = "heads" if part == "convs" else "decoder"
        return f"{room}.{part}.{LEVELS - 2 - int(match[2])}."

    renames: Renames = [
        (r"^module\.", ""),
        (r"^conv_blocks_context\.(\d)\.", r"encoder.stages.\1.0."),
        (r"^(upsample_layers|conv_blocks_localization|seg_outputs)\.(\d)\.", level),
        (r"^(decoder\.ups\.\d)\.conv\.", r"\1.1."),
        (r"\.(conv|norm)1\.", lambda m: f".first.{int(m[1] == 'norm')}."),
        (r"\.(conv|norm)2\.", lambda m: f".second.{int(m[1] == 'norm')}."),
        (r"\.conv3\.", ".shortcut."),
    ]
    return load_matching(model, rename(state, renames))


@register(
    ModelInfo(
        title="STU-Net-S",
        family="cnn",
        year=2023,
        paper="2304.06716",
        dims=(2, 3),
        min_size=2,
        multiple_by={"strides": "product"},
        deep_supervision=True,
        source=("github:uni-medical/STU-Net", "0652eaf", "Apache-2.0"),
        params={3: 14596941},
        params_at={3: (1, 105, (128, 128, 128))},
        gflops={3: 256.4},
        activation_mb={3: 2154.0},
        notes="six levels whatever the patch: strides of a plan are cut or filled up; without deep supervision the"
        " lower heads are built but unused; 2D is our extension; weights takes the released tensors by their names",
    )
)
def stunet_s(
    task: TaskShape,
    *,
    strides: Sequence[Size] | None = None,
    weights: str | None = None,
    deep_supervision: bool = False,
) -> nn.Module:
    """Build STU-Net-S, of 16 channels at the finest level; `strides` per level are those of a plan.

    `weights` is a .safetensors or .npz file. Raises ShapeError if the strides do not divide the patch.
    """
    return _build(task, 16, 1, strides, weights, deep_supervision)


@variant(stunet_s, title="STU-Net-B", params={3: 58262669}, gflops={3: 1008.0}, activation_mb={3: 4299.0})
def stunet_b(task: TaskShape, **options: Any) -> nn.Module:
    """Build STU-Net-B, of 32 channels at the finest level and a unit per level; options as those of `stunet_s`."""
    return _build(task, 32, 1, **options)


@variant(stunet_s, title="STU-Net-L", params={3: 440302605}, gflops={3: 7598.0}, activation_mb={3: 14310.0})
def stunet_l(task: TaskShape, **options: Any) -> nn.Module:
    """Build STU-Net-L, of 64 channels at the finest level and 2 units per level; options as those of `stunet_s`."""
    return _build(task, 64, 2, **options)


@variant(stunet_s, title="STU-Net-H", params={3: 1457326221}, gflops={3: 25170.0}, activation_mb={3: 30050.0})
def stunet_h(task: TaskShape, **options: Any) -> nn.Module:
    """Build STU-Net-H, of 96 channels at the finest level and 3 units per level; options as those of `stunet_s`."""
    return _build(task, 96, 3, **options)
