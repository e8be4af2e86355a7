"""A torso with eight organs of stable meaning and side, as a volume or as one slice.

Drawn in coordinates from -1 to 1: x to the patient's right, y to the front, z to the head. The tissues between
the organs (fat, muscle, bone, lung, bowel) are drawn but not labelled.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from unetkit.data.phantoms.fields import smooth_noise, warped
from unetkit.data.phantoms.options import Torso2d, Torso3d
from unetkit.data.phantoms.render import add_noise, draw_greys, paint, store_picture, store_volume, thicken, touching
from unetkit.data.phantoms.sample import Generator, Sample

ORGANS = {
    1: "liver",
    2: "gallbladder",
    3: "stomach",
    4: "spleen",
    5: "right kidney",
    6: "left kidney",
    7: "aorta",
    8: "inferior vena cava",
}
LESION = 9
GALLBLADDER, LIVER = 2, 1
AIR, FAT, MUSCLE, BONE, LUNG, BOWEL, FAT_WITHIN = 0, 10, 11, 12, 13, 14, 15

# Field of view in mm (x, y, z); the spacing is this over the size, so that the organs fill any grid alike.
_FIELD_MM = (288.0, 288.0, 360.0)

# The table below leaves a margin around the body; this takes most of it away.
_ZOOM = 0.95

# Greys of the fixed contrast, modelled on a CT with contrast agent in a soft-tissue window. Tissues that touch are
# further apart than the smallest distance and the jitter need.
_GREYS = {
    AIR: 0.0,
    1: 0.61,
    2: 0.22,
    3: 0.32,
    4: 0.705,
    5: 0.8,
    6: 0.8,
    7: 0.9,
    8: 0.705,
    LESION: 0.32,
    FAT: 0.12,
    MUSCLE: 0.42,
    BONE: 1.0,
    LUNG: 0.02,
    BOWEL: 0.515,
    FAT_WITHIN: 0.12,
}


@dataclass(frozen=True)
class Part:
    """An ellipsoid of a tissue: centre and radii (x, y, z), an in-plane turn, a bend into a bean.

    `bend` shifts the second axis by that multiple of the squared first one. `fork`: below this z the part
    divides into two that move apart sideways.
    """

    tissue: int
    centre: tuple[float, float, float]
    radii: tuple[float, float, float]
    degrees: float = 0.0
    bend: float = 0.0
    fork: float | None = None


# In the order of drawing: a later part covers an earlier one. Sides and proportions follow the adult abdomen: the
# left kidney is longer and lies higher than the right one, the cava is on the right of the aorta and flatter.
_PARTS = (
    Part(BONE, (0.0, -0.38, 0.0), (0.135, 0.11, 9.0)),
    Part(BONE, (0.0, -0.53, 0.0), (0.045, 0.1, 9.0)),
    Part(BONE, (0.0, -0.47, 0.0), (0.2, 0.028, 9.0)),
    Part(LIVER, (0.42, 0.1, 0.22), (0.32, 0.34, 0.4), degrees=-20),
    Part(LIVER, (0.1, 0.3, 0.26), (0.34, 0.13, 0.22), degrees=-8),
    Part(3, (-0.3, 0.24, 0.2), (0.25, 0.13, 0.26), degrees=28, bend=-1.6),
    Part(4, (-0.55, -0.1, 0.24), (0.1, 0.24, 0.25), degrees=-14),
    Part(5, (0.36, -0.31, -0.16), (0.16, 0.105, 0.22), degrees=-38, bend=-1.8),
    Part(6, (-0.35, -0.29, -0.06), (0.15, 0.095, 0.28), degrees=38, bend=-1.8),
    Part(GALLBLADDER, (0.23, 0.13, -0.02), (0.085, 0.105, 0.15), degrees=-15),
    Part(8, (0.115, -0.212, 0.0), (0.085, 0.06, 9.0), degrees=-15),
    Part(7, (-0.075, -0.202, 0.0), (0.068, 0.068, 9.0), fork=-0.62),
)


def torso3d(options: Torso3d) -> Generator:
    """Return the generator of `phantom3d`."""

    def draw(rng: np.random.Generator) -> Sample:
        tissues = _tissues(rng, options.size, options)
        spacing = _spacing(rng, options)
        painted, facts = _painted(rng, tissues, options, options.channels)
        cut = [thicken(image, _labels(tissues), options.thick_slices) for image in painted]
        images = np.stack([store_volume(add_noise(rng, image, options)) for image, _ in cut])
        thick = (*spacing[:2], spacing[2] * options.thick_slices)
        return Sample(images, cut[0][1], spacing=thick, facts=facts)

    return Generator(
        draw,
        _meanings(options),
        ("image", "second")[: options.channels],
        description="Torso volumes drawn by unetkit: eight organs of one simplified anatomy. Scores on them show that "
        "code works, not how accurate it is on patients.",
    )


def _spacing(rng: np.random.Generator, options: Torso3d) -> tuple[float, ...]:
    """Return the voxel size in mm; the field of view differs between patients, as it does on a scanner.

    In steps of 1/64 mm, which the 32 bits of a header hold exactly.
    """
    scale = rng.uniform(0.92, 1.08)
    drawn = tuple(max(round(64 * scale * f / n), 1) / 64 for f, n in zip(_FIELD_MM, options.size, strict=True))
    return options.spacing or drawn


def torso2d(options: Torso2d) -> Generator:
    """Return the generator of `phantom2d` for the family torso."""

    def draw(rng: np.random.Generator) -> Sample:
        height, width = options.size
        tissues = np.ascontiguousarray(_as_viewed(_tissues(rng, (width, height), options)))
        painted, facts = _painted(rng, tissues, options, options.channels)
        images = np.stack([store_picture(add_noise(rng, image, options)) for image in painted])
        return Sample(images, _labels(tissues), facts=facts)

    return Generator(
        draw,
        _meanings(options),
        ("grey",) if options.channels == 1 else ("red", "green", "blue"),
        description="Slices of a torso drawn by unetkit, seen from the feet (the patient's right is on the left of "
        "the picture). Scores on them show that code works, not how accurate it is on patients.",
    )


def _as_viewed(plane: np.ndarray) -> np.ndarray:
    """Turn a plane [x, y] into a picture [row, column] with the front on top and the patient's right on the left."""
    return plane[::-1, ::-1].T


