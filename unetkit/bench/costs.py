"""What the networks of a benchmark cost, each at the patch and classes of the data set it was trained on.

U-Bench's frozen anchors are of 256 x 256 pixels, three channels, one output and thop's counting, so with these 2D
networks are counted and timed as they were there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import fields
from typing import Any

from unetkit.bench.cost import CostRow, Setting, Timer, cost_row
from unetkit.bench.folder import BenchFolder
from unetkit.data.formats.files import replacing
from unetkit.engine.result import machine
from unetkit.infer.device import pick_device

COSTS = "costs.json"
START_OPTIONS = ("pretrained", "weights")
"""Options of models that say what weights to start from, which costs nothing."""
_UBENCH_SIZE, _UBENCH_CHANNELS, _UBENCH_CLASSES = (256, 256), 3, 1

_COLUMNS = {column.name for column in fields(CostRow)}

Costs = dict[tuple[str, str], dict[str, Any]]
"""(model, data set) -> the values of a `CostRow`."""


def bench_costs(
    folder: BenchFolder, seconds: float, device: str = "auto", progress: Callable[[int, int], None] | None = None
) -> Costs:
    """Return the cost of each model on each data set that has a result, all timed on this machine.

    What was measured before on the same machine is read from costs.json; `seconds` is what timing a model may take.
    Raises DataError if that cannot be written.
    """
    here = machine(pick_device(device))
    known = _stored(folder, here, seconds)
    asked = {(job.model, job.dataset): job for job in folder.jobs if folder.has_result(job)}
    timers: dict[tuple[tuple[int, ...], int, int], Timer] = {}
    for number, (key, job) in enumerate(asked.items(), start=1):
        if key not in known:
            frozen = frozen_anchors(folder, job.dataset)
            shape = _shape(folder.result(job), frozen)
            setting = Setting(*shape, pick_device(device))
            # One reference for each size, measured right before the networks that are compared with it.
            if shape not in timers:
                timers[shape] = Timer(setting, seconds, False)
            options = without_start(job.recipe.model.options)
            row = cost_row(job.recipe.model.name, options, setting, timers[shape], frozen)
            known[key] = {**row.to_json(), "seconds": seconds, "counted": _counted(folder, job.dataset)}
            _store(folder, here, known)
        if progress is not None:
            progress(number, len(asked))
    return {key: known[key] for key in asked}


def without_start(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return a model's options but those that say what weights to start from."""
    return {key: value for key, value in options.items() if key not in START_OPTIONS}


def frozen_anchors(folder: BenchFolder, dataset: str) -> bool:
    """Tell whether the U-Scores on a data set are by the anchors that U-Bench published."""
    return folder.bench.anchors_of(dataset) != "cohort"


def _counted(folder: BenchFolder, dataset: str) -> str:
    return "ubench" if frozen_anchors(folder, dataset) else "torch"


def _shape(result: Mapping[str, Any], frozen: bool) -> tuple[tuple[int, ...], int, int]:
    """Return side lengths, channels and classes at which a job's network is counted."""
    size = tuple(result["patch_size"])
    if frozen and len(size) == 2:
        return _UBENCH_SIZE, _UBENCH_CHANNELS, _UBENCH_CLASSES
    return size, result["in_channels"], result["num_classes"]


def _stored(folder: BenchFolder, here: dict[str, str], seconds: float) -> Costs:
    """Return what was measured here before, but for what more time, or a later version of the row, would add to."""
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        tree = json.loads((folder.path / COSTS).read_text(encoding="utf-8"))
        if tree["machine"] == here:
            rows = {(row["model"], row["dataset"]): row["cost"] for row in tree["rows"]}
            return {
                key: cost
                for key, cost in rows.items()
                if cost.keys() >= _COLUMNS
                and cost.get("counted") == _counted(folder, key[1])
                and (cost["ms"] is not None or cost.get("seconds", 0) >= seconds)
            }
    return {}


def _store(folder: BenchFolder, here: dict[str, str], costs: Costs) -> None:
    rows = [{"model": model, "dataset": dataset, "cost": cost} for (model, dataset), cost in costs.items()]
    with replacing(folder.path / COSTS) as temporary:
        temporary.write_text(json.dumps({"machine": here, "rows": rows}, indent=1), encoding="utf-8")
