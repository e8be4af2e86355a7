"""The end of a pretraining: its loss on images it did not train on, pictures, the report."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unetkit.checkpoint import load_checkpoint, load_weights, versions
from unetkit.data.loader import Batch, TrainingLoader
from unetkit.engine.goal import with_loss
from unetkit.engine.log import read_log
from unetkit.engine.prepare import training_cases
from unetkit.engine.pretrain.build import views_of
from unetkit.engine.pretrain.panels import panels_of
from unetkit.engine.result import machine
from unetkit.engine.step import step_seed
from unetkit.engine.task import Task
from unetkit.evaluation.cases import about_dataset
from unetkit.infer.network import build_network
from unetkit.recipe.merge import flatten_recipe
from unetkit.recipe.schema import Recipe
from unetkit.recipe.training import AugmentSection

_BATCHES = 8
"""At most so many batches are looked at."""
_SHOWN = 3


@dataclass(frozen=True)
class PretrainResult:
    """Where a pretraining's results are.

    `loss` is that of the last weights on images of the validation part (`held_out`), or of the training part where
    there is none. `baseline` is, of mae, the loss of painting all that is hidden in the mean of what is seen.
    """

    run: Path
    report: Path
    picture: Path
    loss: float
    baseline: float | None
    held_out: bool
    seconds: float
    failures: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        paths = {"run": str(self.run), "report": str(self.report), "picture": str(self.picture)}
        numbers = {"loss": self.loss, "baseline": self.baseline, "held_out": self.held_out, "seconds": self.seconds}
        return {**paths, **numbers, "failures": dict(self.failures)}

    def summary(self) -> str:
        """Return the lines for people."""
        rows: list[tuple[str, object]] = [(_loss_name(self.held_out), f"{self.loss:.4f}")]
        rows += [] if self.baseline is None else [("loss of the mean instead", f"{self.baseline:.4f}")]
        rows += [("seconds", f"{self.seconds:.0f}"), ("run", self.run), ("report", self.report)]
        rows += [("picture", self.picture), ("start from it with", f"train.init={self.run}")]
        wide = max(len(name) for name, _ in rows) + 2
        return "\n".join(f"{name:<{wide}}{value}" for name, value in rows)


def conclude_pretraining(task: Task, started: float, shown: bool) -> PretrainResult:
    """Measure a pretrained run, write its report, and return what came out.

    `started` is when the run began, by the monotonic clock. Raises DataError if the report cannot be written.
    """
    return task.group.first(lambda: _concluded(task, started, shown))


def _concluded(task: Task, started: float, shown: bool) -> PretrainResult:
    held_out = bool(task.preparation.split.val)
    with torch.random.fork_rng(devices=[task.device] if task.device.type == "cuda" else []):
        losses, baselines, batch, output = _measured(task, _batches(task, shown))
    baseline = sum(baselines) / len(baselines) if baselines else None
    loss, seconds = sum(losses) / len(losses), time.monotonic() - started
    history = read_log(task.folder.path / "log.jsonl")
    plan, panels = task.preparation.plan, panels_of(batch, output, _SHOWN)
    facts = {
        "Method": task.recipe.train.pretrain.method,
        "Training images": str(len(task.preparation.split.train)),
        "Steps": str(max((record["step"] for record in history), default=0)),
        "Patch": " x ".join(map(str, plan.patch_size)),
        "Batch": str(task.recipe.train.batch_size or plan.batch_size),
        "Time": f"{seconds / 60:.1f} min",
    }
    from unetkit.report.pretraining import PretrainData, write_pretrain_report  # with matplotlib, slow to import

    told = PretrainData(
        title=task.folder.path.name,
        model=task.recipe.model.name,
        dataset=task.preparation.dataset.name,
        score=f"{loss:.4f}",
        score_name=_loss_name(held_out) + ("" if baseline is None else f"; {baseline:.4f} by the mean of what is seen"),
        samples=batch.case_ids[: len(panels)],
        panels=panels,
        facts=facts,
        history=history,
        recipe=[(k, str(v), task.origins.get(k, "default")) for k, v in flatten_recipe(task.recipe).items()],
        reasons=plan.reasons,
        versions=versions(),
        machine=machine(task.device),
        phantom=about_dataset(task.preparation.dataset)["generated"] == "yes",
    )
    report, picture = write_pretrain_report(task.folder.path, told)
    return PretrainResult(task.folder.path, report, picture, loss, baseline, held_out, seconds)


def _loss_name(held_out: bool) -> str:
    return f"loss on {'images held out' if held_out else 'training images'}"


def _batches(task: Task, shown: bool) -> Sequence[Batch]:
    """Return patches of the validation part, augmented only where views are compared."""
    preparation, recipe = task.preparation, task.recipe
    if preparation.split.val:
        preparation = replace(preparation, split=replace(preparation.split, train=preparation.split.val))
    changes: dict[str, Any] = {"workers": 0}
    if views_of(recipe) == 1:
        changes["augment"] = AugmentSection(preset="none", mirror=False)
    recipe = recipe.model_copy(update={"train": recipe.train.model_copy(update=changes)})
    cases = training_cases(preparation, recipe, shown)
    loader = TrainingLoader(cases, preparation.plan, recipe, task.device, views=views_of(recipe))
    return list(islice(loader.batches(), min(_BATCHES, -(-len(cases) // len(loader.rows)))))


@torch.no_grad()
def _measured(task: Task, batches: Sequence[Batch]) -> tuple[list[float], list[float], Batch, tuple[Tensor, ...]]:
    """Return loss and baseline of each batch, and the first batch with what the network made of it."""
    module, loss = _loaded(task.recipe, task)
    losses, baselines, first = [], [], None
    for number, batch in enumerate(batches):
        torch.manual_seed(step_seed(task.recipe.seed, number))
        output, label = module(batch.image.to(task.device)), batch.label.to(task.device)
        losses.append(float(loss(output, label)))
        if views_of(task.recipe) == 1:
            _, image, mask = output
            seen = (image * ~mask).flatten(2).sum(2) / (~mask).flatten(2).sum(2)
            painted = seen.view(*seen.shape, *[1] * (image.ndim - 2)).expand_as(image)
            baselines.append(float(loss((painted, image, mask), label)))
        first = output if first is None else first
    assert first is not None  # a part of the split that is used has cases
    return losses, baselines, batches[0], first


def _loaded(recipe: Recipe, task: Task) -> tuple[nn.Module, nn.Module]:
    """Return module and loss from the run's folder: what is measured is what a training will start from."""
    plan = task.preparation.plan
    module, loss = with_loss(build_network(recipe, plan, start=False), recipe, plan)
    load_weights(module, load_checkpoint(task.folder.path).best_weights, task.folder.path)
    return module.to(task.device).eval(), loss.to(task.device)
