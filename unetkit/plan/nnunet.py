"""nnU-Net v2's own sizes, number for number: patch, batch, topology and resolutions from the medians of a data set.

The rules of doi:10.1038/s41592-020-01008-z with the residual-encoder presets of arXiv:2404.09556, as version 2.8 of
its planners applies them, oddities included: in 2D the presets insist that a batch of 12 fits, the plain planner that
a batch of 2 does; the presets let one batch hold a whole data set.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from math import isfinite, prod
from typing import Any

from unetkit.errors import RecipeError, ShapeError
from unetkit.plan.lowres import low_resolution
from unetkit.topology import Sizes, pool_topology

BASE_WIDTH = 32
MOST_WIDTH = {2: 512, 3: 320}
# Voxels of the patch that shrinking starts from, and the batch that the references below stand for, by dims.
_START = {2: 2048**2, 3: 256**3}
_REFERENCE_BATCH = {2: 12, 3: 2}
LEAST_BATCH = 2


@dataclass(frozen=True)
class Preset:
    """One of nnU-Net's planners: `reference` values of a batch fit `memory_gb`, one step sees at most `share` of all.

    `blocks` of the encoder per stage, finest first, the last one repeated: convolutions, or residual blocks if
    `residual`; `decoder` convolutions per stage on the way up.
    """

    memory_gb: float
    reference: dict[int, float]
    share: float = 1.0
    residual: bool = True
    blocks: tuple[int, ...] = (1, 3, 4, 6)
    decoder: int = 1

    def counts(self, stages: int) -> tuple[int, ...]:
        """Return the blocks of each of so many stages."""
        return tuple(self.blocks[min(i, len(self.blocks) - 1)] for i in range(stages))


PRESETS = {
    "plain": Preset(8, {2: 85e6, 3: 560e6}, share=0.05, residual=False, blocks=(2,), decoder=2),
    "M": Preset(8, {2: 135e6, 3: 680e6}),
    "L": Preset(24, {2: 380e6, 3: 2.1e9}),
    "XL": Preset(40, {2: 560e6, 3: 3.6e9}),
}


@dataclass(frozen=True)
class Configuration:
    """One resolution of a data set, axes after transposition.

    `spacing` in mm; `median_shape` in voxels (of an even number of cases it may end in a half); `estimate` counts the
    values that the network's convolutions give for one sample.
    """

    patch_size: tuple[int, ...]
    batch_size: int
    spacing: tuple[float, ...]
    strides: Sizes
    kernels: Sizes
    widths: tuple[int, ...]
    median_shape: tuple[float, ...]
    estimate: int
    batch_dice: bool = False


@dataclass(frozen=True)
class Budget:
    """What the sizes of all configurations are chosen for: cases that train, output channels, planner, GB."""

    num_cases: int
    num_labels: int
    preset: Preset = field(default_factory=lambda: PRESETS["plain"])
    memory_gb: float | None = None

    def reference(self, dims: int) -> float:
        """Return how many values of a reference batch fit."""
        return self.preset.reference[dims] * (self.gigabytes / self.preset.memory_gb)

    def limit(self, dims: int) -> float:
        """Return how many values one sample may have."""
        # The plain planner lets the patch grow until its least batch fits, the presets until the reference batch does.
        spare = 1.0 if self.preset.residual else _REFERENCE_BATCH[dims] / LEAST_BATCH
        return self.reference(dims) * spare

    @property
    def gigabytes(self) -> float:
        """The memory target: the preset's own unless one is given."""
        return self.memory_gb or self.preset.memory_gb


def nnunet_plan(
    spacing: Sequence[float],
    shape: Sequence[float],
    num_cases: int,
    num_labels: int,
    preset: str = "plain",
    *,
    memory_gb: float | None = None,
) -> dict[str, dict[str, Any]]:
    """Return nnU-Net's configurations of a data set by name: `2d`, and of volumes `3d_fullres` and maybe `3d_lowres`.

    `spacing` (mm) and `shape` (voxels) are medians before transposition, axes as nnU-Net reads them (z, y, x), or two
    numbers for 2D images; labels are counted with the background. `memory_gb` scales the preset's budget. Each
    configuration maps the names of `Configuration` to numbers after transposition: the coarsest axis comes first.

    Raises RecipeError for an unknown preset, ShapeError for sizes, spacings or counts that cannot be.
    """
    spacing, shape = [float(s) for s in spacing], [float(n) for n in shape]
    _check(spacing, shape, num_cases, num_labels)
    if memory_gb is not None and not memory_gb > 0:
        raise ShapeError(f"memory_gb {memory_gb:g}: give a positive number of GB")
    budget = Budget(num_cases, num_labels, preset_of(preset), memory_gb)
    order = coarsest_first(spacing)
    found = configurations([spacing[a] for a in order], [shape[a] for a in order], budget)
    return {name: asdict(configuration) for name, configuration in found.items()}


def preset_of(name: str) -> Preset:
    """Return a preset by name. Raises RecipeError with the nearest one if there is none."""
    if name not in PRESETS:
        raise RecipeError(f"preset '{name}': choose one of {', '.join(PRESETS)}")
    return PRESETS[name]


def _check(spacing: Sequence[float], shape: Sequence[float], num_cases: int, num_labels: int) -> None:
    if len(spacing) not in (2, 3) or len(shape) != len(spacing):
        raise ShapeError(f"spacing {list(spacing)}, shape {list(shape)}: give 2 or 3 numbers each, one per axis")
    if not all(isfinite(s) and s > 0 for s in spacing):
        raise ShapeError(f"spacing {list(spacing)}: give positive numbers in mm; correct the headers of the images")
    if not all(isfinite(n) and n >= 1 for n in shape):
        raise ShapeError(f"shape {list(shape)}: give at least 1 voxel per axis")
    if num_cases < 1 or num_labels < 1:
        raise ShapeError(f"{num_cases} cases, {num_labels} labels: give at least 1 of each (the background is one)")


