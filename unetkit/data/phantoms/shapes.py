"""Random label maps: the arg-max of smooth noise fields, after SynthMorph (arXiv:2004.10282)."""

from __future__ import annotations

import numpy as np

from unetkit.data.phantoms.fields import smooth_noise
from unetkit.data.phantoms.options import Shapes
from unetkit.data.phantoms.render import add_noise, draw_greys, paint, store_picture, store_volume, touching
from unetkit.data.phantoms.sample import Generator, Sample

# Volumes have no scanner; a cubic voxel of this size keeps readers and planners on the ordinary path.
_VOXEL_MM = 1.5


def shapes(options: Shapes) -> Generator:
    """Return the generator of `shapes`, for pre-training and for tests of properties; its classes mean nothing."""
    flat = options.dims == 2

    def draw(rng: np.random.Generator) -> Sample:
        label = _label_map(rng, options.shape, options.fields)
        # Random contrast takes the keys only; the greys here are never seen.
        base = {int(value): 0.5 for value in np.unique(label)}
        greys, distance = draw_greys(rng, base, touching(label), options)
        image = add_noise(rng, paint(rng, label, greys, options), options)
        stored = store_picture(image) if flat else store_volume(image)
        spacing = None if flat else (_VOXEL_MM,) * 3
        return Sample(stored[None], label, spacing=spacing, facts={"grey_distance": round(distance, 3)})

    return Generator(
        draw,
        {0: "background", **{n: f"shape {n}" for n in range(1, options.fields)}},
        ("grey",) if flat else ("image",),
        description="Random shapes without stable classes: for pre-training and for tests, not to learn classes from.",
    )


def _label_map(rng: np.random.Generator, shape: tuple[int, ...], fields: int) -> np.ndarray:
    """Return for each voxel the number of the highest of several fields, as uint8 [*S]."""
    highest = smooth_noise(rng, shape, 5)
    label = np.zeros(shape, dtype=np.uint8)
    for number in range(1, fields):
        field = smooth_noise(rng, shape, int(rng.integers(4, 9)))
        above = field > highest
        label[above] = number
        np.maximum(highest, field, out=highest)
    return label
