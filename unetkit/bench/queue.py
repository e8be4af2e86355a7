"""The jobs of a benchmark, several at once in processes of their own, so that one that dies takes no other along."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from unetkit.bench.claims import Claim, claim
from unetkit.bench.folder import BROKEN, DONE, RUNNING, BenchFolder
from unetkit.engine.study.at_once import OUTPUT, last_words
from unetkit.engine.study.slots import Slot, settle, slots
from unetkit.recipe.bench import BenchJob
from unetkit.recipe.training import TrainSection

_LOOK_EVERY, _RENEW_EVERY = 0.2, 30.0


@dataclass(frozen=True)
class _Child:
    job: BenchJob
    slot: Slot
    claim: Claim
    process: subprocess.Popen[bytes]


def run_bench(folder: BenchFolder, *, device: str = "auto", retry: bool = False, shown: bool = True) -> dict[str, int]:
    """Do all jobs that are neither done nor in other hands, and return how many stand where.

    `retry` does failed ones again. Raises KeyboardInterrupt on Ctrl-C, when every job has saved its checkpoint, and
    RecipeError for a device that this machine lacks.
    """
    queue = _Queue(folder, device, retry, shown)
    try:
        queue.run()
    finally:
        queue.stop()
    states = [folder.state(job) for job in folder.jobs]
    return {state: states.count(state) for state in dict.fromkeys(states)}


class _Queue:
    def __init__(self, folder: BenchFolder, device: str, retry: bool, shown: bool) -> None:
        self.folder, self.retry, self.shown = folder, retry, shown
        self.free = slots(TrainSection(device=device, jobs=folder.bench.jobs), len(folder.jobs))
        self.children: list[_Child] = []
        self.pending = self._claimed()
        done = sum(folder.state(job) == DONE for job in folder.jobs)
        self.bar = tqdm(
            total=len(folder.jobs),
            initial=done,
            unit="job",
            desc=folder.path.name,
            dynamic_ncols=True,
            disable=not (shown and sys.stderr.isatty()),
        )

    def run(self) -> None:
        renewed = time.monotonic()
        while True:
            while self.free and (found := next(self.pending, None)) is not None:
                self._start(*found)
            if not self.children:
                return
            time.sleep(_LOOK_EVERY)
            if time.monotonic() - renewed > _RENEW_EVERY:
                renewed = time.monotonic()
                for child in self.children:
                    child.claim.renew()
            for child in [c for c in self.children if c.process.poll() is not None]:
                self.children.remove(child)
                self._note(child)
                self.free.append(child.slot)

    def stop(self) -> None:
        """Pass Ctrl-C on, wait until the checkpoints are saved, and leave the jobs to whoever goes on."""
        try:
            for child in self.children:
                child.process.send_signal(signal.SIGINT)
            for child in self.children:
                child.process.wait()
        finally:
            for child in self.children:
                if child.process.poll() is None:
                    child.process.kill()
                    child.process.wait()
                child.claim.release()
            self.bar.close()

    def _claimed(self) -> Iterator[tuple[BenchJob, Claim]]:
        """Yield jobs that are to be done and that no other process took meanwhile."""
        skipped = {DONE, RUNNING} if self.retry else {DONE, RUNNING, BROKEN}
        for job in self.folder.jobs:
            if self.folder.state(job) not in skipped and (own := claim(self.folder.of(job))) is not None:
                if self.folder.state(job) == DONE:
                    own.release()  # done by another process between the two looks
                else:
                    yield job, own

    def _start(self, job: BenchJob, own: Claim) -> None:
        slot, output = self.free.pop(0), self.folder.of(job) / OUTPUT
        words = ["bench", f"run={self.folder.path}", f"job={job.name}", f"device={slot.device}", "--json"]
        with output.open("ab") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "unetkit", *words],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                # Ctrl-C in a terminal reaches this process alone, which passes it on once
                start_new_session=True,
                preexec_fn=settle(slot),
            )
        self.children.append(_Child(job, slot, own, process))

    def _note(self, child: _Child) -> None:
        folder, job = self.folder, child.job
        if folder.state(job) != DONE:
            folder.write_failure(job, _why(child.process.returncode, folder.of(job) / OUTPUT))
        child.claim.release()
        self.bar.update(1)
        if self.shown:
            state = folder.state(job)
            tqdm.write(f"{job.name}: {state}{f', {folder.reason(job)}' if state == BROKEN else ''}", file=sys.stderr)


def _why(code: int, output: Path) -> str:
    said = last_words(output) if code == 2 else ""
    ended = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
    return said or f"its process {ended}; see {output}"
