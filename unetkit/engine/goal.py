"""What a recipe trains, and towards what: a network and its loss."""

from __future__ import annotations

from torch import nn

from unetkit.engine.losses import build_loss
from unetkit.engine.losses.contours import CONTOURS, contour_loss
from unetkit.engine.losses.objective import Objective
from unetkit.engine.pretrain import for_pretraining
from unetkit.plan.plan import Plan
from unetkit.recipe.schema import Recipe
from unetkit.registry import model_info


def with_loss(network: nn.Module, recipe: Recipe, plan: Plan) -> tuple[nn.Module, Objective]:
    """Return the module that is trained, which may hold the network within, and its loss.

    Raises RecipeError for a loss or a pretraining that does not fit network and labels.
    """
    if recipe.task == "pretrain":
        return for_pretraining(network, recipe, plan)
    learns = model_info(recipe.model.name).learns
    if learns == CONTOURS:
        return network, contour_loss(network, recipe, plan)
    return network, build_loss(recipe.train.loss, plan.labels, plan.batch_dice, learns)
