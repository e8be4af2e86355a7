"""Cells under a fluorescence microscope: warped ellipses, some of which touch."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import maximum_filter, minimum_filter

from unetkit.data.phantoms.fields import smooth_noise
from unetkit.data.phantoms.options import Cells
from unetkit.data.phantoms.render import add_noise, draw_greys, paint, store_picture
from unetkit.data.phantoms.sample import Generator, Sample

# Greys of the fixed contrast: dark medium, bright cells; the cells differ among each other by a texture.
_GREYS = {0: 0.15, 1: 0.62}


def cells(options: Cells) -> Generator:
    """Return the generator of `phantom2d` for the family cells.

    The labels are those of `target`; folders `instances` (a number per cell, 16 bit) and `borders` (1 inside,
    2 border) come along.
    """

    def draw(rng: np.random.Generator) -> Sample:
        instances = _instances(rng, options)
        semantic = (instances > 0).astype(np.uint8)
        borders = _borders(instances)
        images, distances = [], []
        for _ in range(options.channels):
            greys, distance = draw_greys(rng, _GREYS, {(0, 1)}, options)
            image = paint(rng, semantic, greys, options) * _brightness(rng, instances)
            # Shot noise grows with the root of the signal, read noise (below) does not.
            photons = rng.poisson(np.clip(image, 0, None) * options.photons).astype(np.float32)
            images.append(store_picture(add_noise(rng, photons / np.float32(options.photons), options)))
            distances.append(round(distance, 3))
        extras = {"instances": instances.astype(np.uint16), "borders": borders}
        label = {"semantic": semantic, "border": borders, "instances": extras["instances"]}[options.target]
        facts = {"grey_distance": min(distances), "cells": int(instances.max())}
        return Sample(np.stack(images), label, extras=extras, facts=facts)

    meanings = {0: "background", 1: "cell"} if options.target != "border" else {0: "background", 1: "cell", 2: "border"}
    return Generator(
        draw,
        meanings,
        ("grey",) if options.channels == 1 else ("red", "green", "blue"),
        description="Cells drawn by unetkit, some touching. Scores on them show that code works, not how accurate it "
        "is on a microscope's images.",
    )


def _instances(rng: np.random.Generator, options: Cells) -> np.ndarray:
    """Draw ellipses in warped coordinates; a pixel in several belongs to the one whose centre is relatively nearest."""
    height, width = options.size
    scale = min(height, width) / 256
    # Pixel coordinates are warped once, so that neighbouring cells bend together and share borders.
    axes = np.arange(height, dtype=np.float32)[:, None], np.arange(width, dtype=np.float32)[None]
    rows, columns = (axis + np.float32(2.5 * scale) * smooth_noise(rng, options.size, 10) for axis in axes)
    nearest = np.ones(options.size, dtype=np.float32)
    found = np.zeros(options.size, dtype=np.int32)
    for number, cell in enumerate(_places(rng, options, scale), start=1):
        reach = int(cell[2:4].max() + 12 * scale) + 1
        top, left = max(int(cell[0]) - reach, 0), max(int(cell[1]) - reach, 0)
        box = np.s_[top : int(cell[0]) + reach, left : int(cell[1]) + reach]
        distance = _ellipse(rows[box], columns[box], cell)
        inside = distance < nearest[box]
        nearest[box][inside] = distance[inside]
        found[box][inside] = number
    return _renumbered(found)


def _ellipse(rows: np.ndarray, columns: np.ndarray, cell: np.ndarray) -> np.ndarray:
    y, x = rows - np.float32(cell[0]), columns - np.float32(cell[1])
    cos, sin = np.float32(np.cos(cell[4])), np.float32(np.sin(cell[4]))
    return ((cos * y + sin * x) / np.float32(cell[2])) ** 2 + ((cos * x - sin * y) / np.float32(cell[3])) ** 2


def _places(rng: np.random.Generator, options: Cells, scale: float) -> list[np.ndarray]:
    """Draw (row, column, two radii, angle) of the cells in pixels; some get a partner that touches them."""
    height, width = options.size
    wanted = int(rng.integers(22, 42) * height * width / (256 * scale) ** 2)
    cells: list[np.ndarray] = []
    # A crowded picture has no room left; after four tries for each cell it is full.
    for _ in range(wanted * 4):
        if len(cells) >= wanted:
            break
        radii = rng.uniform(8, 14, 2) * scale
        place = np.array([rng.uniform(0, height), rng.uniform(0, width), *radii, rng.uniform(0, np.pi)])
        if any(np.hypot(*(place[:2] - c[:2])) < place[2:4].max() + c[2:4].max() + 3 * scale for c in cells):
            continue
        cells.append(place)
        if rng.uniform() < options.touching:
            cells.append(_partner(rng, place, scale))
    return cells


def _partner(rng: np.random.Generator, place: np.ndarray, scale: float) -> np.ndarray:
    """A second cell that overlaps the first by a little, which becomes their common border."""
    radii, heading = rng.uniform(8, 14, 2) * scale, rng.uniform(0, 2 * np.pi)
    apart = 0.85 * (place[2:4].mean() + radii.mean())
    centre = place[:2] + apart * np.array([np.sin(heading), np.cos(heading)])
    return np.array([*centre, *radii, rng.uniform(0, np.pi)])


def _renumbered(found: np.ndarray) -> np.ndarray:
    """Numbers without gaps; cells of less than 12 visible pixels are dropped."""
    sizes = np.bincount(found.ravel())
    kept = np.flatnonzero(sizes >= 12)
    kept = kept[kept > 0]
    table = np.zeros(len(sizes), dtype=np.int32)
    table[kept] = np.arange(1, len(kept) + 1)
    return table[found]


def _borders(instances: np.ndarray) -> np.ndarray:
    """1 inside a cell, 2 on pixels whose 3x3 neighbourhood holds another cell or the background."""
    edge = maximum_filter(instances, 3) != minimum_filter(instances, 3)
    return np.where(instances > 0, np.where(edge, 2, 1), 0).astype(np.uint8)


def _brightness(rng: np.random.Generator, instances: np.ndarray) -> np.ndarray:
    """A factor per cell, as cells are not stained alike; 1 on the background."""
    factors = rng.uniform(0.88, 1.12, int(instances.max()) + 1).astype(np.float32)
    factors[0] = 1
    return factors[instances]
