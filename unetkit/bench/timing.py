"""How fast a network predicts on this machine: time of one pass, images a second, memory and energy."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from unetkit.engine.precision import HALF, Format

_LEAST, _WARM_UP = 5, 2
PASSES = _LEAST + _WARM_UP
"""Passes that timing a network takes at least."""
_GAIN = 1.05
"""Images a second that a batch twice as large must bring to be worth it."""


@dataclass(frozen=True)
class Timing:
    """Passes of one batch in evaluation: seconds (median, 10th and 90th percentile), how many were timed, and more.

    `peak_bytes` of the GPU's memory and `joules` of one image are None where nothing measures them.
    """

    batch: int
    median: float
    p10: float
    p90: float
    passes: int
    peak_bytes: int | None = None
    joules: float | None = None

    @property
    def images_per_second(self) -> float:
        """Images a second."""
        return self.batch / self.median


def time_network(network: nn.Module, image: Tensor, form: Format, seconds: float = 1.0) -> Timing:
    """Time passes of a network, which lies where the image [B, C, *S] does, for so long, five passes at least.

    The first passes, in which libraries choose how to compute, are not counted.
    """
    device = image.device
    network.eval()
    context = nullcontext() if form == "fp32" else torch.autocast(device.type, HALF[form])
    taken: list[float] = []
    with torch.inference_mode(), context:
        for _ in range(_WARM_UP):
            network(image)
        _wait(device)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        energy, started = used_joules(device), time.perf_counter()
        while len(taken) < _LEAST or time.perf_counter() - started < seconds:
            begun = time.perf_counter()
            network(image)
            _wait(device)
            taken.append(time.perf_counter() - begun)
        spent = None if energy is None else used_joules(device)
    low, median, high = (float(q) for q in np.quantile(taken, [0.1, 0.5, 0.9]))
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    joules = None if energy is None or spent is None else (spent - energy) / len(taken) / len(image)
    return Timing(len(image), median, low, high, len(taken), peak, joules)


def best_batch(measure: Callable[[int], Timing], most: int = 256) -> Timing:
    """Return the timing of the batch that brings most images a second: doubled until it no longer pays or fits."""
    best = measure(1)
    while best.batch * 2 <= most:
        found: Timing | None = None
        with suppress(torch.OutOfMemoryError):
            found = measure(best.batch * 2)
        if found is None:
            torch.cuda.empty_cache()
            break
        if found.images_per_second < _GAIN * best.images_per_second:
            break
        best = found
    return best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def used_joules(device: torch.device) -> float | None:
    """Return what the GPU has used since its driver started; None without NVML, or on a GPU that does not count."""
    if device.type != "cuda":
        return None
    try:
        import pynvml  # type: ignore[import-not-found,import-untyped,unused-ignore]
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
        return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1e3
    except pynvml.NVMLError:
        return None
