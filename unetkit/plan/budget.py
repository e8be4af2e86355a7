"""How large a patch and batch a memory target allows: nnU-Net's rule (doi:10.1038/s41592-020-01008-z).

The estimate counts the outputs of a plain U-Net's convolutions; its references were calibrated on an 8 GB GPU.
Other networks are planned with it too, at sizes that they can take.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import lcm, prod

from unetkit.registry import ModelInfo
from unetkit.topology import Sizes, pool_topology

BASE_WIDTH = 32
LARGEST_WIDTH = {2: 512, 3: 320}
LARGEST_BATCH = 64
# Numbers of nnU-Net's default planner: start size, values of the reference batch, and that batch, by dims.
_START = {2: 2048**2, 3: 256**3}
_REFERENCE = {2: 85e6, 3: 560e6}
_REFERENCE_BATCH = {2: 12, 3: 2}
_REFERENCE_GB = 8.0
_LARGEST_AUTO_GB = 24.0
_SMALLEST_BATCH = 2
_SHARE_OF_DATA = 0.05
_COMMON_DIVISOR = 16


def memory_target(asked: float | str) -> float:
    """Return the memory target in GB: as asked, or that of the GPU within limits, or that of a small GPU."""
    if asked != "auto":
        return float(asked)
    import torch  # planning itself needs none of it

    if not torch.cuda.is_available():
        return _REFERENCE_GB
    return min(torch.cuda.get_device_properties(0).total_memory / 1e9, _LARGEST_AUTO_GB)


@dataclass(frozen=True)
class Setting:
    """What sizes are chosen for: median image size in voxels, spacing in mm, outputs of the network, GB, the model."""

    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    num_outputs: int
    memory_gb: float
    info: ModelInfo

    @property
    def dims(self) -> int:
        """Axes of the patch."""
        return len(self.spacing)

    @property
    def follows_plan(self) -> bool:
        """Whether the network takes its strides from the plan; others have their own."""
        return "strides" in self.info.options

    @property
    def limit(self) -> float:
        """Elements of one sample with which the smallest batch still fits."""
        return self._elements * _REFERENCE_BATCH[self.dims] / _SMALLEST_BATCH

    @property
    def _elements(self) -> float:
        """Elements of one sample with which the reference batch fits."""
        return _REFERENCE[self.dims] * self.memory_gb / _REFERENCE_GB

    def batch_of(self, count: int) -> int:
        """Return how many samples of `count` elements fit."""
        return round(self._elements / count * _REFERENCE_BATCH[self.dims])


def stage_widths(stages: int, dims: int) -> tuple[int, ...]:
    """Return channels per stage: doubled at each, up to a limit."""
    return tuple(min(BASE_WIDTH * 2**i, LARGEST_WIDTH[dims]) for i in range(stages))


def elements(patch: Sequence[int], strides: Sizes, num_outputs: int) -> int:
    """Return the number of values that the convolutions of a plain U-Net give for one patch, forward only."""
    total, size = num_outputs * prod(patch), list(patch)
    for stage, width in enumerate(stage_widths(len(strides), len(patch))):
        size = [-(-n // s) for n, s in zip(size, strides[stage], strict=True)]
        # two convolutions down; but for the bottleneck, one transposed and two plain ones up
        total += (2 if stage == len(strides) - 1 else 5) * width * prod(size)
    return total


def choose_patch(setting: Setting) -> tuple[int, ...]:
    """Return the largest patch of the image's proportions in mm, within the median image, whose batch of 2 fits."""
    density = [1 / s for s in setting.spacing]
    # A cube in mm, written in voxels: side a = scale / spacing[a], product = start volume.
    scale = (_START[setting.dims] / prod(density)) ** (1 / setting.dims)
    start = [min(round(d * scale), n) for d, n in zip(density, setting.shape, strict=True)]
    patch = legal(start, setting)
    while _too_large(patch, setting):
        smaller = _shrunk(patch, setting)
        if smaller is None:
            break
        patch = smaller
    return patch


def choose_batch(patch: Sequence[int], setting: Setting, dataset_voxels: float) -> int:
    """Return the batch that fits, at most a twentieth of the data set's voxels and never more than a limit."""
    fits = setting.batch_of(_cost(patch, setting))
    # One step must not see more than a twentieth of all voxels, or small sets would be learnt by heart.
    cap = round(dataset_voxels * _SHARE_OF_DATA / prod(patch))
    return max(min(fits, cap, LARGEST_BATCH), _SMALLEST_BATCH)


def legal(size: Sequence[int], setting: Setting) -> tuple[int, ...]:
    """Return the smallest size from `size` up that pooling divides and the model takes."""
    divisor = _divisor(size, setting)
    return setting.info.legal_size([-(-n // d) * d for n, d in zip(size, divisor, strict=True)])


def _divisor(size: Sequence[int], setting: Setting) -> tuple[int, ...]:
    """Return what sides should divide by: all poolings of a network that follows the plan, four of any other."""
    divisor = pool_topology(size, setting.spacing)[2]
    return divisor if setting.follows_plan else tuple(min(d, _COMMON_DIVISOR) for d in divisor)


def _cost(patch: Sequence[int], setting: Setting) -> int:
    return elements(patch, pool_topology(patch, setting.spacing)[0], setting.num_outputs)


def _too_large(patch: Sequence[int], setting: Setting) -> bool:
    return _cost(patch, setting) > setting.limit


def _shrunk(patch: tuple[int, ...], setting: Setting) -> tuple[int, ...] | None:
    """Take the least step off the axis that covers most of the image; None if no axis can become smaller."""
    # The axis with the largest patch / image ratio loses least context when it shrinks.
    order = sorted(range(len(patch)), key=lambda a: patch[a] / setting.shape[a], reverse=True)
    for axis in order:
        # Pooling and the model both have to divide what is left.
        step = lcm(_least_step(patch, axis, setting), setting.info.multiple)
        axes = range(len(patch)) if setting.info.square else (axis,)
        candidate = [n - step if a in axes else n for a, n in enumerate(patch)]
        if min(candidate) > 0:
            smaller = legal(candidate, setting)
            if prod(smaller) < prod(patch):
                return smaller
    return None


def _least_step(patch: Sequence[int], axis: int, setting: Setting) -> int:
    """Return the divisor that the axis has after one step: that of before may jump over sizes (256, 224, 192)."""
    before = _divisor(patch, setting)[axis]
    trial = [max(n - before, 1) if a == axis else n for a, n in enumerate(patch)]
    return _divisor(trial, setting)[axis]