def _meanings(options: Torso2d | Torso3d) -> dict[int, str]:
    return {0: "background", **ORGANS} | ({LESION: "liver lesion"} if options.lesion else {})


def _labels(tissues: np.ndarray) -> np.ndarray:
    return np.where(tissues <= LESION, tissues, 0).astype(np.uint8)


def _painted(
    rng: np.random.Generator, tissues: np.ndarray, options: Torso2d | Torso3d, channels: int
) -> tuple[list[np.ndarray], dict[str, object]]:
    """Paint each channel with greys of its own; the facts say how far apart the greys of neighbours are."""
    pairs = touching(tissues)
    present = set(np.unique(tissues).tolist())
    images, distances = [], []
    for channel in range(channels):
        base = {t: _channel_grey(g, channel) for t, g in _GREYS.items() if t in present}
        greys, distance = draw_greys(rng, base, pairs, options)
        images.append(paint(rng, tissues, greys, options))
        distances.append(round(distance, 3))
    missing = [name for value, name in ORGANS.items() if value not in present]
    return images, {"grey_distance": min(distances), "missing": missing}


def _channel_grey(grey: float, channel: int) -> float:
    """Further channels of the fixed contrast: the same order of greys reversed, then compressed; air stays dark."""
    if channel == 0 or grey == _GREYS[AIR]:
        return grey
    return 1.1 - grey if channel == 1 else 0.1 + 0.9 * grey


