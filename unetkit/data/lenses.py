"""Multi-lens distortion: several lenses enlarge or shrink what lies below them (DRU-Net, arXiv:2406.14287)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from unetkit.data.augment_table import Lenses


@dataclass(frozen=True)
class Lens:
    """A lens: its centre in fractions 0..1 of the sides, its radius in voxels; `strength` above 0 enlarges."""

    centre: tuple[float, ...]
    radius: int
    strength: float


def draw_lenses(table: Lenses, axes: int, rng: np.random.Generator) -> tuple[Lens, ...]:
    """Draw the lenses of one sample over `axes` axes; none, and no number taken, if the table has no lenses."""
    # a training without lenses draws what it drew before there were any
    if not table.p or rng.random() >= table.p:
        return ()
    low, high = table.radius
    return tuple(
        Lens(tuple(rng.random(axes).tolist()), int(rng.integers(low, high + 1)), rng.uniform(-1, 1) * table.strength)
        for _ in range(table.count)
    )


def lens_sources(size: Sequence[int], lenses: Sequence[Lens]) -> np.ndarray:
    """Return where each voxel of a map [*size] looks after all lenses, one by one: int64 [A, *size]."""
    ones = (1,) * len(size)
    last = np.array(size).reshape(-1, *ones) - 1
    places = np.indices(size)
    # each lens looks at what the one before it left, so the last one is looked through first
    for lens in reversed(lenses):
        centre = np.floor(np.multiply(lens.centre, size)).reshape(-1, *ones)
        offsets = places - centre
        near = np.maximum(1 - np.sqrt((offsets**2).sum(0)) / lens.radius, 0)
        # c + d (1 - s max(1 - r, 0)), cut to a whole number as in the code
        places = np.clip(offsets * (1 - lens.strength * near) + centre, 0, last).astype(np.int64)
    return places
