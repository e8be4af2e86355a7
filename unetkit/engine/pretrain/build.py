"""From a recipe's section to what is trained and what it minimises."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from unetkit.engine.losses.objective import Objective
from unetkit.engine.pretrain.barlow import RedundancyLoss, TwoViews, encoder_channels
from unetkit.engine.pretrain.masked import MaskedError, MaskedImages
from unetkit.errors import RecipeError
from unetkit.plan.plan import Plan
from unetkit.recipe.schema import Recipe
from unetkit.recipe.training import PretrainSection
from unetkit.registry import model_info


def for_pretraining(network: nn.Module, recipe: Recipe, plan: Plan) -> tuple[nn.Module, Objective]:
    """Return the module around a network that is pretrained, and its loss.

    Raises RecipeError for a network without an encoder where one is needed, and a mask that is no part of the patch.
    """
    section = recipe.train.pretrain
    if section.method == "barlow":
        channels = encoder_channels(network, recipe.model.name)
        return TwoViews(network, channels, section.projector), RedundancyLoss(section.off_diagonal)
    return MaskedImages(network, mask_part(section, plan.patch_size), section.mask_ratio), MaskedError()


def views_of(recipe: Recipe) -> int:
    """Return how many augmented views of each sample a step looks at."""
    return 2 if recipe.task == "pretrain" and recipe.train.pretrain.method == "barlow" else 1


def check_pretraining(recipe: Recipe, plan: Plan) -> None:
    """Refuse what would fail after the preprocessing. Raises RecipeError."""
    section = recipe.train.pretrain
    if model_info(recipe.model.name).learns == "contours":
        raise RecipeError(f"task=pretrain: {recipe.model.name} gives contours and no maps; choose another model")
    if section.method == "mae":
        mask_part(section, plan.patch_size)
    elif (recipe.train.batch_size or plan.batch_size) < 2:
        raise RecipeError(
            "train.pretrain.method=barlow compares the samples of a batch; give train.batch_size=2 or more"
        )


def mask_part(section: PretrainSection, patch: Sequence[int]) -> tuple[int, ...]:
    """Return the sides of what mae hides at once. Raises RecipeError if that is the whole patch, or has other axes."""
    given = section.mask_patch
    part = (given,) * len(patch) if isinstance(given, int) else given
    if len(part) != len(patch):
        raise RecipeError(f"train.pretrain.mask_patch={list(part)}: the patch {list(patch)} has {len(patch)} axes")
    if all(p >= n for p, n in zip(part, patch, strict=True)):
        raise RecipeError(
            f"train.pretrain.mask_patch={given} covers the whole patch {list(patch)}; give a smaller one, such as "
            f"{max(min(patch) // 4, 1)}"
        )
    return tuple(part)
