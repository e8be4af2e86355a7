"""The weights that a training starts from, whether a segmentation or a pretraining made them."""

from __future__ import annotations

from torch import nn

from unetkit.checkpoint import load_checkpoint, transfer_weights
from unetkit.infer.network import head_tensors
from unetkit.plan.plan import Plan
from unetkit.recipe.schema import Recipe

_PREFIX = "network."


def start_from(network: nn.Module, source: str, recipe: Recipe, plan: Plan) -> list[str]:
    """Put the weights of a run or checkpoint into a recipe's network; return the names of tensors that stay new.

    Of a pretraining come the encoder and, of mae, the decoder; heads stay new, even where their shapes agree, unless
    the recipe pretrains too. Raises CheckpointError if it is another model.
    """
    found = load_checkpoint(source)
    weights = found.best_weights
    if found.recipe.task != "pretrain":
        return transfer_weights(network, weights, source)
    part = "encoder." if found.recipe.train.pretrain.method == "barlow" else ""
    new = head_tensors(recipe, plan) if recipe.task != "pretrain" else set()
    inside = {name.removeprefix(_PREFIX): value for name, value in weights.items() if name.startswith(_PREFIX)}
    kept = {name: value for name, value in inside.items() if name.startswith(part) and name not in new}
    return transfer_weights(network, kept, source, part)
