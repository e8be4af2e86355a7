"""From a map of tissues to an image: greys, blur, bias field and noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.ndimage import gaussian_filter

from unetkit.data.phantoms.fields import smooth_noise
from unetkit.data.phantoms.options import Render
from unetkit.errors import RecipeError

_TRIES = 200

# Random greys keep this far from black and white.
_MARGIN = 0.02

# Grey 0 and 1 of a volume: the soft-tissue window of a CT, so that recipes made for CT run on a phantom as they are.
_WINDOW = (-125.0, 275.0)


def touching(tissues: np.ndarray) -> set[tuple[int, int]]:
    """Return the pairs (low, high) of tissue numbers that are neighbours along an axis of a map [*S]."""
    top = int(tissues.max()) + 1
    table = np.zeros((top, top), dtype=bool)
    flat = tissues.astype(np.intp)
    for axis in range(tissues.ndim):
        one = np.take(flat, range(flat.shape[axis] - 1), axis)
        other = np.take(flat, range(1, flat.shape[axis]), axis)
        # A pair (a, b) as the number a * top + b: one count instead of a set of millions.
        pairs = np.bincount((one * top + other).ravel(), minlength=top * top).reshape(top, top) > 0
        table |= pairs | pairs.T
    return {(int(a), int(b)) for a, b in np.argwhere(np.triu(table, 1))}


def draw_greys(
    rng: np.random.Generator, base: Mapping[int, float], pairs: set[tuple[int, int]], options: Render
) -> tuple[dict[int, float], float]:
    """Return a grey in 0..1 for each tissue and the smallest distance between two that touch.

    `base` holds the greys of the fixed contrast, a jitter away from which the result lies; the random contrast
    takes its keys only. Raises RecipeError if no greys keep `min_distance` apart.
    """
    neighbours = {t: [b if a == t else a for a, b in pairs if t in (a, b)] for t in base}
    # The most surrounded tissue first: it leaves gaps that the others find, not the other way round.
    order = sorted(base, key=lambda t: (-len(neighbours[t]), t))
    for _ in range(_TRIES):
        greys = _draw_all(rng, base, order, neighbours, options)
        if greys is not None:
            return greys, _closest(greys, pairs)
    spare = 1 - 2 * _MARGIN - (len(base) - 1) * options.min_distance
    if options.contrast == "random" and spare >= 0:
        # Too crowded for trial and error: greys in a random order, each the distance and a random gap above the last.
        steps = np.sort(rng.uniform(0, spare, len(base))) + options.min_distance * np.arange(len(base))
        greys = dict(zip(rng.permutation(order).tolist(), (_MARGIN + steps).tolist(), strict=True))
        return greys, _closest(greys, pairs)
    raise RecipeError(
        f"data.generator.min_distance={options.min_distance}: no greys of {len(base)} tissues keep that far apart "
        f"with contrast={options.contrast}; lower min_distance (or jitter, or the number of shapes)"
    )


def _closest(greys: Mapping[int, float], pairs: set[tuple[int, int]]) -> float:
    return min((abs(greys[a] - greys[b]) for a, b in pairs), default=1.0)


def _draw_all(
    rng: np.random.Generator,
    base: Mapping[int, float],
    order: Sequence[int],
    neighbours: Mapping[int, Sequence[int]],
    options: Render,
) -> dict[int, float] | None:
    """One attempt to give every tissue a grey; None if one of them found no room between its neighbours."""
    greys: dict[int, float] = {}
    for tissue in order:
        near = [greys[n] for n in neighbours[tissue] if n in greys]
        value = _draw_one(rng, base[tissue], near, options)
        if value is None:
            return None
        greys[tissue] = value
    return greys


def _draw_one(rng: np.random.Generator, base: float, near: Sequence[float], options: Render) -> float | None:
    for _ in range(20):
        grey = (
            float(rng.uniform(_MARGIN, 1 - _MARGIN))
            if options.contrast == "random"
            else base + float(rng.uniform(-options.jitter, options.jitter))
        )
        if all(abs(grey - other) >= options.min_distance for other in near):
            return grey
    return None


def paint(rng: np.random.Generator, tissues: np.ndarray, greys: Mapping[int, float], options: Render) -> np.ndarray:
    """Return a float32 image [*S], about 0..1: greys with a texture, blurred, under a bias field, without noise."""
    table = np.zeros(int(tissues.max()) + 1, dtype=np.float32)
    for tissue, grey in greys.items():
        if tissue < len(table):
            table[tissue] = grey
    image = table[tissues]
    # A deviation of its own for each tissue, as organs are not of one grey; short waves survive the blur.
    spread = rng.uniform(0.3, 1.0, len(table)).astype(np.float32) * np.float32(options.noise)
    image += spread[tissues] * rng.standard_normal(tissues.shape, dtype=np.float32)
    if options.blur > 0:
        image = gaussian_filter(image, options.blur, truncate=3)
    if options.bias > 0:
        image *= np.exp(np.float32(options.bias) * smooth_noise(rng, tissues.shape, 2))
    return image


def add_noise(rng: np.random.Generator, image: np.ndarray, options: Render) -> np.ndarray:
    """Return the image with white noise added, as the last step before storing."""
    return image + np.float32(options.noise) * rng.standard_normal(image.shape, dtype=np.float32)


def store_picture(image: np.ndarray) -> np.ndarray:
    """Return grey 0..1 as uint8, with room for the noise below black."""
    return np.clip(np.rint(image * 230 + 15), 0, 255).astype(np.uint8)


def store_volume(image: np.ndarray) -> np.ndarray:
    """Return grey 0..1 as int16 on the scale of a CT."""
    low, high = _WINDOW
    return np.clip(np.rint(image * (high - low) + low), -1024, 3071).astype(np.int16)


def thicken(image: np.ndarray, label: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Average each `count` slices of the last axis of an image [*S]; the label keeps the middle one of them.

    Slices that do not fill a whole thick one are left out.
    """
    if count == 1:
        return image, label
    depth = image.shape[-1] // count
    blocks = image[..., : depth * count].reshape(*image.shape[:-1], depth, count)
    return blocks.mean(axis=-1), np.ascontiguousarray(label[..., count // 2 : depth * count : count])
