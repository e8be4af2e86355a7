"""What the queue of a benchmark asks of an engine, and the process in which every engine has a job done."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from unetkit.bench.claims import Maker
from unetkit.engine.interrupt import uninterrupted
from unetkit.engine.study.processes import OUTPUT, STOPPED, Process, end_all, started, why_ended
from unetkit.engine.study.slots import Slot, settle

LOOK_EVERY = 0.2


@dataclass(frozen=True)
class Task:
    """An attempt at a job: the benchmark's folder, the job's name and place in it, and the ticket of its claim.

    Relative paths of the recipe are meant from `home`, the folder in which the benchmark was started.
    """

    bench: Path
    place: Path
    job: str
    ticket: str
    device: str
    home: Path

    def start(self, first: Callable[[], None], device: str | None = None) -> Process:
        """Start the process that does the job; `first` is what it does before all else."""
        words = ["bench", f"run={self.bench}", f"job={self.job}", f"ticket={self.ticket}"]
        return started([*words, f"device={device or self.device}"], self.place / OUTPUT, first, self.home)

    def ended(self, code: int) -> Ended:
        """Return what an exit code of its process means."""
        return Ended("" if code == 0 else why_ended(code, self.place / OUTPUT))


@dataclass(frozen=True)
class Ended:
    """How an attempt ended: why it failed, if it did, and whether only its machine was lost, so that it may go on."""

    why: str = ""
    lost: bool = False


class Engine(ABC):
    """Starts attempts, and tells which have ended."""

    look_every = LOOK_EVERY
    """Seconds between two looks at the attempts."""

    @abstractmethod
    def room(self) -> int:
        """Return how many attempts may be started now."""

    @abstractmethod
    def start(self, tasks: Sequence[Task]) -> None:
        """Start attempts. Raises RecipeError if the cluster refuses them."""

    @abstractmethod
    def ended(self) -> list[tuple[Task, Ended]]:
        """Return the attempts that have ended since the last call."""

    @abstractmethod
    def stop(self) -> None:
        """End all attempts, each after it has saved its checkpoint, and let go of the cluster."""

    def adopt(self, task: Task) -> Task | None:
        """Return the attempt at a task's job that an earlier process left in the engine's hands, to be looked after."""
        return None

    def gone(self, maker: Maker) -> bool:
        """Tell whether the engine knows that a process on another machine has gone."""
        return False


def carry_out(task: Task) -> Ended:
    """Do a job in a process of its own, on the machine that an engine chose, and tell how it ended.

    An exception from outside, by which engines stop what they started, is passed on when the checkpoint is saved.
    """
    process = task.start(settle(Slot(task.device)))
    try:
        # not wait(): only between two calls of the system does the exception of another thread arrive
        while process.poll() is None:
            time.sleep(LOOK_EVERY)
    except BaseException:
        with uninterrupted():
            end_all([process])
        raise
    if process.returncode == STOPPED:
        return Ended("was stopped from outside", lost=True)
    return task.ended(process.returncode)
