"""What may happen to a training sample, how likely and how strongly: presets and the recipe's changes to them.

Probabilities and ranges of "nnunet" are those of nnU-Net v2 (github:MIC-DKFZ/nnUNet, doi:10.1038/s41592-020-01008-z);
"synapse" is the pair of TransUNet (arXiv:2102.04306).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from unetkit.errors import RecipeError, nearest
from unetkit.plan.plan import Plan
from unetkit.recipe.training import AugmentSection
from unetkit.types import Labels

_ANISOTROPIC = 3.0
_ELONGATED = 1.5


@dataclass(frozen=True)
class Chance:
    """A transform's probability per sample and the range its strength is drawn from."""

    p: float = 0.0
    low: float = 1.0
    high: float = 1.0

    def happens(self, rng: np.random.Generator) -> bool:
        """Draw whether it happens; always takes one number, so that later draws stay what they were."""
        return bool(rng.random() < self.p)

    def uniform(self, rng: np.random.Generator, size: int | tuple[int, ...]) -> np.ndarray:
        """Draw strengths uniformly."""
        return rng.uniform(self.low, self.high, size)

    def either_side(self, rng: np.random.Generator, size: int) -> np.ndarray:
        """Draw factors below or above 1 equally often, uniformly on each side."""
        # nnU-Net draws the side first: most of 0.7..1.5, taken as one range, lies above 1.
        below = rng.random(size) < 0.5
        return np.where(below, rng.uniform(self.low, 1, size), rng.uniform(1, self.high, size))


@dataclass(frozen=True)
class Intensity:
    """What may happen to the values of a sample; every row spares the shape of things."""

    noise: Chance = Chance()
    blur: Chance = Chance()
    brightness: Chance = Chance()
    contrast: Chance = Chance()
    low_resolution: Chance = Chance()
    gamma_inverted: Chance = Chance()
    gamma: Chance = Chance()


@dataclass(frozen=True)
class Masks:
    """What may happen to the masks of a cascade's earlier stage, of which there are `channels`.

    `morphology` draws the radius of a ball in voxels, `each` is the probability of a channel to take part. `drop`:
    a component vanishes if its share of the patch lies below `high`. `regions`: masks may overlap.
    """

    channels: int = 0
    regions: bool = False
    morphology: Chance = Chance()
    drop: Chance = Chance()
    each: float = 0.5


@dataclass(frozen=True)
class Lenses:
    """How likely a sample is seen through `count` lenses, their radii in voxels and their largest strength."""

    p: float = 0.0
    count: int = 4
    radius: tuple[int, int] = (40, 110)
    strength: float = 0.4


@dataclass(frozen=True)
class Table:
    """Everything that may happen, as decided for one training; angles in degrees, lengths in voxels.

    `scale` multiplies sampling coordinates: above 1 shows more of the image. `slicewise`: space is changed within
    the planes of the last two axes only. `one_of`: a sample is turned by quarters and mirrored, or else rotated by
    whole degrees without interpolation, or left alone. `swap`: class numbers that change places when
    `left_right_axis` is mirrored. `zero_outside`: voxels that are zero in all channels stay so. `soft`: codes of soft
    labels lie below the labels.
    """

    rotation: Chance = Chance()
    scale: Chance = Chance()
    elastic: Chance = Chance()
    elastic_grid: int = 8
    lenses: Lenses = Lenses()
    quarter_turns: Chance = Chance()
    one_of: bool = False
    slicewise: bool = False
    intensity: Intensity = Intensity()
    mirror_p: float = 0.0
    mirror_axes: tuple[int, ...] = ()
    swap: tuple[tuple[int, int], ...] = ()
    left_right_axis: int | None = None
    zero_outside: bool = False
    masks: Masks = Masks()
    soft: bool = False


PRESETS = {
    "none": Table(),
    "light": Table(quarter_turns=Chance(0.75), intensity=Intensity(brightness=Chance(0.5, 0.8, 1.2)), mirror_p=0.5),
    "synapse": Table(quarter_turns=Chance(0.5), rotation=Chance(0.5, -20, 20), one_of=True),
    "nnunet": Table(
        rotation=Chance(0.2, -30, 30),
        scale=Chance(0.2, 0.7, 1.4),
        intensity=Intensity(
            noise=Chance(0.1, 0, 0.1),
            blur=Chance(0.2, 0.5, 1.0),
            brightness=Chance(0.15, 0.75, 1.25),
            contrast=Chance(0.15, 0.75, 1.25),
            low_resolution=Chance(0.25, 0.5, 1.0),
            gamma_inverted=Chance(0.1, 0.7, 1.5),
            gamma=Chance(0.3, 0.7, 1.5),
        ),
        mirror_p=0.5,
        masks=Masks(morphology=Chance(0.4, 1, 8), drop=Chance(0.2, 0, 0.15)),
    ),
}


