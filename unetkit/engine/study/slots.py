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
    """Room for one run at a time: its device, its cores (none: all that there are), its threads (0: one a core)."""

    device: str
    cores: frozenset[int] = frozenset()
    threads: int = 0


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
    return [
        Slot(devices[number % len(devices)], *share)
        for number, share in enumerate(_shares(jobs, torch.get_num_threads()))
    ]


def _shares(jobs: int, threads: int) -> list[tuple[frozenset[int], int]]:
    """Deal out the cores, and threads for them out of `threads`.

    With as many loader processes in each run as there are cores all would be slow; with as many threads, which wait for
    each other without giving way, tens of times as slow.
    """
    if jobs == 1:
        return [(frozenset(), 0)]
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    each = (len(cores) or os.cpu_count() or 1) // jobs
    threads = max(1, min(each, threads))
    if not cores or each < _LEAST_SHARE:
        return [(frozenset(), threads)] * jobs
    return [(frozenset(cores[number * each : (number + 1) * each]), threads) for number in range(jobs)]


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
        if slot.threads:
            os.putenv("OMP_NUM_THREADS", str(slot.threads))  # the only way to tell OpenMP before it starts
        if library is not None:
            # else it would go on unseen, and write into the folder that a resumed study works in
            library.prctl(_DIE_WITH_PARENT, signal.SIGKILL)
            if os.getppid() != parent:
                os._exit(1)

    return first
