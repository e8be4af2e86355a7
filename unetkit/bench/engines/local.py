"""Jobs of a benchmark as processes of this machine, so that one that dies takes no other along."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from unetkit.bench.engines.base import Ended, Engine, Task
from unetkit.engine.study.processes import Process, end_all
from unetkit.engine.study.slots import Slot, settle, slots
from unetkit.recipe.training import TrainSection


@dataclass(frozen=True)
class _Child:
    task: Task
    slot: Slot
    process: Process


class LocalEngine(Engine):
    """A process for each job, on a device and cores of its own."""

    def __init__(self, device: str, jobs: int) -> None:
        self.free = slots(TrainSection(device=device, jobs=jobs), jobs)
        self.children: list[_Child] = []

    def room(self) -> int:
        """Return how many slots are free."""
        return len(self.free)

    def start(self, tasks: Sequence[Task]) -> None:
        """Start a process for each, which ends when this one is killed."""
        for task in tasks:
            slot = self.free.pop(0)
            self.children.append(_Child(task, slot, task.start(settle(slot), slot.device)))

    def ended(self) -> list[tuple[Task, Ended]]:
        """Return the processes that have ended, and free their slots."""
        over = [child for child in self.children if child.process.poll() is not None]
        for child in over:
            self.children.remove(child)
            self.free.append(child.slot)
        return [(child.task, child.task.ended(child.process.returncode)) for child in over]

    def stop(self) -> None:
        """Pass Ctrl-C on, and wait until the checkpoints are saved; a second one ends the processes at once."""
        end_all(child.process for child in self.children)
