"""What is to be trained, settled before anything is computed: recipe, folder, data, plan, device."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from unetkit.checkpoint import load_checkpoint
from unetkit.data.datasets import open_dataset
from unetkit.engine.log import require_tensorboard
from unetkit.engine.losses import build_loss
from unetkit.engine.prepare import Preparation, prepare_plan
from unetkit.engine.run_folder import RunFolder, new_run_folder
from unetkit.errors import RecipeError
from unetkit.infer.device import pick_device
from unetkit.recipe.merge import AUTO
from unetkit.recipe.schema import Recipe
from unetkit.registry import model_info


@dataclass(frozen=True)
class Task:
    """One run; `origins` says of each dotted key of the recipe where its value is from."""

    recipe: Recipe
    origins: Mapping[str, str]
    folder: RunFolder
    preparation: Preparation
    device: torch.device


def start_task(recipe: Recipe, origins: Mapping[str, str], source: str | None = None) -> Task:
    """Make the run folder and decide everything; if that fails, nothing is left on the disk.

    `source` is the name of the recipe. Raises a UnetkitError for what recipe, data or machine do not allow.
    """
    device = pick_device(recipe.train.device)
    # first the folder: an output that cannot be written is known before the data are measured
    folder = new_run_folder(recipe, _title(recipe, source))
    with folder.kept_on_success():
        preparation = prepare_plan(recipe)
        _check(recipe, preparation)
        folder.write(recipe, origins, preparation.plan, preparation.split)
    return Task(recipe, origins, folder, preparation, device)


def reopen_task(path: Path) -> Task:
    """Take recipe, plan and split from a run; only the data set is opened again.

    Raises CheckpointError if the folder is no run.
    """
    folder = RunFolder(path)
    recipe, origins, plan, split = folder.read()
    device = pick_device(recipe.train.device)
    return Task(recipe, origins, folder, Preparation(open_dataset(recipe.data), split, plan), device)


def _title(recipe: Recipe, source: str | None) -> str:
    """Return recipe (else model) and data set as part of a folder name."""
    data = recipe.data.dataset or Path(os.path.expanduser(recipe.data.root or "data")).resolve().name
    # a recipe that nobody named says less than the model
    first = Path(source).stem if source not in (None, AUTO) else recipe.model.name
    return re.sub(r"[^\w.-]+", "_", f"{first}_{data}")


def _check(recipe: Recipe, preparation: Preparation) -> None:
    """Refuse now what would otherwise fail after the preprocessing."""
    build_loss(recipe.train.loss, preparation.plan.labels)
    info = model_info(recipe.model.name)
    if recipe.train.deep_supervision is True and not info.deep_supervision:
        raise RecipeError(
            f"train.deep_supervision=true: {info.name} has no lower-resolution outputs; use auto, or another model"
        )
    if recipe.train.patience is not None and not preparation.split.val:
        raise RecipeError(
            f"train.patience={recipe.train.patience}: no case validates, so nothing could end the training; drop it, "
            "or raise data.split.val_fraction"
        )
    if recipe.train.tensorboard:
        require_tensorboard()
    if recipe.train.init is not None:
        load_checkpoint(recipe.train.init)
