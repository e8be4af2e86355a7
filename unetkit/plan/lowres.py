"""When images are so large that a coarser stage has to show the network where it is (nnU-Net's low resolution)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

SEEN = 0.25
"""A patch below this share of the median image sees too little around it."""
WORTH = 2.0
"""A coarser image is worth a stage of its own if it has at least this many times fewer voxels."""
_STEP = 1.03
_ALIKE = 2.0
# Thirty steps halve an image's voxels twice; a thousand make one voxel of anything.
_MOST_STEPS = 1000


@dataclass(frozen=True)
class LowResolution:
    """The coarser stage: `spacing` in mm, the median image there in voxels (not rounded), and the steps it took."""

    spacing: tuple[float, ...]
    shape: tuple[float, ...]
    steps: int


def low_resolution(
    spacing: Sequence[float],
    shape: Sequence[float],
    patch: Sequence[int],
    patch_at: Callable[[tuple[float, ...], tuple[float, ...]], Sequence[int]],
) -> LowResolution | None:
    """Return the coarsest spacing needed for a patch to see enough of the median image; None if none is worth it.

    `patch` is that at `spacing`; `patch_at(spacing, shape)` gives it at a coarser one. Spacings grow in small steps,
    first along the axes that are over twice as fine as the coarsest.
    """
    coarse, small, steps = tuple(spacing), tuple(shape), 0
    while prod(patch) / prod(small) < SEEN and steps < _MOST_STEPS:
        coarse = _coarser(coarse)
        small = tuple(a / b * n for a, b, n in zip(spacing, coarse, shape, strict=True))
        patch, steps = patch_at(coarse, small), steps + 1
    return LowResolution(coarse, small, steps) if prod(shape) / prod(small) >= WORTH else None


def _coarser(spacing: tuple[float, ...]) -> tuple[float, ...]:
    most = max(spacing)
    fine = [most / s > _ALIKE for s in spacing]
    return tuple(s * _STEP if f or not any(fine) else s for s, f in zip(spacing, fine, strict=True))
