"""The end of a run: whole-case validation with the chosen checkpoint, the report, and what the caller gets."""

from __future__ import annotations

import os
import platform
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unetkit.checkpoint import versions
from unetkit.engine.log import read_log
from unetkit.engine.task import Task
from unetkit.evaluation import Evaluation, Sink, evaluate_cases, require_scores, write_evaluation
from unetkit.infer.folder import write_labels
from unetkit.infer.predictor import Predictor
from unetkit.infer.segmenter import Segmenter
from unetkit.progress import case_bar
from unetkit.recipe.merge import flatten_recipe
from unetkit.report import ReportData, overlay_name
from unetkit.types import Volume

VALIDATION = "validation"
"""Folder in a run of a study with the label maps of its validation cases."""
# Which picture stands for the run: the median case shows what to expect.
_OVERLAYS = ("median", "best", "worst")


@dataclass(frozen=True)
class TrainResult:
    """Where a run's results are, and the most important of them.

    `dice` is the mean foreground Dice over the validation cases, by the checkpoint that the recipe selects, and
    `per_class` that of each class; None where no case says anything. `overlay` is None if no case has a score.
    `failures` says of each case why it could not be scored; the scores are without them.
    """

    run: Path
    report: Path
    overlay: Path | None
    dice: float | None
    per_class: dict[str, float | None]
    seconds: float
    failures: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        paths = {"run": self.run, "report": self.report, "overlay": self.overlay}
        return {
            **{name: None if path is None else str(path) for name, path in paths.items()},
            "dice": self.dice,
            "per_class": dict(self.per_class),
            "seconds": self.seconds,
            "failures": dict(self.failures),
        }

    def summary(self) -> str:
        """Return the lines for people."""
        rows: list[tuple[str, object]] = [
            (name, "-" if value is None else f"{value:.4f}")
            for name, value in [("mean foreground Dice", self.dice), *self.per_class.items()]
        ]
        rows += [("seconds", f"{self.seconds:.0f}"), ("run", self.run)]
        rows += [(name, path) for name, path in (("report", self.report), ("overlay", self.overlay)) if path]
        wide = max(len(name) for name, _ in rows) + 2
        lines = [f"{name:<{wide}}{value}" for name, value in rows]
        return "\n".join([*lines, *(f"not scored: {case}: {why}" for case, why in self.failures.items())])


def conclude(task: Task, started: float, shown: bool) -> TrainResult:
    """Score a trained run on whole cases it did not train on, write metrics and report, and return what came out.

    `started` is when the run began, by the monotonic clock. Without a case to score there is a report all the same,
    of the training alone. Raises DataError if all cases fail, after the report, or if it cannot be written.
    """
    run, (side, ids) = task.folder.path, judged_on(task)
    # From the folder, not from memory: what is scored is the file that users will load.
    predictor = Predictor.from_checkpoint(run, str(task.device), previous=task.recipe.data.previous)
    evaluation = evaluate_cases(
        predictor,
        task.preparation.dataset,
        ids,
        task.recipe,
        progress=case_bar("validate", shown),
        about={"title": run.name, "split": side, "run": str(run)},
        sink=keeper(run, predictor) if side == "val" and task.folder.in_study else None,
        peers=task.group if task.group.world > 1 else None,
    )
    seconds = time.monotonic() - started
    report = task.group.first(lambda: write_evaluation(evaluation, run, _report(task, evaluation, seconds)))
    scores = require_scores(evaluation).to_json()
    drawn = (run / "pictures" / overlay_name(role) for role in _OVERLAYS if role in evaluation.pictures)
    return TrainResult(
        run, report, next(drawn, None), scores["dice"], scores["per_class"], seconds, dict(evaluation.failures)
    )


def keeper(run: Path, predictor: Segmenter) -> Sink:
    """Return what writes label maps of validation cases below a folder, which other runs of a study go on from."""
    ending = ".nii.gz" if predictor.volumes else ".png"

    def keep(case: str, image: Volume, encoded: np.ndarray) -> None:
        write_labels(image, encoded, predictor.plan.labels, run / VALIDATION / f"{case}{ending}")

    return keep


def judged_on(task: Task) -> tuple[str, tuple[str, ...]]:
    """Return the split that a run is judged on and its cases: validation, or the test cases where there is none.

    The test cases serve only if no choice was left to make, that is if the last checkpoint is taken in any case.
    """
    split = task.preparation.split
    if not split.val and task.recipe.train.select == "last":
        return "test", split.test  # nothing was selected on it, so it is touched once
    return "val", split.val


def _report(task: Task, evaluation: Evaluation, seconds: float) -> ReportData:
    """Add to the scores what is known of the training."""
    values = flatten_recipe(task.recipe)
    history = read_log(task.folder.path / "log.jsonl")
    split, plan = task.preparation.split, task.preparation.plan
    report = evaluation.report()
    facts = {
        "Training cases": str(len(split.train)),
        "Steps": str(max((record["step"] for record in history), default=0)),
        "Patch": " x ".join(map(str, plan.patch_size)),
        "Batch": str(plan.batch_size),
        "Time": f"{seconds / 60:.1f} min",
    }
    if history and "stopped" in history[-1]:
        facts["Stopped early"] = history[-1]["stopped"]
    return replace(
        report,
        history=history,
        recipe=[(key, str(value), task.origins.get(key, "default")) for key, value in values.items()],
        reasons=plan.reasons,
        facts={**report.facts, **facts},
        fingerprint=task.folder.fingerprint(),
        versions=versions(),
        machine=machine(task.device),
    )


def machine(device: torch.device) -> dict[str, str]:
    """Return what computed: device, processor cores, threads, operating system."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "device": f"{device.type}: {name}",
        "cores": str(os.cpu_count()),
        "threads": str(torch.get_num_threads()),
        "system": platform.platform(),
    }
