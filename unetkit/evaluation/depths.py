"""What the columns of a network of nested ones (UNet++) are worth: each depth is scored and timed."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn

from unetkit.errors import RecipeError
from unetkit.evaluation.cases import evaluate_run
from unetkit.evaluation.result import Evaluation
from unetkit.infer.network import depths_of
from unetkit.infer.predictor import Predictor
from unetkit.infer.study import holds_study
from unetkit.progress import Progress

_WARM, _TIMED = 2, 7


@dataclass(frozen=True, eq=False)
class Depth:
    """A network cut to its first `depth` columns: `parameters`, `ms` of one window (median), and its scores."""

    depth: int
    parameters: int
    ms: float
    evaluation: Evaluation


def evaluate_depths(
    run: Path,
    split: str,
    settings: Mapping[str, Mapping[str, Any]],
    *,
    device: str = "auto",
    progress: Progress | None = None,
) -> list[Depth]:
    """Score a run on a split once for each depth, and time a window at each, the whole network last.

    `settings` are those of `evaluate_run`. Raises RecipeError for a study and for a network without depths; else as
    `evaluate_run`.
    """
    if holds_study(run):
        raise RecipeError(f"infer.depth=all compares the depths of one run, and {run} is a study; give one of its runs")
    infer = {key: value for key, value in settings.get("infer", {}).items() if key != "depth"}
    found = []
    for depth in depths_of(Predictor.from_checkpoint(run, device, **infer).network):
        cut = {**settings, "infer": {**infer, "depth": depth}}
        evaluation = evaluate_run(run, split, cut, device=device, progress=progress)
        predictor = Predictor.from_checkpoint(run, device, **cut["infer"])
        count = sum(p.numel() for p in predictor.network.parameters())
        found.append(Depth(depth, count, _window_ms(predictor), evaluation))
    return found


@torch.no_grad()
def _window_ms(predictor: Predictor) -> float:
    """Return the milliseconds of one window, median of several after some that do not count."""
    plan, device = predictor.plan, predictor.compute.device
    window = torch.zeros(1, plan.task.in_channels, *plan.patch_size, device=device)
    seconds = [_seconds(predictor.network, window) for _ in range(_WARM + _TIMED)]
    return 1000 * median(seconds[_WARM:])


def _seconds(network: nn.Module, window: torch.Tensor) -> float:
    begin = time.perf_counter()
    network(window)
    if window.device.type == "cuda":  # a GPU answers before it has finished
        torch.cuda.synchronize(window.device)
    return time.perf_counter() - begin


def depth_rows(depths: Sequence[Depth]) -> list[dict[str, Any]]:
    """Return a row for each depth; `speed_up` and `dice_lost` are against the whole network, the last."""
    whole = depths[-1]
    return [
        {
            "depth": d.depth,
            "parameters": d.parameters,
            "ms_per_window": round(d.ms, 3),
            "speed_up": round(whole.ms / d.ms, 2),
            "dice": round(d.evaluation.dice, 4),
            "dice_lost": round(whole.evaluation.dice - d.evaluation.dice, 4),
        }
        for d in depths
    ]
