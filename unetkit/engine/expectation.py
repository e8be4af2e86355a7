"""How long a training should take and how much memory: foreseen from its arithmetic, put right after three steps."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from unetkit.engine.estimate import StepEstimate
from unetkit.engine.precision import Precision, choose_format
from unetkit.engine.probe import CONTEXT_GB
from unetkit.errors import RecipeError
from unetkit.plan.memory import MARGIN_GB
from unetkit.plan.plan import Plan
from unetkit.recipe.schema import Recipe

MEASURED_AT = 3
"""The step after which what was foreseen is compared with what was."""
_BENCH_SECONDS = 0.3
# Batch, channels and side of the convolution that is timed: large enough that starting it costs nothing beside it.
_BENCH = {("cpu", 2): (2, 64, 64), ("cpu", 3): (2, 32, 32), ("cuda", 2): (8, 64, 256), ("cuda", 3): (2, 32, 128)}


def foreseen(plan: Plan, recipe: Recipe, device: torch.device) -> Plan:
    """Return the plan with the memory and the seconds per step that training on a device is expected to take.

    What cannot be counted without running the network stays out.
    """
    estimate = StepEstimate(recipe, device)
    with suppress(RecipeError):
        work = estimate.cost(plan).flops * recipe.train.accumulate
        seconds = work / convolution_rate(plan.dims, recipe.train.precision, device)
        # what was measured while planning is better than what is estimated now
        counted = {"memory_gb": round(estimate(plan), 3), "seconds_per_step": round(seconds, 5)}
        return replace(plan, expected={**counted, **plan.expected})
    return plan


def convolution_rate(dims: int, precision: str, device: torch.device) -> float:
    """Return the operations per second of a 3 wide convolution with its gradients, at its fastest.

    A step has slower parts too, so that what is foreseen with it is rather too short.
    """
    batch, channels, side = _BENCH["cuda" if device.type == "cuda" else "cpu", dims]
    shape = (batch, channels, *(side,) * dims)
    layer = (nn.Conv2d if dims == 2 else nn.Conv3d)(channels, channels, 3, padding=1, device=device)
    image = torch.zeros(shape, device=device, requires_grad=True)
    compute = Precision(choose_format(precision, device), device)
    # forward, and the gradients of input and weights: each as many multiplications and additions
    work = 3 * 2 * channels * layer.weight[0].numel() * batch * side**dims
    fastest, end = float("inf"), time.monotonic() + _BENCH_SECONDS
    while fastest == float("inf") or time.monotonic() < end:
        start = time.monotonic()
        with compute.autocast():
            value = F.relu(layer(image)).sum()
        value.backward()
        _wait(device)
        fastest = min(fastest, time.monotonic() - start)
    return work / fastest


def in_words(expected: Mapping[str, float], steps_per_epoch: int, epochs: int | None) -> str:
    """Return memory and times in one line: "6.1 GB, 0.25 s a step, 1 min an epoch, 1.7 h in all".

    Without epochs the time in all is given beforehand, and left out.
    """
    parts = [f"{expected['memory_gb']:.3g} GB"] if "memory_gb" in expected else []
    if "seconds_per_step" in expected:
        step = expected["seconds_per_step"]
        whole = step * steps_per_epoch
        parts += [f"{step:.2g} s a step", f"{_time(whole)} an epoch"]
        parts += [f"{_time(whole * epochs)} in all"] if epochs is not None else []
    return ", ".join(parts)


def _time(seconds: float) -> str:
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.2g} s"


@dataclass(frozen=True)
class _Mark:
    """Where a measurement starts: step, seconds, and seconds that were spent waiting for the loader by then."""

    step: int
    time: float
    waited: float


class Comparison:
    """Measures the first steps of a run and says after MEASURED_AT of them what they took, once in its life."""

    def __init__(self, expected: Mapping[str, float], device: torch.device, weights: nn.Module, step: int) -> None:
        self.expected, self.device = dict(expected), device
        self._mark = _Mark(step, time.monotonic(), 0.0)
        self._first = step + 1
        self._bytes = sum(t.nbytes for t in (*weights.parameters(), *weights.buffers()))
        self._resident = _resident()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def after(self, step: int, waited: float) -> dict[str, Any] | None:
        """Return {"expected", "measured"} once, after step MEASURED_AT, which waits for the device; else None.

        `waited` are the seconds spent on the loader so far.
        """
        if step == self._first < MEASURED_AT:
            # libraries make up their minds in the first step
            self._mark = _Mark(step, time.monotonic(), waited)
        if step != MEASURED_AT or self._mark.step >= step:
            return None
        _wait(self.device)
        spent = time.monotonic() - self._mark.time - (waited - self._mark.waited)
        measured = {"seconds_per_step": round(spent / (step - self._mark.step), 5)}
        memory = self._memory()
        if memory is not None:
            measured["memory_gb"] = round(memory, 3)
        return {"expected": self.expected, "measured": measured}

    def _memory(self) -> float | None:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_reserved(self.device) / 1e9 + CONTEXT_GB
        now = _resident()
        if now is None or self._resident is None:
            return None
        # the cases of the data set are there too, and are not the step's
        return (now - self._resident + self._bytes) / 1e9 + MARGIN_GB["cpu"]


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _resident() -> int | None:
    """Return the bytes of this process that are in memory, where the system tells."""
    if not sys.platform.startswith("linux"):
        return None
    with suppress(OSError, ValueError, IndexError), open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return None
