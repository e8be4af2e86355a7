"""How large a patch and batch a memory target allows, for any model: sizes are weighed, not guessed.

The patch comes from nnU-Net's descent (doi:10.1038/s41592-020-01008-z): the image's proportions in mm, shrunk step by
step along the axis that covers most of the image. Where it stops is a matter of the model's own memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import lcm, prod

from unetkit.errors import RecipeError
from unetkit.plan import nnunet
from unetkit.registry import ModelInfo
from unetkit.topology import pool_topology

LARGEST_BATCH = {2: 64, 3: 16}
"""Samples of a step beyond which more of them only make it slower, by dims."""
SMALLEST_BATCH = 2
# The batch that a patch has to leave room for if the data set is large enough, and the voxels that shrinking starts
# from, by dims.
_WANTED_BATCH = {2: 12, 3: 2}
_START = {2: 2048**2, 3: 256**3}
_SMALL_GPU_GB = 8.0
_LARGEST_AUTO_GB = 24.0
_SHARE_OF_DATA = 0.05
_COMMON_DIVISOR = 16
# A step that takes less than this share by arithmetic is tried at its full batch at once.
_FAR_BELOW = 0.25
# Guesses by proportion find most patches at once; where memory is no matter of voxels, halving is sure to end.
_GUESSES = 4

Weigh = Callable[[tuple[int, ...], int], float]
"""(patch, batch) -> GB that a training step takes."""


def memory_target(asked: float | str) -> float:
    """Return the memory target in GB: as asked, or that of the GPU within limits, or that of a small GPU."""
    if asked != "auto":
        return float(asked)
    import torch  # planning itself needs none of it

    if not torch.cuda.is_available():
        return _SMALL_GPU_GB
    return min(torch.cuda.get_device_properties(0).total_memory / 1e9, _LARGEST_AUTO_GB)


@dataclass(frozen=True)
class Setting:
    """What sizes are chosen for: median image size in voxels, spacing in mm, outputs of the network, GB, the model.

    `weigh` measures the model's own training step; without it the convolutions of a plain U-Net are counted.
    """

    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    num_outputs: int
    memory_gb: float
    info: ModelInfo
    weigh: Weigh | None = field(default=None, compare=False)

    @property
    def dims(self) -> int:
        """Axes of the patch."""
        return len(self.spacing)

    @property
    def follows_plan(self) -> bool:
        """Whether the network takes its strides from the plan; others have their own."""
        return "strides" in self.info.options

    def gb(self, patch: tuple[int, ...], batch: int) -> float:
        """Return the GB of a training step."""
        return self.by_arithmetic(patch, batch) if self.weigh is None else self.weigh(patch, batch)

    def fits(self, patch: tuple[int, ...], batch: int) -> bool:
        """Say whether a training step stays within the target."""
        return self.gb(patch, batch) <= self.memory_gb

    def by_arithmetic(self, patch: Sequence[int], batch: int) -> float:
        """Return the GB that nnU-Net's planner would allow its plain network for such a step."""
        plain = nnunet.PRESETS["plain"]
        strides = pool_topology(patch, self.spacing)[0]
        count = nnunet.elements(patch, strides, self.num_outputs, plain)
        return plain.memory_gb * count * batch / (plain.reference[self.dims] * _WANTED_BATCH[self.dims])


def choose_patch(setting: Setting, voxels: float, batch: int | None = None) -> tuple[tuple[int, ...], int]:
    """Return the largest patch of the descent whose `batch`, or else smallest batch worth having, fits.

    Also returned is the batch that was found to fit, which may have to be smaller than that with the smallest patch.
    `voxels` are those of the data set. Raises RecipeError if not even the smallest patch fits.
    """
    patches = descent(setting)

    def wanted(patch: tuple[int, ...]) -> int:
        return batch or min(_WANTED_BATCH[setting.dims], most_samples(patch, voxels))

    first = patches[0]
    most = batch or most_samples(first, voxels)
    # what is weighed here is what the batch will be, so that a small task is weighed once
    if setting.by_arithmetic(first, most) < _FAR_BELOW * setting.memory_gb and setting.fits(first, most):
        return first, most
    found = _first_fitting(patches, setting, wanted)
    if found is not None:
        return found, wanted(found)
    least = patches[-1]
    needed = batch or SMALLEST_BATCH
    if not setting.fits(least, needed):
        raise too_large(setting, least, needed, "at its smallest patch ")
    return least, needed


