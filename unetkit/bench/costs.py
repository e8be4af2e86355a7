"""What the networks of a benchmark cost, each at the patch and classes of the data set it was trained on."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from unetkit.bench.cost import Setting, Timer, cost_row
from unetkit.bench.folder import DONE, BenchFolder
from unetkit.data.formats.files import replacing
from unetkit.engine.result import machine
from unetkit.infer.device import pick_device

COSTS = "costs.json"
_FREE = ("pretrained", "weights")

Costs = dict[tuple[str, str], dict[str, Any]]
"""(model, data set) -> the values of a `CostRow`."""


def bench_costs(
    folder: BenchFolder, seconds: float, device: str = "auto", progress: Callable[[int, int], None] | None = None
) -> Costs:
    """Return the cost of each model on each data set that has a result, all timed on this machine.

    What was measured before on the same machine is read from costs.json. Raises DataError if that cannot be written.
    """
    here = machine(pick_device(device))
    known = _stored(folder, here)
    asked = {(job.model, job.dataset): job for job in folder.jobs if folder.state(job) == DONE}
    timers: dict[str, Timer] = {}
    for number, (key, job) in enumerate(asked.items(), start=1):
        if key not in known:
            result = folder.result(job)
            shape = tuple(result["patch_size"])
            setting = Setting(shape, result["in_channels"], result["num_classes"], pick_device(device))
            # One reference for each size, measured right before the networks that are compared with it.
            timer = timers.setdefault(str((shape, setting.channels, setting.classes)), Timer(setting, seconds, False))
            options = {k: v for k, v in job.recipe.model.options.items() if k not in _FREE}
            known[key] = cost_row(job.recipe.model.name, options, setting, timer).to_json()
            _store(folder, here, known)
        if progress is not None:
            progress(number, len(asked))
    return {key: known[key] for key in asked}


def _stored(folder: BenchFolder, here: dict[str, str]) -> Costs:
    with suppress(OSError, ValueError, KeyError, TypeError):
        tree = json.loads((folder.path / COSTS).read_text(encoding="utf-8"))
        if tree["machine"] == here:
            return {(row["model"], row["dataset"]): row["cost"] for row in tree["rows"]}
    return {}


def _store(folder: BenchFolder, here: dict[str, str], costs: Costs) -> None:
    rows = [{"model": model, "dataset": dataset, "cost": cost} for (model, dataset), cost in costs.items()]
    with replacing(folder.path / COSTS) as temporary:
        temporary.write_text(json.dumps({"machine": here, "rows": rows}, indent=1), encoding="utf-8")
