"""Several runs of a study at once, each in a process of its own on a device of its own."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from tqdm import tqdm

from unetkit.engine.study.nodes import Node
from unetkit.engine.study.processes import OUTPUT, Process, end_all, started, tail, why_ended
from unetkit.engine.study.schedule import Schedule
from unetkit.engine.study.slots import Slot, settle

_LOOK_EVERY, _COUNT_EVERY = 0.2, 5.0
"""Seconds between two looks at the processes, and between two at the epochs they have done."""


@dataclass(frozen=True)
class _Child:
    node: Node
    slot: Slot
    process: Process


def run_at_once(schedule: Schedule, places: Sequence[Slot], words: Sequence[str], epochs: int | None) -> None:
    """Train all runs of a schedule, as many at once as there are places.

    `words` are those of the command line that each process gets besides its device, `epochs` the length of a run,
    None for one by the clock.
    Raises KeyboardInterrupt on Ctrl-C, when every process has saved its checkpoint and ended.
    """
    free, children = list(places), list[_Child]()
    bar = _Bar(schedule, epochs)
    try:
        while True:
            while free and (node := schedule.next()) is not None:
                slot = free.pop(0)
                schedule.start(node, f", on {slot.device}")
                folder = schedule.folder.of(node)
                command = ["train", f"resume={folder}", f"train.device={slot.device}", *words]
                children.append(_Child(node, slot, started(command, folder / OUTPUT, settle(slot))))
            if not children:
                return
            time.sleep(_LOOK_EVERY)
            bar.update()
            for child in [c for c in children if c.process.poll() is not None]:
                children.remove(child)
                free.append(child.slot)
                _note(schedule, child)
    finally:
        _stop(schedule, children)
        bar.close()


def _note(schedule: Schedule, child: _Child) -> None:
    """Note how a process ended; a run whose cases could not all be scored is finished, whatever its exit code."""
    if schedule.folder.finished(child.node):
        schedule.finish(child.node)
        return
    output = schedule.folder.of(child.node) / OUTPUT
    schedule.fail(child.node, why_ended(child.process.returncode, output))


def _stop(schedule: Schedule, children: Sequence[_Child]) -> None:
    """Pass Ctrl-C on, and wait until the checkpoints are saved; a second one ends the processes at once."""
    try:
        end_all(child.process for child in children)
    finally:
        for child in children:
            # it may just have come to its end
            if schedule.folder.finished(child.node):
                schedule.finish(child.node)
            else:
                schedule.pause(child.node)


class _Bar:
    """Epochs of all runs together, or runs where those end by the clock, drawn where stderr is a terminal."""

    def __init__(self, schedule: Schedule, epochs: int | None) -> None:
        self.folder, self.counted, self.looked = schedule.folder, epochs is not None, time.monotonic()
        self.epochs, unit = (1, "run") if epochs is None else (epochs, "epoch")
        shown = schedule.shown and sys.stderr.isatty()
        total, done = self.epochs * len(self.folder.nodes), self._done() if shown else 0
        self._bar = tqdm(total=total, initial=done, unit=unit, desc="study", dynamic_ncols=True) if shown else None

    def update(self) -> None:
        """Count the epochs anew from time to time."""
        if self._bar is None or time.monotonic() - self.looked < _COUNT_EVERY:
            return
        self.looked = time.monotonic()
        self._bar.update(self._done() - self._bar.n)

    def close(self) -> None:
        """Leave the bar where it is."""
        if self._bar is not None:
            self._bar.close()

    def _done(self) -> int:
        return sum(self._epoch(node) for node in self.folder.nodes)

    def _epoch(self, node: Node) -> int:
        if self.folder.finished(node):
            return self.epochs  # also if it ended early: nothing of it is left to do
        if not self.counted:
            return 0
        with suppress(OSError, ValueError, KeyError, IndexError):
            # of the last line that is whole
            return int(json.loads(tail(self.folder.of(node) / "log.jsonl")[-1])["epoch"]) - 1
        return 0