def _first_fitting(
    patches: Sequence[tuple[int, ...]], setting: Setting, wanted: Callable[[tuple[int, ...]], int]
) -> tuple[int, ...] | None:
    """Return the first of ever smaller patches that fits with the batch wanted; None if none does."""
    low, high, at, tries = 0, len(patches), 0, 0
    while low < high:
        patch = patches[at]
        ratio = setting.gb(patch, wanted(patch)) / setting.memory_gb
        low, high = (low, at) if ratio <= 1 else (at + 1, high)
        tries += 1
        # memory grows about as voxels do
        guess = next((i for i, p in enumerate(patches) if prod(p) * ratio <= prod(patch)), high)
        at = min(max(guess, low), high - 1) if tries < _GUESSES else (low + high) // 2
    return patches[high] if high < len(patches) else None


def most_samples(patch: Sequence[int], voxels: float) -> int:
    """Return the largest batch worth having: a twentieth of the data set's voxels, within limits."""
    # One step must not see more than a twentieth of all voxels, or small sets would be learnt by heart.
    share = round(voxels * _SHARE_OF_DATA / prod(patch))
    return max(min(share, LARGEST_BATCH[len(patch)]), SMALLEST_BATCH)


def choose_batch(patch: tuple[int, ...], setting: Setting, voxels: float) -> int:
    """Return the batch that fits, at most a twentieth of the data set's voxels and never more than a limit.

    Raises RecipeError if not even the smallest batch fits.
    """
    most = most_samples(patch, voxels)
    if setting.fits(patch, most):
        return most
    least = setting.gb(patch, SMALLEST_BATCH)
    if least > setting.memory_gb:
        raise too_large(setting, patch, SMALLEST_BATCH, "on patches of ")
    # Memory is a constant and so much a sample, or less where weights are all that counts: it never lies above the line
    # between two batches, so what fits by the line fits.
    batch, step = SMALLEST_BATCH, 1
    largest = setting.gb(patch, most)
    while step:
        taken = setting.gb(patch, batch)
        step = int((setting.memory_gb - taken) / (largest - taken) * (most - batch))
        batch += step
    return batch


def too_large(setting: Setting, patch: Sequence[int], batch: int, where: str) -> RecipeError:
    """Return the error for a model that the target has no room for."""
    needed = setting.gb(tuple(patch), batch)
    smaller = "train.precision=bf16, a smaller variant or widths of the model"
    if "smallest" not in where:
        smaller = "a smaller data.patch_size, " + smaller
    return RecipeError(
        f"plan.memory_gb={setting.memory_gb:.3g}: {setting.info.name} {where}{list(patch)} with a batch of {batch} "
        f"takes an estimated {needed:.3g} GB; raise plan.memory_gb, or try {smaller}, or train.batch_size=1"
    )


def descent(setting: Setting) -> list[tuple[int, ...]]:
    """Return the patches to choose from, ever smaller: the first has the image's proportions in mm, or is all of it."""
    density = [1 / s for s in setting.spacing]
    # A cube in mm, written in voxels: side a = scale / spacing[a], product = start volume.
    scale = (_START[setting.dims] / prod(density)) ** (1 / setting.dims)
    start = [max(1, min(round(d * scale), n)) for d, n in zip(density, setting.shape, strict=True)]
    patch: tuple[int, ...] | None = legal(start, setting)
    patches = []
    while patch is not None:
        patches.append(patch)
        patch = _shrunk(patch, setting)
    return patches


def legal(size: Sequence[int], setting: Setting) -> tuple[int, ...]:
    """Return the smallest size from `size` up that pooling divides and the model takes."""
    divisor = _divisor(size, setting)
    return setting.info.legal_size([-(-n // d) * d for n, d in zip(size, divisor, strict=True)])


def _divisor(size: Sequence[int], setting: Setting) -> tuple[int, ...]:
    """Return what sides should divide by: all poolings of a network that follows the plan, four of any other."""
    if setting.follows_plan and setting.info.multiple != 1:  # strides are given, so that they do not follow the size
        return setting.info.multiples(setting.dims)
    divisor = pool_topology(size, setting.spacing)[2]
    return divisor if setting.follows_plan else tuple(min(d, _COMMON_DIVISOR) for d in divisor)


def _shrunk(patch: tuple[int, ...], setting: Setting) -> tuple[int, ...] | None:
    """Take the least step off the axis that covers most of the image; None if no axis can become smaller."""
    # The axis with the largest patch / image ratio loses least context when it shrinks.
    order = sorted(range(len(patch)), key=lambda a: patch[a] / setting.shape[a], reverse=True)
    for axis in order:
        # Pooling and the model both have to divide what is left.
        step = lcm(_least_step(patch, axis, setting), setting.info.multiples(setting.dims)[axis])
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
