"""Which networks stay within limits, counted for the images that they are to be used on."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from unetkit.bench.cost import Setting, Timer, cost_row
from unetkit.bench.costs import without_start
from unetkit.errors import counted
from unetkit.recipe.limits import Limits
from unetkit.registry import catalog

_LARGEST = {2: 256, 3: 96}
_FAR = 1.25
"""Parameters elsewhere by which a network is not worth building here; other channels and classes change few of them."""
_UNITS = {"params_m": "million parameters", "gflops": "GFLOPs", "step_mb": "MB of memory", "ms": "ms"}

Cost = dict[str, Any]
"""The values of a `CostRow`."""


def size_for(sides: Sequence[int], asked: Sequence[int] | None) -> tuple[int, ...]:
    """Return the size of image to count at: what was asked for, or a case's sides, cut to 256 pixels or 96 voxels."""
    if asked is not None:
        return tuple(asked)
    return tuple(min(side, _LARGEST[len(sides)]) for side in sides)


def within(
    models: Mapping[str, Mapping[str, Any]],
    elsewhere: Mapping[str, float],
    limits: Limits,
    setting: Setting,
    seconds: float = 5.0,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[dict[str, Cost], dict[str, str]]:
    """Return the cost of each model (label -> section `model`) that stays within limits, and why others do not.

    `elsewhere` are the parameters, in millions, that were counted on other data; models far beyond the limit are not
    built. Times are taken only where they are limited; a model may take so many `seconds` for that.
    """
    timer = None if limits.ms is None else Timer(setting, seconds, False)
    costs, refused = dict[str, Cost](), dict[str, str]()
    for number, (label, tree) in enumerate(models.items(), start=1):
        params = elsewhere.get(label)
        if limits.params_m is not None and params is not None and params > _FAR * limits.params_m:
            refused[label] = _beyond("params_m", params, limits.params_m)
        else:
            row = _counted(tree, setting, timer)
            if (reason := row.get("unknown") or refusal(row, limits)) is None:
                costs[label] = row
            else:
                refused[label] = reason
        if progress is not None:
            progress(number, len(models))
    return costs, refused


def refusal(cost: Mapping[str, Any], limits: Limits) -> str | None:
    """Return why a model is not within limits; None if it is. What could not be counted is not within its limit."""
    most = {"params_m": limits.params_m, "gflops": limits.gflops, "ms": limits.ms}
    most["step_mb"] = None if limits.memory_gb is None else 1000 * limits.memory_gb
    for key, limit in most.items():
        if limit is None:
            continue
        if (value := cost.get(key)) is None:
            return f"{_UNITS[key]} not known" + (f": {cost['note']}" if cost.get("note") else "")
        if value > limit:
            return _beyond(key, value, limit)
    return None


def in_words(limits: Limits) -> str:
    """Return the limits in one line."""
    said = [
        (limits.params_m, "million parameters"),
        (limits.gflops, "GFLOPs"),
        (limits.memory_gb, "GB of memory"),
        (limits.ms, "ms"),
    ]
    return ", ".join(f"at most {value:g} {unit}" for value, unit in said if value is not None) or "none"


def setting_in_words(setting: Setting) -> str:
    """Return what costs were counted at."""
    size = " x ".join(map(str, setting.size))
    return f"{size}, {counted(setting.channels, 'channel')}, {counted(setting.classes, 'output')}"


def _counted(tree: Mapping[str, Any], setting: Setting, timer: Timer | None) -> Cost:
    name = str(tree["name"])
    if name not in catalog():
        return {"unknown": f"this unetkit has no model {name}; register it as where it was tested"}
    options = without_start({key: value for key, value in tree.items() if key != "name"})
    row = cost_row(name, options, setting, timer).to_json()
    gc.collect()
    return row


def _beyond(key: str, value: float, limit: float) -> str:
    return f"{value:.4g} {_UNITS[key]}, the limit is {limit:.4g}"
