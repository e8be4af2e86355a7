"""What is to be trained, settled before anything is computed: recipe, folder, data, plan, device."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from unetkit.checkpoint import load_checkpoint, read_state
from unetkit.data.share import Share
from unetkit.data.splits import make_split
from unetkit.engine.distributed import ALONE, Group
from unetkit.engine.log import require_tensorboard
from unetkit.engine.losses import build_loss
from unetkit.engine.losses.contours import CONTOURS, check_contours
from unetkit.engine.parallel import check_parallel
from unetkit.engine.prepare import Preparation, open_for, prepare_plan
from unetkit.engine.pretrain import check_pretraining
from unetkit.engine.run_folder import RunFolder, new_run_folder
from unetkit.engine.state import LAST
from unetkit.errors import CheckpointError, DataError, RecipeError
from unetkit.infer.instances import check_instance_settings
from unetkit.infer.queries import check_flat
from unetkit.plan.fingerprint import measure
from unetkit.plan.plan import Plan
from unetkit.progress import case_bar
from unetkit.recipe.merge import AUTO, resumed
from unetkit.recipe.schema import Recipe
from unetkit.registry import model_info


@dataclass(frozen=True)
class Task:
    """One run; `origins` says of each dotted key of the recipe where its value is from, `group` who trains it."""

    recipe: Recipe
    origins: Mapping[str, str]
    folder: RunFolder
    preparation: Preparation
    device: torch.device
    group: Group = ALONE


def start_task(
    recipe: Recipe,
    origins: Mapping[str, str],
    source: str | None = None,
    group: Group = ALONE,
    *,
    shown: bool = True,
) -> Task:
    """Make the run folder and decide everything; if that fails, nothing is left on the disk.

    `source` is the name of the recipe; `shown` draws a bar while measuring. Of a group the first process decides
    for all. Raises a UnetkitError for what recipe, data or machine do not allow.
    """
    with group.together():
        device = _device(recipe, group)

    # first the folder: an output that cannot be written is known before the data are measured
    folder = group.first(lambda: new_run_folder(recipe, run_title(recipe, source)))
    if not group.leads:  # who made it takes it away again
        folder = RunFolder(folder.path)

    def decide() -> Preparation:
        preparation = prepare_plan(recipe, shown)
        check_task(recipe, preparation)
        if preparation.fingerprint is not None:
            folder.write_fingerprint(preparation.fingerprint.to_json())
        folder.write(recipe, origins, preparation.plan, preparation.split)
        return preparation

    with folder.kept_on_success():
        if group.world > 1:
            with group.together():
                _measure(recipe, group.share, shown)
        preparation = group.first(decide)
    return Task(recipe, origins, folder, preparation, device, group)


def reopen_task(path: Path, group: Group = ALONE, changes: Mapping[str, Any] | None = None) -> Task:
    """Take recipe, plan and split from a run; only the data set is opened again. `changes` are as `resumed` takes them.

    With another number of processes than before, each takes another part of the same batch. Raises CheckpointError
    if the folder is no run or a finished one whose last checkpoint was removed, or the batch cannot be divided so.
    """
    folder = RunFolder(path)
    if (path / "report.html").is_file() and not (path / LAST).is_file():
        raise CheckpointError(
            f"{path}: a finished run without its {LAST}, which going on needs; start a new one from its weights "
            f"(train.init={path})"
        )
    with group.together():
        recipe, origins, plan, split = folder.read()
        recipe = shared_out(resumed(recipe, changes or {}), plan, path, group.world)
        device = _device(recipe, group)
        preparation = Preparation(open_for(recipe), split, plan)
    return Task(recipe, origins, folder, preparation, device, group)


def _measure(recipe: Recipe, share: Share, shown: bool) -> None:
    """Measure this process's share of the training cases, so that the first one finds them measured for its plan."""
    dataset = open_for(recipe)
    own = share.of(make_split(dataset, recipe.data.split).train)
    # what is wrong with a case is said of all cases together, by the first process
    with suppress(DataError):
        measure(dataset, own, progress=case_bar("measure", shown and share.rank == 0))


def _device(recipe: Recipe, group: Group) -> torch.device:
    check_parallel(recipe.train, group)
    return group.pick_device(recipe.train.device)


def shared_out(recipe: Recipe, plan: Plan, run: Path, world: int) -> Recipe:
    """Return a run's recipe with the batch of each of `world` processes such that together they have that of before.

    Raises CheckpointError if it cannot be divided so.
    """
    if not (run / LAST).is_file():
        return recipe
    state = read_state(run / LAST)
    # written before there were several processes: one
    before, batch = state.get("world", 1), state.get("batch", recipe.train.batch_size or plan.batch_size)
    if before * batch % world:
        raise CheckpointError(
            f"{run}: its batch of {before} x {batch} samples cannot be shared by {world} processes; "
            f"resume with a number that divides {before * batch}, such as {before}"
        )
    train = recipe.train.model_copy(update={"batch_size": before * batch // world})
    return recipe.model_copy(update={"train": train})


def run_title(recipe: Recipe, source: str | None) -> str:
    """Return recipe (else model) and data set as part of a folder name."""
    data = recipe.data.dataset or Path(os.path.expanduser(recipe.data.root or "data")).resolve().name
    # a recipe that nobody named says less than the model
    first = Path(source).stem if source not in (None, AUTO) else recipe.model.name
    return re.sub(r"[^\w.-]+", "_", f"{first}_{data}")


def check_task(recipe: Recipe, preparation: Preparation) -> None:
    """Refuse now what would otherwise fail after the preprocessing. Raises RecipeError or CheckpointError."""
    info = model_info(recipe.model.name)
    if recipe.task == "pretrain":
        check_pretraining(recipe, preparation.plan)
    elif info.learns == CONTOURS:
        check_contours(recipe, preparation.plan)
    else:
        build_loss(recipe.train.loss, preparation.plan.labels, learns=info.learns)
        if info.learns == "queries" and preparation.plan.labels.instances:
            check_flat(preparation.plan, info.name)
            check_instance_settings(recipe.infer, preparation.plan.labels, queries=True)
    if recipe.train.deep_supervision is True and not info.deep_supervision:
        raise RecipeError(
            f"train.deep_supervision=true: {info.name} has no lower-resolution outputs; use auto, or another model"
        )
    if recipe.train.patience is not None and not preparation.split.val:
        raise RecipeError(
            f"train.patience={recipe.train.patience}: no case validates, so nothing could end the training; drop it, "
            "or raise data.split.val_fraction"
        )
    if recipe.train.jobs not in ("auto", 1):
        raise RecipeError(
            f"train.jobs={recipe.train.jobs}: this is a single run; drop it, or ask for several with "
            "data.split.fold=all or plan.configuration"
        )
    if recipe.train.tensorboard:
        require_tensorboard()
    if recipe.train.init is not None:
        load_checkpoint(recipe.train.init)
