"""The network that a recipe names, in the sizes that a plan decided."""

from __future__ import annotations

from typing import Any

from torch import nn

from unetkit.errors import ModelError
from unetkit.plan.plan import Plan
from unetkit.recipe.schema import Recipe
from unetkit.registry import ModelInfo, create_model, model_info

FROM_PLAN = ("strides", "kernels", "widths")
# Options that name weights to start from.
_START = ("pretrained", "weights")


def build_network(recipe: Recipe, plan: Plan, *, start: bool = True) -> nn.Module:
    """Build the recipe's model for the plan's channels, classes and patch, with the outputs that training asks for.

    `start` False leaves out the weights that training starts from, since others are put in.
    Raises ModelError or ShapeError as `create_model` does.
    """
    info = model_info(recipe.model.name)
    # What the recipe says of the model goes before what the plan decided.
    options = {**plan_options(info, plan), **recipe.model.options}
    if not start:
        options = {k: v for k, v in options.items() if k not in _START}
    asked = recipe.train.deep_supervision
    if asked == "auto" and info.deep_supervision:
        try:
            return _create(info, plan, {"deep_supervision": True, **options})
        except ModelError:  # some variants of a model have no deep supervision; any other fault shows again below
            return _create(info, plan, options)
    return _create(info, plan, {"deep_supervision": True, **options} if asked is True else options)


def _create(info: ModelInfo, plan: Plan, options: dict[str, Any]) -> nn.Module:
    task = plan.task
    return create_model(
        info.name, in_channels=task.in_channels, num_classes=task.num_classes, patch_size=task.patch_size, **options
    )


def plan_options(info: ModelInfo, plan: Plan) -> dict[str, Any]:
    """Return the sizes of the plan that the model's builder asks for; a model with strides of its own asks for none."""
    if "strides" not in info.options:
        return {}
    return {name: getattr(plan, name) for name in FROM_PLAN if name in info.options and getattr(plan, name)}
