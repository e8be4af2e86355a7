"""What does happen to one training sample: numbers drawn from a table, carried out elsewhere.

Every sample has a generator of its own, so what happens to it depends neither on its batch nor on its device.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from unetkit.data.augment_table import Chance, Intensity, Masks, Table
from unetkit.data.lenses import Lens, draw_lenses

Operation = Literal["dilation", "erosion", "opening", "closing"]
OPERATIONS: tuple[Operation, ...] = ("dilation", "erosion", "opening", "closing")


@dataclass(frozen=True)
class Morphology:
    """A binary operation on one channel of masks, by a ball of `radius` voxels."""

    channel: int
    operation: Operation
    radius: float


@dataclass(frozen=True, eq=False)
class Draw:
    """What happens to one sample; None, 0 and empty mean nothing does.

    `matrix` [A, A] takes offsets from the patch centre to offsets in the image, in voxels, over the last A axes;
    `bend` is the standard deviation of an elastic deformation in voxels, `control` [A, *grid] its control points;
    `lenses` move voxels to the nearest; `nearest`: images are not interpolated; `turns`: quarter turns in the last
    plane. Intensity arrays hold one value per channel [C] (`blur` one per channel and axis, sigma in voxels), neutral
    where a channel is spared.
    `morphology` and `dropped` (channel, and in 0..1 which component) change the masks of a cascade's earlier stage.
    """

    seed: int
    matrix: np.ndarray | None = None
    bend: float = 0.0
    control: np.ndarray | None = None
    lenses: tuple[Lens, ...] = ()
    nearest: bool = False
    turns: int = 0
    flips: tuple[int, ...] = ()
    swap: bool = False
    noise: float = 0.0
    blur: np.ndarray | None = None
    brightness: np.ndarray | None = None
    contrast: np.ndarray | None = None
    low_resolution: np.ndarray | None = None
    gamma_inverted: np.ndarray | None = None
    gamma: np.ndarray | None = None
    morphology: tuple[Morphology, ...] = ()
    dropped: tuple[tuple[int, float], ...] = ()


def draw_sample(table: Table, dims: int, channels: int, rng: np.random.Generator) -> Draw:
    """Draw what happens to one sample with `dims` axes and `channels`."""
    moving = 2 if table.slicewise else dims
    # First of all, so that noise and the like do not change with what is drawn of space.
    seed = int(rng.integers(2**63))
    matrix, control = _draw_space(table, moving, rng)
    turns, flips, swap = _draw_turns(table, dims, rng)
    # TransUNet's choice: turned and mirrored, or else rotated, never both.
    if table.one_of and (turns or flips):
        matrix = None
    return Draw(
        seed=seed,
        matrix=matrix,
        bend=0.0 if control is None else table.elastic.high,
        control=control,
        nearest=table.one_of,
        turns=turns,
        flips=flips,
        swap=swap,
        **_draw_intensity(table.intensity, dims, channels, rng),
        **_draw_masks(table.masks, rng),  # last, so that all else is as without a cascade
        lenses=draw_lenses(table.lenses, moving, rng),
    )


def _draw_intensity(table: Intensity, dims: int, channels: int, rng: np.random.Generator) -> dict[str, Any]:
    """Draw the intensity fields; nnU-Net blurs and coarsens each channel of a chosen sample with probability 0.5."""
    blurred, coarsened = rng.random((2, channels)) < 0.5
    low = table.low_resolution
    return {
        "noise": float(table.noise.uniform(rng, 1)[0]) if table.noise.happens(rng) else 0.0,
        "blur": table.blur.uniform(rng, (channels, dims)) * blurred[:, None] if table.blur.happens(rng) else None,
        "brightness": _factors(table.brightness, channels, rng),
        "contrast": _factors(table.contrast, channels, rng),
        "low_resolution": np.where(coarsened, low.uniform(rng, channels), 1) if low.happens(rng) else None,
        "gamma_inverted": _factors(table.gamma_inverted, channels, rng),
        "gamma": _factors(table.gamma, channels, rng),
    }


def _draw_masks(masks: Masks, rng: np.random.Generator) -> dict[str, Any]:
    """Draw the changes of masks; the channels that take part do so in random order."""
    if not masks.channels:
        return {}
    changed = _some(masks, rng) if masks.morphology.happens(rng) else []
    kinds = rng.integers(len(OPERATIONS), size=len(changed))
    radii = masks.morphology.uniform(rng, len(changed))
    emptied = _some(masks, rng) if masks.drop.happens(rng) else []
    places = rng.random(len(emptied))
    return {
        "morphology": tuple(
            Morphology(channel, OPERATIONS[kind], float(radius))
            for channel, kind, radius in zip(changed, kinds, radii, strict=True)
        ),
        "dropped": tuple((channel, float(place)) for channel, place in zip(emptied, places, strict=True)),
    }


def _some(masks: Masks, rng: np.random.Generator) -> list[int]:
    chosen = rng.random(masks.channels) < masks.each
    return [int(channel) for channel in rng.permutation(masks.channels) if chosen[channel]]


def _factors(chance: Chance, channels: int, rng: np.random.Generator) -> np.ndarray | None:
    return chance.either_side(rng, channels) if chance.happens(rng) else None


def _draw_space(table: Table, axes: int, rng: np.random.Generator) -> tuple[np.ndarray | None, np.ndarray | None]:
    rotates, scales, bends = (chance.happens(rng) for chance in (table.rotation, table.scale, table.elastic))
    matrix = None
    if rotates or scales:
        matrix = np.eye(axes)
        if rotates:
            # In a plane there is one angle, in space one about each axis.
            angles = table.rotation.uniform(rng, axes if axes == 3 else 1)
            matrix = _rotation_matrix(np.deg2rad(np.floor(angles) if table.one_of else angles))
        if scales:
            matrix = matrix * table.scale.uniform(rng, 1)
    grid = (axes, *(table.elastic_grid,) * axes)
    # Smoothing by a cubic B-spline leaves 151/315 of the variance along each axis; ask for that much more.
    spread = table.elastic.high * (315 / 151) ** (axes / 2)
    control = rng.normal(0, spread, grid).astype(np.float32) if bends else None
    return matrix, control


def _rotation_matrix(angles: np.ndarray) -> np.ndarray:
    """Rotate in the plane of two axes, or about each of three axes in turn; radians."""
    if len(angles) == 1:
        (c, s) = math.cos(angles[0]), math.sin(angles[0])
        return np.array([[c, -s], [s, c]])
    matrix = np.eye(3)
    for axis, angle in enumerate(angles):
        turn = np.eye(3)
        # The rotation about an axis mixes the other two.
        plane = np.ix_(*[[a for a in range(3) if a != axis]] * 2)
        turn[plane] = _rotation_matrix(np.array([angle]))
        matrix = matrix @ turn
    return matrix


def _draw_turns(table: Table, dims: int, rng: np.random.Generator) -> tuple[int, tuple[int, ...], bool]:
    """Return quarter turns in the last plane, mirrored axes, and whether left and right have changed places."""
    turned = table.quarter_turns.happens(rng)
    k = int(rng.integers(4) if table.one_of else rng.integers(1, 4)) if turned else 0
    if table.one_of:
        # TransUNet flips one axis of the slice, always together with a turn.
        axis = int(rng.integers(dims - 2, dims))
        flips: tuple[int, ...] = (axis,) if turned and axis in table.mirror_axes else ()
    else:
        flips = tuple(axis for axis in table.mirror_axes if rng.random() < table.mirror_p)
    left_right = table.left_right_axis
    if left_right is not None and left_right >= dims - 2 and k % 2:
        left_right = 2 * dims - 3 - left_right  # a quarter turn has laid it along the plane's other axis
    return k, flips, left_right in flips