def _tissues(rng: np.random.Generator, shape: tuple[int, ...], options: Torso2d | Torso3d) -> np.ndarray:
    """Draw one anatomy: tissue numbers [*S] uint8 with axes x, y and, for volumes, z."""
    where = [np.float32(_ZOOM) * axis for axis in warped(rng, shape, amount=0.02, detail=0.006, turn_degrees=5)]
    tissues = _body(rng, where, shape)
    present = rng.uniform() >= options.missing
    shapes: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    for part in _PARTS:
        # Both parts of the liver move together, so the change is drawn once per tissue.
        if part.tissue not in shapes:
            shapes[part.tissue] = rng.uniform(-0.025, 0.025, 3), rng.uniform(0.9, 1.1, 3)
        if part.tissue != GALLBLADDER or present:
            move, grow = shapes[part.tissue]
            inside = _inside(where, part, np.asarray(part.centre) + move, np.asarray(part.radii) * grow)
            # The skin is never broken: organs stay where there was tissue inside the wall.
            tissues[inside & (tissues >= MUSCLE)] = part.tissue
            tissues[inside & (tissues < FAT) & (tissues > AIR)] = part.tissue
    if options.lesion:
        _add_lesion(rng, where, tissues)
    return tissues


def _body(rng: np.random.Generator, where: list[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    """Air, a ring of fat, the muscle wall, fat within, bowel in front and lungs on top."""
    x, y = where[0], where[1]
    wall = rng.uniform(0.05, 0.1)
    distance = np.sqrt((x / 0.86) ** 2 + (y / 0.68) ** 2)
    tissues = np.zeros(shape, dtype=np.uint8)
    tissues[distance < 1] = FAT
    tissues[distance < 1 - wall] = MUSCLE
    if len(where) == 3:
        lungs = ((np.abs(x) - 0.38) / 0.3) ** 2 + ((y + 0.02) / 0.42) ** 2 + ((where[2] - 1.0) / 0.5) ** 2 < 1
        tissues[lungs & (distance < 0.97 - wall)] = LUNG
    loops = smooth_noise(rng, shape, 14)
    cavity = (x / 0.6) ** 2 + ((y - 0.16) / 0.42) ** 2 < 1
    tissues[(loops > 0.2) & cavity & (tissues == MUSCLE)] = BOWEL
    tissues[(loops < -0.3) & cavity & (tissues == MUSCLE)] = FAT_WITHIN
    return tissues


def _inside(where: list[np.ndarray], part: Part, centre: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """Return where a part is, as a bool array [*S]."""
    x, y = where[0] - np.float32(centre[0]), where[1] - np.float32(centre[1])
    if part.fork is not None and len(where) == 3:
        # Below the fork |x| folds both legs onto one, which moves outwards as z falls.
        x = np.abs(x) - np.float32(0.45) * np.maximum(np.float32(part.fork) - where[2], 0)
    angle = np.deg2rad(part.degrees)
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    # Into the ellipse's own axes, then a parabola bends the long one.
    u, v = cos * x + sin * y, cos * y - sin * x
    v = v - np.float32(part.bend) * u * u
    total = (u / np.float32(radii[0])) ** 2 + (v / np.float32(radii[1])) ** 2
    if len(where) == 3:
        total += ((where[2] - np.float32(centre[2])) / np.float32(radii[2])) ** 2
    return total < 1


def _add_lesion(rng: np.random.Generator, where: list[np.ndarray], tissues: np.ndarray) -> None:
    """Put a ball somewhere in the liver, cut to it."""
    liver = np.flatnonzero(tissues == LIVER)
    if not len(liver):
        return
    centre = np.unravel_index(int(rng.choice(liver)), tissues.shape)
    radius = rng.uniform(0.06, 0.12)
    squared: np.ndarray = sum((axis - axis[centre]) ** 2 for axis in where)
    tissues[(squared < radius**2) & (tissues == LIVER)] = LESION