def coarsest_first(spacing: Sequence[float]) -> tuple[int, ...]:
    """Return the axes with that of the largest spacing first (of equals the first one), the others in their order.

    2D images keep theirs.
    """
    axes = range(len(spacing))
    coarsest = 0 if len(spacing) == 2 else max(axes, key=lambda a: spacing[a])
    return (coarsest, *(a for a in axes if a != coarsest))


def configurations(spacing: Sequence[float], shape: Sequence[float], budget: Budget) -> dict[str, Configuration]:
    """Return every configuration for a median image of `shape` voxels at `spacing` mm, both after transposition."""
    voxels = prod(shape) * budget.num_cases
    found = {"2d": configuration(spacing[-2:], shape[-2:], voxels, budget, batch_dice=True)}
    if len(shape) == 2 or shape[0] == 1:
        return found
    full = configuration(spacing, shape, voxels, budget)

    def patch_at(coarser: tuple[float, ...], smaller: tuple[float, ...]) -> tuple[int, ...]:
        return coarse_configuration(coarser, smaller, budget).patch_size

    low = low_resolution(spacing, shape, full.patch_size, patch_at)
    if low is None:
        return {**found, "3d_fullres": full}
    coarse = coarse_configuration(low.spacing, low.shape, budget)
    return {**found, "3d_fullres": replace(full, batch_dice=True), "3d_lowres": coarse}


def coarse_configuration(spacing: Sequence[float], shape: Sequence[float], budget: Budget) -> Configuration:
    """Return the configuration of a lower resolution, where the median image has `shape` voxels, not rounded."""
    # Unlike at full resolution, the median image is rounded here, but not the number of voxels. nnU-Net itself fails
    # where that gives 0.
    return configuration(spacing, [max(1, round(n)) for n in shape], prod(shape) * budget.num_cases, budget)


def configuration(
    spacing: Sequence[float], shape: Sequence[float], voxels: float, budget: Budget, *, batch_dice: bool = False
) -> Configuration:
    """Return patch, batch and topology at one resolution; `voxels` are those of the whole data set."""
    dims = len(spacing)
    limit = budget.limit(dims)
    start = _start(spacing, shape)
    while True:
        strides, kernels, divisor = pool_topology(start, spacing)
        patch = [int(-(-n // d)) * d for n, d in zip(start, divisor, strict=True)]
        count = elements(patch, strides, budget.num_labels, budget.preset)
        if count <= limit:
            break
        start = _shrunk(patch, divisor, spacing, shape)
    return Configuration(
        patch_size=tuple(patch),
        batch_size=batch_size(patch, count, voxels, budget),
        spacing=tuple(spacing),
        strides=strides,
        kernels=kernels,
        widths=stage_widths(len(strides), dims),
        median_shape=tuple(shape),
        estimate=count,
        batch_dice=batch_dice,
    )


def batch_size(patch: Sequence[int], count: int, voxels: float, budget: Budget) -> int:
    """Return how many patches of `count` values fit, at most the preset's share of the data set's `voxels`."""
    cap = round(voxels * budget.preset.share / prod(patch))
    return max(min(fitting(patch, count, budget), cap), LEAST_BATCH)


def fitting(patch: Sequence[int], count: int, budget: Budget) -> int:
    """Return how many patches of `count` values fit."""
    dims = len(patch)
    return round(budget.reference(dims) / count * _REFERENCE_BATCH[dims])


def stage_widths(stages: int, dims: int) -> tuple[int, ...]:
    """Return channels per stage: doubled at each, up to a limit."""
    return tuple(min(BASE_WIDTH * 2**i, MOST_WIDTH[dims]) for i in range(stages))


def elements(patch: Sequence[int], strides: Sizes, num_labels: int, preset: Preset) -> int:
    """Return how many values the network's convolutions give for one patch, forward only, without lower heads."""
    widths, counts = stage_widths(len(strides), len(patch)), preset.counts(len(strides))
    total, size, last = 0, list(patch), len(strides) - 1
    for stage, (width, stride) in enumerate(zip(widths, strides, strict=True)):
        size = [n // s for n, s in zip(size, stride, strict=True)]
        blocks = counts[stage]
        if preset.residual:
            # Two convolutions a block, and one more: the stem at first, later the shortcut past the stride.
            blocks = 2 * blocks + 1
        # The way up has a transposed convolution and then plain ones.
        total += (blocks + (0 if stage == last else 1 + preset.decoder)) * width * prod(size)
    # A network of one stage has no way up, and its head is not counted.
    return total + (num_labels * prod(patch) if last else 0)


def _start(spacing: Sequence[float], shape: Sequence[float]) -> list[float]:
    """Return a cube in mm of the start volume, written in voxels, within the median image."""
    density = [1 / s for s in spacing]
    scale = (_START[len(spacing)] / prod(density)) ** (1 / len(spacing))
    return [min(round(d * scale), n) for d, n in zip(density, shape, strict=True)]


def _shrunk(
    patch: Sequence[int], divisor: Sequence[int], spacing: Sequence[float], shape: Sequence[float]
) -> list[float]:
    """Take one step off the axis that covers most of the median image, the last one of equals."""
    axis = max(range(len(patch)), key=lambda a: (patch[a] / shape[a], a))
    # The divisor of the size after a whole step: that of before would jump over sizes (256, 224, 192).
    trial = [n - divisor[a] if a == axis else n for a, n in enumerate(patch)]
    step = pool_topology(trial, spacing)[2][axis]
    return [n - step if a == axis else n for a, n in enumerate(patch)]
