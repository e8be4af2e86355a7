"""The jobs of a benchmark, each claimed, started by an engine, and noted when it has ended, whichever way."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter, deque
from pathlib import Path

from tqdm import tqdm

from unetkit.bench.claims import CLAIM, Claim, claim, held, maker_of
from unetkit.bench.engines import Ended, Engine, Task, open_engine
from unetkit.bench.folder import BROKEN, DONE, BenchFolder
from unetkit.recipe.bench import BenchJob
from unetkit.recipe.cluster import EngineSection

_RENEW_EVERY, _DYING, _UNSEEN = 30.0, 10.0, 60.0
"""Seconds between two renewals of claims, that a lost process may take to end, and until other machines see a file."""


def run_bench(
    folder: BenchFolder,
    *,
    device: str = "auto",
    retry: bool = False,
    engine: EngineSection | None = None,
    shown: bool = True,
) -> dict[str, int]:
    """Do all jobs that are neither done nor in other hands, and return how many stand where.

    `retry` does failed ones again; `engine` starts them instead of the recipe's own. Raises KeyboardInterrupt on
    Ctrl-C, when every job has saved its checkpoint, and RecipeError for a device or engine that cannot be had.
    """
    settings, jobs = engine or folder.bench.engine, min(folder.bench.jobs, len(folder.jobs))
    queue = _Queue(folder, open_engine(settings, folder.path.absolute(), device, jobs), device, retry, shown)
    try:
        queue.run(settings.retries)
    finally:
        queue.stop()
    states = [folder.state(job) for job in folder.jobs]
    return {state: states.count(state) for state in dict.fromkeys(states)}


class _Queue:
    def __init__(self, folder: BenchFolder, engine: Engine, device: str, retry: bool, shown: bool) -> None:
        self.folder, self.engine, self.device, self.retry, self.shown = folder, engine, device, retry, shown
        skipped = {DONE} if retry else {DONE, BROKEN}
        states = [folder.state(job) for job in folder.jobs]
        self.waiting = deque(job for job, state in zip(folder.jobs, states, strict=True) if state not in skipped)
        self.begun: dict[str, tuple[BenchJob, Claim]] = {}
        self.losses: Counter[str] = Counter()
        self.bar = tqdm(
            total=len(folder.jobs),
            initial=states.count(DONE),
            unit="job",
            desc=folder.path.name,
            dynamic_ncols=True,
            disable=not (shown and sys.stderr.isatty()),
        )

    def run(self, retries: int) -> None:
        """Go on until no job is left that this process may do."""
        renewed = time.monotonic()
        while True:
            self._start()
            if not self.begun and not self.waiting:
                return
            time.sleep(self.engine.look_every)
            if time.monotonic() - renewed > _RENEW_EVERY:
                renewed = time.monotonic()
                for _, own in self.begun.values():
                    own.renew()
            for task, ended in self.engine.ended():
                self._note(task, ended, retries)

    def stop(self) -> None:
        """Stop the jobs, wait until their checkpoints are saved, and leave them to whoever goes on."""
        try:
            self.engine.stop()
        finally:
            for _, own in self.begun.values():
                own.release()
            self.bar.close()

    def _start(self) -> None:
        tasks: list[Task] = []
        while self.waiting and len(tasks) < self.engine.room():
            job = self.waiting.popleft()
            if (task := self._claimed(job)) is not None:
                tasks.append(task)
        if tasks:
            self.engine.start(tasks)

    def _claimed(self, job: BenchJob) -> Task | None:
        """Claim a job that is to be done and that no other process has taken meanwhile."""
        place = self.folder.of(job)
        if (old := self.engine.adopt(self._task(job, ""))) is not None:
            self.begun[old.ticket] = (job, Claim(place / CLAIM, old.ticket))
            return None
        maker = maker_of(place)
        if maker is not None and not maker.here and held(place) and self.engine.gone(maker):
            Claim(place / CLAIM, maker.ticket).release()
        if (own := claim(place)) is None:
            return None
        if self.folder.state(job) == DONE or (self.folder.reason(job) and not self.retry):
            own.release()  # another process came to its end between the two looks
            return None
        self.folder.forget_failure(job)
        self.begun[own.ticket] = (job, own)
        return self._task(job, own.ticket)

    def _task(self, job: BenchJob, ticket: str) -> Task:
        bench, place = self.folder.path.absolute(), self.folder.of(job).absolute()
        return Task(bench, place, job.name, ticket, self.device, Path.cwd())

    def _note(self, task: Task, ended: Ended, retries: int) -> None:
        job, own = self.begun.pop(task.ticket)
        if not self._done(job, ended) and not self._elsewhere(task):
            if ended.lost:
                self.losses[job.name] += 1
                if self.losses[job.name] <= retries:
                    self._again(job, own, ended)
                    return
            # the job's own process has said why, if it could
            if not self.folder.reason(job):
                times = f" ({self.losses[job.name]} times)" if self.losses[job.name] > 1 else ""
                self.folder.write_failure(job, f"{ended.why or 'it ended without a result'}{times}")
        own.release()
        self.bar.update(1)
        state = self.folder.state(job)
        self._say(f"{job.name}: {state}{f', {self.folder.reason(job)}' if state == BROKEN else ''}")

    def _done(self, job: BenchJob, ended: Ended) -> bool:
        """Tell whether a job has a result; one of another machine may take a while to be seen here."""
        until = time.monotonic() + (0 if ended.why else _UNSEEN)
        while not (done := self.folder.state(job) == DONE) and time.monotonic() < until:
            time.sleep(self.engine.look_every)
        return done

    def _elsewhere(self, task: Task) -> bool:
        """Tell whether a job was taken over by others."""
        maker = maker_of(task.place)
        return maker is not None and maker.ticket != task.ticket and held(task.place)

    def _again(self, job: BenchJob, own: Claim, ended: Ended) -> None:
        """Have a job go on from its checkpoint that was lost with its machine."""
        place, until = own.path.parent, time.monotonic() + _DYING
        # on this machine its process may be about to end; two must not write one run
        while time.monotonic() < until:
            maker = maker_of(place)
            if maker is None or maker.pid == os.getpid() or not (maker.here and held(place)):
                break
            time.sleep(self.engine.look_every)
        own.release()
        self.waiting.appendleft(job)
        self._say(f"{job.name}: {ended.why}; it goes on from its checkpoint")

    def _say(self, line: str) -> None:
        if self.shown:
            tqdm.write(line, file=sys.stderr)
