"""From a recipe to a trained, measured model: the whole way, one step after the other."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from unetkit.checkpoint import load_checkpoint, transfer_weights
from unetkit.data.loader import TrainingLoader
from unetkit.engine.faults import Load, explained
from unetkit.engine.fit import Job, fit
from unetkit.engine.losses import build_loss
from unetkit.engine.prepare import training_cases, validation_cases
from unetkit.engine.result import TrainResult, conclude
from unetkit.engine.step import Stepper
from unetkit.engine.task import Task, reopen_task, start_task
from unetkit.engine.validation import Validation
from unetkit.errors import RecipeError
from unetkit.infer.device import check_torch
from unetkit.infer.network import build_network
from unetkit.recipe import Recipe, resolve

__all__ = ["TrainResult", "train"]


def train(
    recipe: Recipe | str | None = None,
    origins: Mapping[str, str] | None = None,
    *,
    resume: str | Path | None = None,
    source: str | None = None,
    progress: bool = True,
) -> TrainResult:
    """Train by a recipe (or the name of one), validate on whole cases with the chosen checkpoint, and report.

    `resume` goes on with a run where its last checkpoint was, by the run's own recipe; then no recipe is given.
    `origins` says of each key where its value is from, `source` names the recipe in the run's name.
    `progress` draws bars on stderr, or prints a line an epoch where that is piped.

    Raises a UnetkitError with one line for whatever the recipe, the data or the machine do not allow, and
    KeyboardInterrupt on Ctrl-C, after the last checkpoint was saved.
    """
    started = time.monotonic()
    check_torch()
    if (recipe is None) == (resume is None):
        raise RecipeError("give either a recipe, or resume=RUN, which goes on with the run's own recipe")
    if isinstance(recipe, str):
        resolved = resolve(recipe=recipe)
        recipe, origins, source = resolved.recipe, resolved.origins, resolved.source
    task = start_task(recipe, origins or {}, source) if recipe is not None else reopen_task(Path(str(resume)))
    earlier = _train(task, progress)
    # a resumed run reports the time of all its processes
    return conclude(task, started - earlier, progress)


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
    for note in task.preparation.dataset.notes if shown else ():
        print(f"note: {note}", file=sys.stderr)


def _job(task: Task, shown: bool) -> tuple[Job, Stepper]:
    """Build the network and read all cases."""
    recipe, plan = task.recipe, task.preparation.plan
    # The network first: options that it refuses show within seconds, not after an hour of preprocessing.
    with explained("building the network", Load(plan, recipe.train.accumulate, recipe.train.precision)):
        stepper = Stepper(_network(task), build_loss(recipe.train.loss, plan.labels, plan.batch_dice), recipe.train, task.device)
    cases = training_cases(task.preparation, recipe, shown)
    loader = TrainingLoader(cases, plan, recipe, task.device)
    held_out = validation_cases(task.preparation, recipe, shown)
    validate = Validation(held_out, plan, recipe, task.device)
    return Job(recipe, plan, task.folder.path, loader, loader.steps_per_epoch, validate, shown), stepper


def _network(task: Task) -> nn.Module:
    """Build the network with weights drawn from the recipe's seed, then put in those of `train.init`."""
    init = task.recipe.train.init
    # on the CPU, where the same seed draws the same weights whatever the device that trains them
    torch.manual_seed(task.recipe.seed)
    network = build_network(task.recipe, task.preparation.plan)
    if init is not None:
        new = transfer_weights(network, load_checkpoint(init).best_weights, init)
        if new:
            print(
                f"note: {len(new)} tensors are not in {init} and start anew: {', '.join(new[:4])} ...", file=sys.stderr
            )
    return network
