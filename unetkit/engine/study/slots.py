"""Where the runs of a study train: how many at once, on which devices, with which share of the processor's cores."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass

import torch

from unetkit.infer.device import pick_device
from unetkit.recipe.training import TrainSection

_DIE_WITH_PARENT = 1
"""PR_SET_PDEATHSIG of Linux's prctl."""
_LEAST_SHARE = 4
"""Cores; bound to fewer, a run would stand still whenever another program is busy on them."""


@dataclass(frozen=True)
class Slot:
    """Room for one run at a time: its device, and its cores (none: all that there are)."""

    device: str
    cores: frozenset[int] = frozenset()


def slots(settings: TrainSection, runs: int) -> list[Slot]:
    """Return room for as many runs at once as `train.jobs` asks for, or the machine has GPUs; never more than runs.

    Raises RecipeError for a device that this machine lacks.
    """
    device = pick_device(settings.device)
    # "auto" and "cuda" leave the choice of the GPU to us; cuda:1 does not
    several = device.type == "cuda" and device.index is None
    devices = [f"cuda:{number}" for number in range(torch.cuda.device_count())] if several else [str(device)]
    jobs = len(devices) if settings.jobs == "auto" else settings.jobs
    jobs = max(1, min(jobs, runs))
    shares = _shares(jobs)
    return [Slot(devices[number % len(devices)], shares[number]) for number in range(jobs)]


def _shares(jobs: int) -> list[frozenset[int]]:
    """Deal out the cores: as many threads and loader processes in each run as there are cores would slow them all."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    each = len(cores) // jobs
    if each < _LEAST_SHARE:
        return [frozenset()] * jobs
    return [frozenset(cores[number * each : (number + 1) * each]) for number in range(jobs)]


def settle(slot: Slot) -> Callable[[], None]:
    """Return what a new process of this one has to do first: keep to its cores, and end when this one is killed."""
    parent = os.getpid()
    library = ctypes.CDLL(None) if sys.platform.startswith("linux") else None

    def first() -> None:
        # a shell that starts us in the background has all children ignore Ctrl-C, Ray has them never receive it
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
        if slot.cores:
            os.sched_setaffinity(0, slot.cores)
        if library is not None:
            # else it would go on unseen, and write into the folder that a resumed study works in
            library.prctl(_DIE_WITH_PARENT, signal.SIGKILL)
            if os.getppid() != parent:
                os._exit(1)

    return first
