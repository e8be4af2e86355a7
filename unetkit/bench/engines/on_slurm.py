"""Jobs of a benchmark through Slurm, by submitit (https://github.com/facebookincubator/submitit), as arrays of jobs.

What Slurm has taken stays in its hands when the process that handed it over is killed: the next one looks after it.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

from unetkit.bench.engines.base import LOOK_EVERY, Ended, Engine, Task
from unetkit.data.formats.files import first_line, replacing
from unetkit.engine.study.processes import STOPPED, Process, tail
from unetkit.engine.study.slots import Slot, settle
from unetkit.errors import RecipeError
from unetkit.recipe.cluster import EngineSection

SUBMITTED = "slurm.json"
"""In a job's folder: the attempt's ticket and its number in Slurm."""
_ARRAY = 1000
"""Jobs in one array; Slurm's own bound is 1001 unless its administrator set another."""
_ASK_EVERY, _LEAVING, _FATE = 20.0, 90.0, 10.0
"""Seconds between two questions to Slurm, until cancelled jobs have gone, and until a stopped one is requeued."""
_LOST = ("NODE_FAIL", "BOOT_FAIL", "PREEMPTED", "REVOKED", "TIMEOUT", "DEADLINE")


class SlurmEngine(Engine):
    """An array of Slurm jobs, one for each job of the benchmark."""

    look_every = 2.0

    def __init__(self, settings: EngineSection, folder: Path) -> None:
        self.settings, self.logs = settings, folder / "slurm"
        self.submitit = _package()
        try:
            self.executor = self.submitit.AutoExecutor(
                self.logs, cluster="slurm", slurm_max_num_timeout=settings.retries
            )
        except RuntimeError as error:
            raise RecipeError(
                "engine=slurm: this machine has no Slurm (no `srun` on its PATH); start the benchmark on a login node"
            ) from error
        self.executor.update_parameters(**_parameters(settings, folder.name))
        self.jobs: dict[Task, Any] = {}
        self.over: set[str] = set()
        self.asked, self.queued = 0.0, _queued()

    def room(self) -> int:
        """Return an array's length; Slurm itself keeps `at_once`, which holds for one array."""
        return 0 if self.settings.at_once is not None and self.jobs else _ARRAY

    def start(self, tasks: Sequence[Task]) -> None:
        """Submit tasks as an array. Raises RecipeError if sbatch refuses it."""
        try:
            with self.executor.batch():
                jobs = [self.executor.submit(Attempt(task)) for task in tasks]
        except (self.submitit.core.utils.FailedJobError, subprocess.CalledProcessError, OSError) as error:
            raise RecipeError(
                f"engine=slurm: sbatch refused the jobs: {first_line(error)}; see `sbatch --help`"
            ) from error
        for task, job in zip(tasks, jobs, strict=True):
            with replacing(task.place / SUBMITTED) as temporary:
                temporary.write_text(json.dumps({"ticket": task.ticket, "id": job.job_id}), encoding="utf-8")
            self.jobs[task] = job
        self.asked = time.monotonic()

    def ended(self) -> list[tuple[Task, Ended]]:
        """Return the jobs that left their result behind, or that Slurm no longer knows."""
        over = [task for task, job in self.jobs.items() if job.paths.result_pickle.exists()]
        if time.monotonic() - self.asked > _ASK_EVERY:
            over += [task for task in self._left() if task not in over]
        self.over.update(self.jobs[task].job_id for task in over)
        return [(task, self._how(self.jobs.pop(task))) for task in over]

    def stop(self) -> None:
        """Cancel the jobs, and wait until they have saved their checkpoints and left."""
        for job in self.jobs.values():
            job.cancel(check=False)
        until = time.monotonic() + _LEAVING
        while self.jobs and time.monotonic() < until:
            for task in self._left():
                del self.jobs[task]
            time.sleep(LOOK_EVERY)

    def adopt(self, task: Task) -> Task | None:
        """Return the attempt that the job was last submitted for, if Slurm still has it."""
        with suppress(OSError, ValueError, KeyError, TypeError):
            tree = json.loads((task.place / SUBMITTED).read_text(encoding="utf-8"))
            old, number = replace(task, ticket=str(tree["ticket"])), str(tree["id"])
            # waiting, running or put back; the claim tells none of that
            if number not in self.over and (self.queued is None or number in self.queued):
                self.jobs[old] = self.submitit.SlurmJob(self.logs, number)
                return old
        return None

    def _left(self) -> list[Task]:
        """Return the jobs that Slurm's queue no longer has; none if Slurm does not answer."""
        self.asked, self.queued = time.monotonic(), _queued()
        return [task for task, job in self.jobs.items() if self.queued is not None and job.job_id not in self.queued]

    def _how(self, job: Any) -> Ended:
        state, said = _state(job.job_id), ""
        with suppress(Exception):  # whatever a half-written file of another machine makes of unpickling
            if job.paths.result_pickle.exists():
                kind, found = job._get_outcome_and_result()
                if kind == "error":
                    return Ended(f"Slurm: {_last(found)}", lost="timed-out" in found)
                if not found.lost or state != "CANCELLED":
                    return found
        with suppress(OSError, IndexError):
            said = f": {tail(job.paths.stdout)[-1]}"
        if state == "OUT_OF_MEMORY":
            said = "; give engine.memory_gb=NUMBER"
        return Ended(f"Slurm ended it ({state}){said}; see {job.paths.stdout}", lost=state in _LOST)