def decide_table(section: AugmentSection, plan: Plan, left_right_axis: int | None) -> Table:
    """Return the table of a training: the preset, what the patch's shape makes of it, then the recipe's own values.

    `left_right_axis` is the patch axis along the patient's left-right, or None if slices lie across it.

    Raises RecipeError for axes or class names that do not exist and for pairs that could never swap.
    """
    table = _for_patch(PRESETS[section.preset], plan.patch_size)
    table = replace(
        table,
        intensity=table.intensity if section.intensity else Intensity(),
        rotation=_rotation(section, table.rotation),
        scale=_scale(section, table.scale),
        elastic=Chance(section.elastic_p, section.elastic_magnitude, section.elastic_magnitude),
        elastic_grid=section.elastic_grid,
        lenses=_lenses(section),
        zero_outside=any(rule.scheme == "zscore_mask" for rule in plan.normalization),
        masks=replace(table.masks, channels=plan.previous * len(plan.labels.classes), regions=plan.labels.regions),
    )
    return _mirroring(table, section, plan, left_right_axis)


def swapped_classes(pairs: Sequence[tuple[str, str]], labels: Labels) -> tuple[tuple[int, int], ...]:
    """Return pairs of class names as pairs of encoded numbers: 1..K, or for regions the channel 0..R-1.

    Raises RecipeError for a name that is no class, and for a class that stands in two pairs or beside itself.
    """
    names = [name for pair in pairs for name in pair]
    for name in names:
        if name not in labels.classes:
            raise RecipeError(
                f"train.augment.left_right: no class is called '{name}'{nearest(name, labels.classes)}; "
                f"the classes are {', '.join(labels.classes)}"
            )
        if names.count(name) > 1:
            raise RecipeError(f"train.augment.left_right: '{name}' stands there twice; a class swaps with one other")
    first = 0 if labels.regions else 1
    return tuple((labels.classes.index(a) + first, labels.classes.index(b) + first) for a, b in pairs)


def _for_patch(table: Table, patch_size: Sequence[int]) -> Table:
    """Rotate freely in a plane, little across long rectangles; leave thick slices what they are."""
    # nnU-Net judges by the patch, not by the spacing: the patch has the image's proportions in voxels.
    thick = len(patch_size) == 3 and max(patch_size) / patch_size[0] > _ANISOTROPIC
    slicewise = len(patch_size) == 3 and (thick or table.one_of)
    rotation = table.rotation
    if rotation.p and not table.one_of and (thick or len(patch_size) == 2):
        long = len(patch_size) == 2 and max(patch_size) / min(patch_size) > _ELONGATED
        # A long rectangle turned by a right angle would show mostly what lies outside the patch.
        degrees = 15 if long else 180
        rotation = Chance(rotation.p, -degrees, degrees)
    return replace(table, rotation=rotation, slicewise=slicewise)


def _rotation(section: AugmentSection, preset: Chance) -> Chance:
    p, degrees = section.rotation_p, section.rotation_degrees
    # Half a setting would silently do nothing.
    if not preset.p and (not p) != (degrees is None):
        raise RecipeError(
            f"train.augment: preset '{section.preset}' does not rotate; give both rotation_p and rotation_degrees"
        )
    # Angles are symmetric; presets hold -x..x.
    largest = preset.high if degrees is None else degrees
    return Chance(preset.p if p is None else p, -largest, largest)


def _scale(section: AugmentSection, preset: Chance) -> Chance:
    if not preset.p and (not section.scale_p) != (section.scale is None):
        raise RecipeError(f"train.augment: preset '{section.preset}' does not scale; give both scale_p and scale")
    low, high = section.scale or (preset.low, preset.high)
    if low > high:
        raise RecipeError(f"train.augment.scale [{low}, {high}]: the first factor must not be above the second")
    return Chance(preset.p if section.scale_p is None else section.scale_p, low, high)


def _lenses(section: AugmentSection) -> Lenses:
    low, high = section.lens_radius
    if low > high:
        raise RecipeError(f"train.augment.lens_radius [{low}, {high}]: the first radius must not be above the second")
    return Lenses(section.lens_p, section.lens_count, (low, high), section.lens_strength)


def _mirroring(table: Table, section: AugmentSection, plan: Plan, left_right_axis: int | None) -> Table:
    dims = plan.dims
    if isinstance(section.mirror, bool):
        # True keeps the preset's own probability, which may be none; axes that are named are wanted.
        axes, p = (tuple(range(dims)) if section.mirror else ()), table.mirror_p
    else:
        axes, p = tuple(sorted(set(section.mirror))), 0.5
    if any(not 0 <= axis < dims for axis in axes):
        raise RecipeError(f"train.augment.mirror {list(axes)}: the patch has the axes 0 to {dims - 1}")
    swap = swapped_classes(section.left_right, plan.labels)
    # Classes that swap without a mirrored axis would be a setting that does nothing.
    if swap and left_right_axis not in axes:
        where = "lies across the slices" if left_right_axis is None else f"({left_right_axis}) is not mirrored"
        raise RecipeError(
            f"train.augment.left_right has no effect: the left-right axis {where}; mirror it or drop left_right"
        )
    return replace(table, mirror_axes=axes, mirror_p=p, swap=swap, left_right_axis=left_right_axis)
