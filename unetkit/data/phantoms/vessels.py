"""The back of an eye: trees of vessels of falling width in a round field of view."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from unetkit.data.phantoms.options import Vessels
from unetkit.data.phantoms.render import add_noise, draw_greys, paint, store_picture
from unetkit.data.phantoms.sample import Generator, Sample

# Share of the picture that vessels cover, 8 to 10 % as in DRIVE; the last branch may go a little beyond.
_COVER = (0.08, 0.097)

# Greys of the fixed contrast (0 background, 1 vessel) per channel: red is bright and flat, green shows vessels best.
_GREYS = ({0: 0.72, 1: 0.56}, {0: 0.46, 1: 0.24}, {0: 0.24, 1: 0.1})
_GREEN = 1


@dataclass(frozen=True)
class _Tip:
    """The growing end of a vessel: place in pixels, heading in radians, radius in pixels."""

    row: float
    column: float
    heading: float
    radius: float


def vessels(options: Vessels) -> Generator:
    """Return the generator of `phantom2d` for the family vessels; each case has a mask of its valid area."""

    def draw(rng: np.random.Generator) -> Sample:
        height, width = options.size
        y, x = np.ogrid[:height, :width]
        radius = 0.485 * min(height, width)
        middle = (height - 1) / 2, (width - 1) / 2
        valid = (y - middle[0]) ** 2 + (x - middle[1]) ** 2 < radius**2
        disc = _disc_place(rng, middle, radius)
        label = _grow(rng, disc, valid, float(rng.uniform(*_COVER)))
        glow = np.exp(-((y - disc[0]) ** 2 + (x - disc[1]) ** 2) / (2 * (0.12 * radius) ** 2)).astype(np.float32)
        images, distances = [], []
        for base in _GREYS if options.channels == 3 else (_GREYS[_GREEN],):
            greys, distance = draw_greys(rng, base, {(0, 1)}, options)
            image = paint(rng, label, greys, options) + np.float32(0.25) * glow
            image = add_noise(rng, np.where(valid, image, 0).astype(np.float32), options)
            images.append(store_picture(image))
            distances.append(round(distance, 3))
        facts = {"grey_distance": min(distances), "vessel_share": round(float(label.mean()), 4)}
        return Sample(np.stack(images), label, roi=valid, facts=facts)

    return Generator(
        draw,
        {0: "background", 1: "vessel"},
        ("grey",) if options.channels == 1 else ("red", "green", "blue"),
        description="Trees of vessels drawn by unetkit in a round field of view. Scores on them show that code works, "
        "not how accurate it is on an eye.",
    )


def _disc_place(rng: np.random.Generator, middle: tuple[float, float], radius: float) -> tuple[float, float]:
    """Where the vessels enter: to the left or right of the middle, as in right and left eyes."""
    side = 1 if rng.uniform() < 0.5 else -1
    return middle[0] + rng.uniform(-0.1, 0.1) * radius, middle[1] + side * rng.uniform(0.45, 0.6) * radius


def _grow(rng: np.random.Generator, disc: tuple[float, float], valid: np.ndarray, share: float) -> np.ndarray:
    """Grow trees from the disc until they cover the wanted share of the picture; returns a uint8 mask."""
    mask = np.zeros(valid.shape, dtype=bool)
    wanted = share * mask.size
    covered = 0
    inward = np.arctan2(valid.shape[0] / 2 - disc[0], valid.shape[1] / 2 - disc[1])
    tips: list[_Tip] = []
    # Two arcades above and below the middle and two trunks away from it, then whatever is missing, thinner.
    spread = [0.7, -0.7, 1.5, -1.5, 2.4, -2.4]
    while covered < wanted:
        if not tips:
            thick = 0.0085 if len(spread) > 1 else 0.006
            tips = [
                _Tip(*disc, inward + s + rng.uniform(-0.3, 0.3), thick * rng.uniform(0.85, 1.15) * min(mask.shape))
                for s in spread
            ]
            spread = [float(rng.uniform(-np.pi, np.pi))]
        # First in, first out: thick branches fill the picture before the thin ones do.
        tip = tips.pop(0)
        added, end = _branch(rng, tip, mask, valid)
        covered += added
        if end is not None:
            tips += _fork(rng, end)
    return mask.astype(np.uint8)


def _branch(rng: np.random.Generator, tip: _Tip, mask: np.ndarray, valid: np.ndarray) -> tuple[int, _Tip | None]:
    """Draw one vessel up to its fork; returns the pixels added and its end, None once it left the valid area."""
    row, column, heading, radius = tip.row, tip.column, tip.heading, tip.radius
    steps = int(rng.uniform(0.1, 0.22) * min(mask.shape))
    # A random walk of the heading bends the vessel, white noise on top makes it tremble.
    turns = 0.045 * rng.standard_normal(steps).cumsum() + 0.05 * rng.standard_normal(steps)
    rows, columns = row + np.sin(heading + turns).cumsum(), column + np.cos(heading + turns).cumsum()
    outside = ~_looked_up(valid, np.rint(rows).astype(np.intp), np.rint(columns).astype(np.intp))
    end = int(outside.argmax()) if outside.any() else steps
    added = _stamp(mask, valid, rows[:end], columns[:end], radius)
    if end < steps:
        return added, None
    return added, _Tip(float(rows[-1]), float(columns[-1]), heading + float(turns[-1]), radius)


def _stamp(mask: np.ndarray, valid: np.ndarray, rows: np.ndarray, columns: np.ndarray, radius: float) -> int:
    """Set the valid pixels within `radius` of any of the points; returns how many are new."""
    # Thinner than this a line would miss pixels and break.
    reach = max(radius, 0.6)
    side = np.arange(-int(reach) - 1, int(reach) + 2)
    y = np.rint(rows).astype(np.intp)[:, None, None] + side[:, None]
    x = np.rint(columns).astype(np.intp)[:, None, None] + side
    near = (y - rows[:, None, None]) ** 2 + (x - columns[:, None, None]) ** 2 <= reach**2
    y, x = np.broadcast_arrays(y, x)
    near &= _looked_up(valid, y, x)
    before = np.count_nonzero(mask)
    mask[y[near], x[near]] = True
    return int(np.count_nonzero(mask) - before)


def _looked_up(valid: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Read a mask at whole positions; False outside of the picture."""
    inside = (rows >= 0) & (rows < valid.shape[0]) & (columns >= 0) & (columns < valid.shape[1])
    return inside & valid[np.where(inside, rows, 0), np.where(inside, columns, 0)]


def _fork(rng: np.random.Generator, end: _Tip) -> list[_Tip]:
    """Divide a vessel; the cubes of the children's radii add up to the parent's (Murray's law)."""
    share = rng.uniform(0.35, 0.65)
    angle = rng.uniform(0.35, 0.85)
    children = [
        _Tip(end.row, end.column, end.heading + angle * (1 - share), end.radius * share ** (1 / 3)),
        _Tip(end.row, end.column, end.heading - angle * share, end.radius * (1 - share) ** (1 / 3)),
    ]
    return [child for child in children if child.radius > 0.45]
