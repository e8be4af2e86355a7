"""One job of a benchmark: train, choose on validation, test once, and note everything that a table may ask for."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from unetkit.bench.claims import claim, kept, maker_of
from unetkit.bench.costs import START_OPTIONS
from unetkit.bench.folder import BenchFolder
from unetkit.bench.operations import trainable, without_content
from unetkit.checkpoint import versions
from unetkit.data.datasets import open_dataset
from unetkit.data.formats.files import first_line
from unetkit.engine.log import read_log
from unetkit.engine.result import machine
from unetkit.engine.state import BEST, LAST
from unetkit.engine.train import train
from unetkit.errors import RecipeError, UnetkitError
from unetkit.evaluation import Evaluation, cases_of_run, evaluate_run
from unetkit.evaluation.cases import other_data
from unetkit.infer.device import pick_device
from unetkit.infer.network import build_network
from unetkit.plan.plan import Plan
from unetkit.recipe.bench import BenchJob
from unetkit.recipe.words import Tree
from unetkit.types import Case

RUN = "run"
_LAST_WRITTEN = "report.html"


def run_job_alone(folder: BenchFolder, job: BenchJob, device: str, ticket: str | None) -> dict[str, Any]:
    """Claim a job, by the ticket of an engine's attempt if there is one, do it, and note why it failed if it does.

    Raises RecipeError if it is in other hands, and a UnetkitError as `run_job` does.
    """
    if (own := claim(folder.of(job), ticket)) is None:
        maker = maker_of(folder.of(job))
        who = "another process" if maker is None else f"process {maker.pid} on {maker.host}"
        raise RecipeError(f"job={job.name}: {who} works on it; wait until it has ended, or do another")
    with kept(own):
        folder.forget_failure(job)
        try:
            return run_job(folder, job, device)
        except Exception as error:
            kind = "" if isinstance(error, UnetkitError) else f"{type(error).__name__}: "
            folder.write_failure(job, kind + first_line(error))
            raise


def run_job(folder: BenchFolder, job: BenchJob, device: str = "auto", *, shown: bool = False) -> dict[str, Any]:
    """Do a job from where it stands, and write and return its result.

    A job that has a result is only tested on other data that joined since (zero_shot), if there are any.
    Raises a UnetkitError as `train` and `evaluate_run` do.
    """
    run = folder.of(job) / RUN
    if folder.has_result(job):
        return _supplemented(folder, job, run, device)
    _trained(job, run, device, shown)
    if folder.bench.protocol == "ubench":
        scored, side = json.loads((run / "metrics.json").read_text(encoding="utf-8")), "val"
    else:
        scored, side = _tested(evaluate_run(run, "test", {}, device=device)), "test"
    groups = _groups(cases_of_run(run, side, {}))
    moved = {name: _moved(job, run, data, device) for name, data in job.transfers.items()}
    result = {**about(job, run, device), "split": side, "groups": groups, "scores": scored, "zero_shot": moved}
    folder.write_result(job, result)
    # a job is never trained on, and the moments of the optimiser are two thirds of what a benchmark would keep
    if (run / BEST).is_file():
        (run / LAST).unlink(missing_ok=True)
    return result


def _supplemented(folder: BenchFolder, job: BenchJob, run: Path, device: str) -> dict[str, Any]:
    """Return a job's result, after its network was tested on each of the other data that it does not tell of yet."""
    result = folder.result(job)
    for name in folder.untested(job):
        moved = {name: _moved(job, run, job.transfers[name], device)}
        result = {**result, "zero_shot": {**result["zero_shot"], **moved}}
        folder.write_result(job, result)
    return result


def about(job: BenchJob, run: Path, device: str) -> dict[str, Any]:
    """Return what a job was and took: names, start, steps, seconds, parameters, plan, machine and versions."""
    plan = Plan.from_json(json.loads((run / "plan.json").read_text(encoding="utf-8")))
    log = read_log(run / "log.jsonl")
    network = without_content(lambda: build_network(job.recipe, plan, start=False))
    return {
        "model": job.model,
        "dataset": job.dataset,
        "seed": job.seed,
        "network": job.recipe.model.model_dump(mode="json"),
        "pretrained": starts_trained(job),
        "params_m": trainable(network) / 1e6,
        "patch_size": list(plan.patch_size),
        "in_channels": plan.task.in_channels,
        "num_classes": plan.task.num_classes,
        "steps": max((record["step"] for record in log), default=0),
        "train_seconds": max((record.get("seconds", 0.0) for record in log), default=0.0),
        "machine": machine(pick_device(device)),
        "versions": versions(),
        "threads": torch.get_num_threads(),
    }


def starts_trained(job: BenchJob) -> bool:
    """Tell whether a job's network starts from weights that were trained on other images."""
    options = job.recipe.model.options
    return job.recipe.train.init is not None or any(options.get(key) for key in START_OPTIONS)


def _trained(job: BenchJob, run: Path, device: str, shown: bool) -> None:
    if (run / _LAST_WRITTEN).is_file():
        return
    if (run / "recipe.yaml").is_file():
        train(resume=run, progress=shown, changes={"train.device": device})
        return
    # What a killed process began to write and cannot be gone on with.
    shutil.rmtree(run, ignore_errors=True)
    settings = job.recipe.train.model_copy(update={"device": device})
    recipe = job.recipe.model_copy(update={"output": str(run.parent), "name": run.name, "train": settings})
    if recipe.data.split.fold == "all":
        raise RecipeError("data.split.fold=all: a job of a benchmark is one training; name the folds as data sets")
    train(recipe, progress=shown)


def _moved(job: BenchJob, run: Path, data: Tree, device: str) -> dict[str, Any]:
    """Return the scores on other data, with the patients of its cases."""
    scores = _tested(evaluate_run(run, "test", {"data": data}, device=device, foreign=True))
    return {**scores, "groups": _groups(open_dataset(other_data(job.recipe.data, data)).cases)}


def _groups(cases: Iterable[Case]) -> dict[str, str]:
    return {case.id: case.group for case in cases if case.group is not None}


def _tested(evaluation: Evaluation) -> dict[str, Any]:
    tree = evaluation.to_json()
    return {key: tree[key] for key in ("dice", "per_class", "cases", "failures", "definitions")}
