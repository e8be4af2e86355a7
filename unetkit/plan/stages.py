"""Strides, kernels and widths of a network that takes them from the plan."""

from __future__ import annotations

from math import prod

from unetkit.errors import RecipeError
from unetkit.plan.check import check_topology, per_axis
from unetkit.plan.nnunet import BASE_WIDTH, MOST_WIDTH, stage_widths
from unetkit.recipe.schema import Recipe
from unetkit.registry import ModelInfo
from unetkit.topology import Sizes

_KEYS = ("strides", "kernels", "widths")


def choose_stages(
    info: ModelInfo,
    patch: tuple[int, ...],
    own: tuple[Sizes, Sizes, tuple[int, ...]],
    recipe: Recipe,
    reasons: dict[str, str],
    origin: str | None = None,
) -> tuple[Sizes, Sizes, tuple[int, ...]]:
    """Return strides, kernels and widths: `own` but for what the recipe gives; nothing for other networks.

    `origin` says in the reasons where `own` is from, if not from nnU-Net's rule; no widths there mean the rule's.
    Raises RecipeError for sizes that contradict each other or the patch, and for those that the model does not use.
    """
    asked = {name: getattr(recipe.plan, name) for name in _KEYS if getattr(recipe.plan, name) is not None}
    # One truth for sizes: the plan's key or the model's option.
    twice = sorted(set(asked) & set(recipe.model.options))
    if twice:
        raise RecipeError(f"plan.{twice[0]} and model.{twice[0]} are both given; drop one of them")
    if "strides" not in info.options:
        if asked:
            name = next(iter(asked))
            raise RecipeError(f"plan.{name} is not used by {info.name}, whose sizes are options of the model; drop it")
        return (), (), ()
    asked |= {name: recipe.model.options[name] for name in _KEYS if recipe.model.options.get(name) is not None}
    strides, kernels, widths = own
    dims = len(patch)
    if "strides" in asked:
        strides = per_axis(asked["strides"], "strides", dims)
        # Kernels of the rule belong to its own strides; with others a plain 3 is the safe choice.
        kernels, widths = ((3,) * dims,) * len(strides), ()
    if "kernels" in asked:
        kernels = per_axis(asked["kernels"], "kernels", dims)
    widths = tuple(asked.get("widths") or widths or stage_widths(len(strides), dims))
    check_topology(strides, kernels, widths, patch)
    reasons.update(_reasons(strides) if origin is None else dict.fromkeys(_KEYS, origin))
    reasons.update(dict.fromkeys(asked, "as the recipe says"))
    return strides, kernels, widths


def _reasons(strides: Sizes) -> dict[str, str]:
    """Return why stages are as nnU-Net's rule makes them."""
    pools = " x ".join(str(prod(axis)) for axis in zip(*strides, strict=True))
    most = MOST_WIDTH[len(strides[0])]
    return {
        "strides": f"axes are halved while 4 voxels are left and spacings stay within a factor of 2: by {pools} in all",
        "kernels": "3, but 1 along an axis twice as coarse",
        "widths": f"{BASE_WIDTH}, doubled at each stage up to {most}",
    }