class Attempt:
    """What Slurm has submitit call: one attempt at a job, and again after each time it was put back in the queue."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.process: Process | None = None
        self.told = False

    def __call__(self) -> Ended:
        """Do the job; when Slurm says that it wants the machine back, save the checkpoint."""
        signal.signal(signal.SIGTERM, self._interrupt)
        first = settle(Slot(self.task.device))
        self.process = process = self.task.start(lambda: _deaf(first))
        while process.poll() is None:
            time.sleep(LOOK_EVERY)
        if process.returncode != STOPPED:
            return self.task.ended(process.returncode)
        if self.told:
            time.sleep(_FATE)  # Slurm ends this process now, or submitit's own signal has it put back in the queue
        return Ended("Slurm took its machine back", lost=True)

    def checkpoint(self) -> Any:
        """Return what to call when the job is requeued, after the checkpoint is saved (submitit's protocol)."""
        self._interrupt(signal.SIGUSR2, None)
        if self.process is not None:
            with suppress(ChildProcessError):
                # poll() may be what this signal interrupted, and cannot be entered twice
                os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT)
        return _package().helpers.DelayedSubmission(Attempt(self.task))

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if self.process is not None and not self.told:
            with suppress(ProcessLookupError):
                os.kill(self.process.pid, signal.SIGINT)
        self.told = True


def _deaf(first: Any) -> None:
    """Slurm's signals reach all processes of a job, and are answered by the one that submitit runs."""
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    first()


def _parameters(settings: EngineSection, name: str) -> dict[str, Any]:
    found = {
        "name": f"unetkit_{name}",
        "timeout_min": settings.minutes,
        "cpus_per_task": settings.cpus,
        "gpus_per_node": int(settings.gpus) or None,
        "mem_gb": settings.memory_gb,
        "slurm_partition": settings.partition,
        "slurm_account": settings.account,
        "slurm_array_parallelism": settings.at_once or _ARRAY,
        "slurm_additional_parameters": settings.options or None,
        "stderr_to_stdout": True,
    }
    return {key: value for key, value in found.items() if value is not None}


def _queued() -> set[str] | None:
    """Return the numbers of this user's jobs in Slurm's queue; None if it does not answer."""
    told = _told("squeue", "--me", "--noheader", "--array", "--format=%i")
    return None if told is None else set(told.split())


def _state(number: str) -> str:
    """Return how a job ended, from Slurm's memory of the last minutes, or from its accounting where that is kept."""
    if found := re.search(r"JobState=(\w+)", _told("scontrol", "show", "job", number) or ""):
        return found[1]
    words = (_told("sacct", "--noheader", "--allocations", "--format=State", f"--jobs={number}") or "").split()
    return words[0] if words else "it does not say why"


def _told(*command: str) -> str | None:
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError):
        return None


def _last(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it ended without a word"


def _package() -> Any:
    try:
        import submitit
        import submitit.helpers
    except ImportError as error:
        raise RecipeError("engine=slurm needs the package 'submitit'; run: pip install 'unetkit[slurm]'") from error
    return submitit
