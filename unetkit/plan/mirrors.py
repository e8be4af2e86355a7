"""Which axes prediction may mirror."""

from __future__ import annotations

from unetkit.data.augment_table import PRESETS
from unetkit.errors import RecipeError
from unetkit.recipe.schema import Recipe


def mirror_axes(dims: int, transpose: tuple[int, ...], recipe: Recipe, reasons: dict[str, str]) -> tuple[int, ...]:
    """Return the patch axes along which the network learns to see mirrored images, for use in prediction.

    Raises RecipeError if prediction is to mirror and training does not.
    """
    section, preset = recipe.train.augment, PRESETS[recipe.train.augment.preset]
    if isinstance(section.mirror, bool):
        # Averaging over mirrored inputs helps only a network that has seen such.
        learnt = section.mirror and (preset.mirror_p > 0 or preset.one_of)
        axes = tuple(range(dims)) if learnt else ()
    else:
        axes = tuple(sorted(set(section.mirror)))
    reasons["mirror_axes"] = f"training mirrors {len(axes)} of {dims} axes"
    if section.left_right:
        # a mirrored patient has left and right classes swapped, which averaging would mix
        order = transpose
        left_right = order.index(0) - (len(order) - dims) if order else 1
        axes = tuple(a for a in axes if a != left_right)
        reasons["mirror_axes"] += "; prediction leaves out left-right, where classes swap"
    if recipe.infer.mirror and not axes:
        raise RecipeError("infer.mirror=true averages over mirrored images, but training shows none; drop it")
    return axes
