"""The network that a recipe names, in the sizes that a plan decided."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from unetkit.data.cascade import one_hot
from unetkit.errors import ModelError, RecipeError
from unetkit.plan.plan import Plan
from unetkit.recipe.schema import Recipe
from unetkit.registry import ModelInfo, create_model, model_info
from unetkit.types import TaskShape

FROM_PLAN = ("strides", "kernels", "widths")
# Options that name weights to start from.
_START = ("pretrained", "weights")


def build_network(recipe: Recipe, plan: Plan, *, start: bool = True) -> nn.Module:
    """Build the recipe's model for the plan's channels, classes and patch, with the outputs that training asks for.

    `start` False leaves out the weights that training starts from, since others are put in. In pretraining the outputs
    are the channels of the image.
    Raises ModelError or ShapeError as `create_model` does.
    """
    task = plan.task
    if recipe.task == "pretrain":
        task = replace(task, num_classes=task.in_channels)
    return _built(recipe, plan, task, start)


def head_tensors(recipe: Recipe, plan: Plan) -> set[str]:
    """Return the names of the tensors of the recipe's network whose shape depends on the number of its outputs."""
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about initial values that nobody will see
        more = replace(plan.task, num_classes=plan.task.num_classes + 1)
        few, many = (_built(recipe, plan, task, start=False).state_dict() for task in (plan.task, more))
    return {name for name, value in few.items() if name not in many or many[name].shape != value.shape}


def _built(recipe: Recipe, plan: Plan, task: TaskShape, start: bool) -> nn.Module:
    info = model_info(recipe.model.name)
    # What the recipe says of the model goes before what the plan decided.
    options = {**plan_options(info, plan), **recipe.model.options}
    if not start:
        options = {k: v for k, v in options.items() if k not in _START}
    # coarser outputs have no images to be compared with
    asked = recipe.train.deep_supervision if recipe.task != "pretrain" else False
    if asked == "auto" and info.deep_supervision:
        try:
            return _create(info, task, {"deep_supervision": True, **options})
        except ModelError:  # some variants of a model have no deep supervision; any other fault shows again below
            return _create(info, task, options)
    return _create(info, task, {"deep_supervision": True, **options} if asked is True else options)


class StageInput(nn.Module):
    """The network of a cascade, which takes [B, C + L, *P]: the encoded map of the earlier stage below the image.

    A channel for each class comes into being for the windows in work alone; of a whole case it would fill the memory.
    """

    def __init__(self, network: nn.Module, plan: Plan) -> None:
        super().__init__()
        self.network, self.image_channels = network, len(plan.channels)
        self.classes, self.regions = len(plan.labels.classes), plan.labels.regions

    def forward(self, windows: Tensor) -> Tensor:
        """Return the network's output."""
        image, codes = windows.tensor_split([self.image_channels], dim=1)
        masks = one_hot(codes, self.classes, self.regions)
        out: Tensor = self.network(torch.cat((image, masks.to(image.dtype)), dim=1))
        return out


def pruned(network: nn.Module, depth: int | str | None) -> nn.Module:
    """Return a network cut to its first `depth` columns, which shares its weights; None leaves it whole.

    Raises RecipeError for a network that has no columns, or not so many with heads of their own.
    """
    if depth is None:
        return network
    if isinstance(network, MeanNetwork):
        return MeanNetwork([pruned(member, depth) for member in network.members])
    known = depths_of(network)
    if not isinstance(depth, int):
        raise RecipeError(f"infer.depth={depth}: one network predicts; give one of {', '.join(map(str, known))}")
    try:
        cut: nn.Module = network.at_depth(depth)  # type: ignore[operator]
    except ModelError as error:
        raise RecipeError(f"infer.{error}; choose another depth, or drop the key") from error
    return cut


def depths_of(network: nn.Module) -> tuple[int, ...]:
    """Return the numbers of columns that a network can be cut to. Raises RecipeError for one without columns."""
    if not hasattr(network, "at_depth"):
        raise RecipeError("infer.depth: this network has no columns to leave out, as unetpp has; drop the key")
    depths: tuple[int, ...] = network.depths  # type: ignore[assignment]
    return depths


def _create(info: ModelInfo, task: TaskShape, options: dict[str, Any]) -> nn.Module:
    return create_model(
        info.name, in_channels=task.in_channels, num_classes=task.num_classes, patch_size=task.patch_size, **options
    )


def plan_options(info: ModelInfo, plan: Plan) -> dict[str, Any]:
    """Return what the model's builder asks the plan for: sizes, and whether its outputs are regions.

    A model with strides of its own asks for no sizes.
    """
    regions = {"regions": plan.labels.regions} if "regions" in info.options else {}
    if "strides" not in info.options:
        return regions
    return regions | {name: getattr(plan, name) for name in FROM_PLAN if name in info.options and getattr(plan, name)}


class MeanNetwork(nn.Module):
    """Networks of one plan; the output is the mean of their logits [B, K, *S], as nnU-Net averages folds."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(networks)

    def forward(self, image: Tensor) -> Tensor:
        """Return the mean in fp32, of the finest outputs."""
        total: Tensor | None = None
        for member in self.members:
            out = member(image)
            finest = (out[0] if isinstance(out, tuple | list) else out).float()
            total = finest if total is None else total + finest
        assert total is not None
        return total / len(self.members)
