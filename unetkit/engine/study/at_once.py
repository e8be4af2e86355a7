"""Several runs of a study at once, each in a process of its own on a device of its own."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from unetkit.engine.study.nodes import Node
from unetkit.engine.study.schedule import Schedule
from unetkit.engine.study.slots import Slot, settle

OUTPUT = "output.txt"
"""In a run's folder: what its process printed."""
_LOOK_EVERY, _COUNT_EVERY = 0.2, 5.0
"""Seconds between two looks at the processes, and between two at the epochs they have done."""
_TAIL = 65536


@dataclass(frozen=True)
class _Child:
    node: Node
    slot: Slot
    process: subprocess.Popen[bytes]


def run_at_once(schedule: Schedule, places: Sequence[Slot], words: Sequence[str], epochs: int) -> None:
    """Train all runs of a schedule, as many at once as there are places.

    `words` are those of the command line that each process gets besides its device, `epochs` the length of a run.
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
                command = ["train", f"resume={folder}", f"train.device={slot.device}", *words, "--json"]
                children.append(_Child(node, slot, _started(command, folder / OUTPUT, slot)))
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


def _started(command: Sequence[str], output: Path, slot: Slot) -> subprocess.Popen[bytes]:
    with output.open("ab") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "unetkit", *command],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            # Ctrl-C in a terminal reaches this process alone, which passes it on once
            start_new_session=True,
            preexec_fn=settle(slot),
        )


def _note(schedule: Schedule, child: _Child) -> None:
    """Note how a process ended; a run whose cases could not all be scored is finished, whatever its exit code."""
    if schedule.folder.finished(child.node):
        schedule.finish(child.node)
        return
    code, file = child.process.returncode, schedule.folder.of(child.node) / OUTPUT
    reason = last_words(file) if code == 2 else ""
    ended = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
    schedule.fail(child.node, reason or f"its process {ended}; see {file}")


def last_words(file: Path) -> str:
    """Return the error of the JSON document that a refused command ends with."""
    with suppress(OSError, ValueError, KeyError, IndexError, TypeError):
        return str(json.loads(_tail(file)[-1])["error"])
    return ""


def _tail(file: Path) -> list[str]:
    """Return the last lines of a file; the first of them may be cut."""
    with file.open("rb") as opened:
        opened.seek(max(0, opened.seek(0, 2) - _TAIL))
        return opened.read().decode(errors="replace").splitlines()


def _stop(schedule: Schedule, children: Sequence[_Child]) -> None:
    """Pass Ctrl-C on, and wait until the checkpoints are saved; a second one ends the processes at once."""
    try:
        for child in children:
            child.process.send_signal(signal.SIGINT)
        for child in children:
            child.process.wait()
    finally:
        for child in children:
            if child.process.poll() is None:
                child.process.kill()
                child.process.wait()
            # it may just have come to its end
            if schedule.folder.finished(child.node):
                schedule.finish(child.node)
            else:
                schedule.pause(child.node)


class _Bar:
    """Epochs of all runs together, drawn where stderr is a terminal."""

    def __init__(self, schedule: Schedule, epochs: int) -> None:
        self.folder, self.epochs, self.looked = schedule.folder, epochs, time.monotonic()
        shown = schedule.shown and sys.stderr.isatty()
        total, done = epochs * len(self.folder.nodes), self._done() if shown else 0
        self._bar = tqdm(total=total, initial=done, unit="epoch", desc="study", dynamic_ncols=True) if shown else None

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
        with suppress(OSError, ValueError, KeyError, IndexError):
            # of the last line that is whole
            return int(json.loads(_tail(self.folder.of(node) / "log.jsonl")[-1])["epoch"]) - 1
        return 0
