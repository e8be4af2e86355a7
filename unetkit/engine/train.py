"""From a recipe to a trained, measured model: the whole way, one step after the other."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from unetkit.data.loader import TrainingLoader
from unetkit.engine.distributed import Group, joined
from unetkit.engine.expectation import foreseen
from unetkit.engine.faults import Load, explained
from unetkit.engine.fit import Job, fit
from unetkit.engine.goal import with_loss
from unetkit.engine.parallel import has_loose_norm
from unetkit.engine.prepare import training_cases, validation_cases
from unetkit.engine.pretrain import start_from, views_of
from unetkit.engine.pretrain.result import PretrainResult, conclude_pretraining
from unetkit.engine.result import TrainResult, conclude
from unetkit.engine.step import Stepper
from unetkit.engine.study.decide import Study, reopen_study, start_study
from unetkit.engine.study.folder import holds_study
from unetkit.engine.study.nodes import is_study
from unetkit.engine.study.result import StudyResult, conclude_study
from unetkit.engine.study.run import carry_out
from unetkit.engine.task import Task, reopen_task, start_task
from unetkit.engine.validation import Validation
from unetkit.errors import RecipeError
from unetkit.infer.device import check_torch
from unetkit.infer.network import build_network
from unetkit.recipe import Recipe, resolve

__all__ = ["PretrainResult", "StudyResult", "TrainResult", "train"]


def train(
    recipe: Recipe | str | None = None,
    origins: Mapping[str, str] | None = None,
    *,
    resume: str | Path | None = None,
    source: str | None = None,
    progress: bool = True,
    changes: Mapping[str, Any] | None = None,
    group: Group | None = None,
) -> TrainResult | StudyResult | PretrainResult:
    """Train by a recipe (or the name of one), validate on whole cases with the chosen checkpoint, and report.

    `resume` goes on with a run where its last checkpoint was, by the run's own recipe; then no recipe is given, but
    `changes` may hold other values of train.device and train.workers (and train.jobs of a study). A recipe that asks
    for several configurations or all folds makes a study: each in a run of its own, then all folds together.
    `origins` says of each key where its value is from, `source` names the recipe in the run's name.
    `progress` draws bars on stderr, or prints a line an epoch where that is piped. Processes that torchrun started
    train together, one on each GPU; `group` is for a caller that has joined them already.

    Raises a UnetkitError with one line for whatever the recipe, the data or the machine do not allow, and
    KeyboardInterrupt on Ctrl-C, after the last checkpoint was saved.
    """
    if group is None:
        with joined() as group:
            told: dict[str, Any] = {"resume": resume, "source": source, "progress": progress, "changes": changes}
            return train(recipe, origins, **told, group=group)
    started = time.monotonic()
    check_torch()
    if recipe is not None and changes:
        raise RecipeError("changes go with resume=RUN; a recipe has its own values")
    if (recipe is None) == (resume is None):
        raise RecipeError("give either a recipe, or resume=RUN, which goes on with the run's own recipe")
    if isinstance(recipe, str):
        resolved = resolve(recipe=recipe)
        recipe, origins, source = resolved.recipe, resolved.origins, resolved.source
    shown = progress and group.leads
    if recipe is None and holds_study(Path(str(resume))):
        _require_alone(group)
        return _study(reopen_study(Path(str(resume)), changes or {}, shown=shown), shown, group)
    if recipe is not None and is_study(recipe):
        _require_alone(group)
        made = start_study(recipe, origins or {}, source, shown=shown)
        if isinstance(made, Study):
            return _study(made, shown, group)
        recipe = made  # of all configurations only one suits
    if recipe is not None:
        task = start_task(recipe, origins or {}, source, group, shown=shown)
    else:
        task = reopen_task(Path(str(resume)), group, changes)
    earlier = _train(task, shown)
    # a resumed run reports the time of all its processes
    finish = conclude_pretraining if task.recipe.task == "pretrain" else conclude
    return finish(task, started - earlier, shown)


def _require_alone(group: Group) -> None:
    if group.launched:
        raise RecipeError(
            "several configurations or folds train in processes of their own, one on each GPU; start them without "
            "torchrun, or give one plan.configuration and one data.split.fold"
        )


def _study(study: Study, shown: bool, group: Group) -> StudyResult:
    """Train the runs of a study, and put together what they come to."""
    started = time.monotonic()
    for note in (*study.dataset.notes, *study.folder.about["notes"]) if shown else ():
        print(f"note: {note}", file=sys.stderr)
    settings = study.recipe.train
    changes = {"train.device": settings.device, "train.workers": settings.workers}
    carry_out(study, lambda folder: train(resume=folder, progress=shown, changes=changes, group=group), shown)
    return conclude_study(study, started)


def _train(task: Task, shown: bool) -> float:
    """Train to the end and return the seconds that earlier processes had spent on it."""
    _say_assumptions(task, shown)
    with task.folder.kept_on_success():
        job, stepper = _job(task, shown)
    started = time.monotonic()
    done = fit(job, stepper)
    return max(0.0, done.seconds - (time.monotonic() - started))


def _say_assumptions(task: Task, shown: bool) -> None:
    """Print what was assumed of the data or left out of them, as `unetkit inspect` does."""
    measured = task.preparation.fingerprint
    for note in (*task.preparation.dataset.notes, *(measured.notes if measured else ())) if shown else ():
        print(f"note: {note}", file=sys.stderr)
    if shown and task.group.world > 1:
        batch, world = task.recipe.train.batch_size or task.preparation.plan.batch_size, task.group.world
        print(f"note: {world} processes x batch {batch} = {world * batch} samples a step", file=sys.stderr)


def _job(task: Task, shown: bool) -> tuple[Job, Stepper]:
    """Build the network and read all cases."""
    recipe, plan = task.recipe, task.preparation.plan
    # The network first: options that it refuses show within seconds, not after an hour of preprocessing.
    with explained("building the network", Load(plan, recipe.train.accumulate, recipe.train.precision)):
        network, loss = with_loss(_network(task), recipe, plan)
        stepper = Stepper(network, loss, recipe.train, task.device, task.group)
    if shown and has_loose_norm(stepper.network, stepper.device) and task.group.world > 1:
        print("note: on CPUs each process takes the statistics of batch norm over its own samples", file=sys.stderr)
    validate = None
    with task.group.together():
        cases = training_cases(task.preparation, recipe, shown, task.group)
        loader = TrainingLoader(cases, plan, recipe, task.device, task.group.share, views_of(recipe))
        if recipe.task == "segment":
            held_out = validation_cases(task.preparation, recipe, shown, task.group)
            validate = Validation(held_out, plan, recipe, task.device, task.group)
    expected = foreseen(plan, recipe, task.device).expected if shown else plan.expected
    return Job(recipe, plan, task.folder.path, loader, loader.steps_per_epoch, validate, shown, expected), stepper


def _network(task: Task) -> nn.Module:
    """Build the network with weights drawn from the recipe's seed, then put in those of `train.init`."""
    init = task.recipe.train.init
    # on the CPU, where the same seed draws the same weights whatever the device that trains them
    torch.manual_seed(task.recipe.seed)
    network = build_network(task.recipe, task.preparation.plan)
    if init is not None:
        new, every = start_from(network, init, task.recipe, task.preparation.plan), len(network.state_dict())
        if task.group.leads:
            anew = f"; {len(new)} start anew: {', '.join(new[:4])}{' ...' if len(new) > 4 else ''}" if new else ""
            print(f"note: {every - len(new)} of {every} tensors are taken from {init}{anew}", file=sys.stderr)
    return network
