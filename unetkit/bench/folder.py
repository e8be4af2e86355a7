"""The folder of a benchmark: `benches/NAME/` with bench.json, a folder for each job, and what they came to.

Where a job stands is told by its files alone, so that any number of processes may work on them, be killed, and go on.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from unetkit.bench.claims import held
from unetkit.bench.uscore import read_anchors
from unetkit.data.formats.files import replacing
from unetkit.errors import CheckpointError, RecipeError
from unetkit.recipe.bench import BenchJob, BenchRecipe, checked_bench, jobs_of

BENCH, RESULT, FAILED = "bench.json", "result.json", "failed.json"
FORMAT = 1
"""Version of bench.json and result.json."""
DONE, BROKEN, RUNNING, WAITING = "done", "failed", "running", "waiting"
_SAID = {"scores": dict, "zero_shot": dict, "groups": dict, "pretrained": bool}
"""Of a result, what all else goes by."""


@dataclass(frozen=True)
class BenchFolder:
    """Reads and writes the files of a benchmark."""

    path: Path
    bench: BenchRecipe

    @cached_property
    def jobs(self) -> list[BenchJob]:
        """All jobs, in the order in which they are done."""
        return list(jobs_of(self.bench))

    def job(self, name: str) -> BenchJob:
        """Return a job by its name. Raises RecipeError for a name that is none."""
        for job in self.jobs:
            if job.name == name:
                return job
        raise RecipeError(f"job={name}: no such job in {self.path}; it has, for example, {self.jobs[0].name}")

    def of(self, job: BenchJob) -> Path:
        """Return a job's folder."""
        return self.path / "jobs" / job.name

    def state(self, job: BenchJob) -> str:
        """Return where a job stands."""
        place = self.of(job)
        if self.has_result(job) and not self.untested(job):
            return DONE
        if held(place):
            return RUNNING
        return BROKEN if (place / FAILED).is_file() else WAITING

    def has_result(self, job: BenchJob) -> bool:
        """Tell whether a job was trained and tested, even if data that joined later (zero_shot) are not tested yet."""
        return (self.of(job) / RESULT).is_file()

    def untested(self, job: BenchJob) -> list[str]:
        """Return the other data that the result of a job does not tell of, of which it has one."""
        if not job.transfers:
            return []
        with suppress(CheckpointError):  # a damaged one is named where it is needed
            tested = self.result(job)["zero_shot"]
            return [name for name in job.transfers if name not in tested]
        return []

    def result(self, job: BenchJob) -> dict[str, Any]:
        """Return what a job came to. Raises CheckpointError if its file is damaged, or of a later unetkit."""
        path = self.of(job) / RESULT
        tree = _read(path)
        if tree.get("format") != FORMAT:
            raise CheckpointError(f"{path}: of format {tree.get('format')}, not {FORMAT}; update unetkit")
        wrong = [key for key, kind in _SAID.items() if not isinstance(tree.get(key), kind)]
        if wrong or not isinstance(tree["scores"].get("cases"), dict):
            raise CheckpointError(
                f"{path}: damaged (no {wrong[0] if wrong else 'cases'}); delete it to do the job again"
            )
        return tree

    def results(self) -> Iterator[tuple[BenchJob, dict[str, Any]]]:
        """Yield the jobs that have a result with what they came to. Raises CheckpointError as `result` does."""
        for job in self.jobs:
            if self.has_result(job):
                yield job, self.result(job)

    def reason(self, job: BenchJob) -> str:
        """Return why a job failed; nothing if it did not."""
        with suppress(CheckpointError, KeyError):
            return str(_read(self.of(job) / FAILED)["reason"])
        return ""

    def write_result(self, job: BenchJob, tree: Mapping[str, Any]) -> None:
        """Write what a job came to, as a whole. Raises DataError if it cannot be written."""
        _write(self.of(job) / RESULT, {"format": FORMAT, **tree})
        (self.of(job) / FAILED).unlink(missing_ok=True)

    def write_failure(self, job: BenchJob, reason: str) -> None:
        """Write why a job failed. Raises DataError if it cannot be written."""
        _write(self.of(job) / FAILED, {"format": FORMAT, "reason": reason})

    def forget_failure(self, job: BenchJob) -> None:
        """Take away why a job failed, as it is begun again."""
        (self.of(job) / FAILED).unlink(missing_ok=True)


def open_bench(bench: BenchRecipe, name: str) -> BenchFolder:
    """Make the folder of a benchmark, or open the one there is if all its jobs are among the ones asked for now.

    Raises RecipeError if it holds other jobs, DataError if it cannot be written or if U-Bench has no such anchors.
    """
    for dataset in bench.datasets:
        if (anchors := bench.anchors_of(dataset)) != "cohort":
            read_anchors(anchors)  # a fault now, not after hours
    if Path(name).name != name or name == "..":
        raise RecipeError(f"name={name}: give a plain folder name; the place is set with output=FOLDER")
    path = Path(os.path.expanduser(bench.output)) / name
    folder = BenchFolder(path, bench)
    if (path / BENCH).is_file():
        _require_same(read_bench_folder(path), folder)
    _write(path / BENCH, {"format": FORMAT, "bench": bench.model_dump(mode="json")})
    return folder


def read_bench_folder(path: Path) -> BenchFolder:
    """Return the benchmark of a folder. Raises CheckpointError if it is none or damaged."""
    if not (path / BENCH).is_file():
        raise CheckpointError(
            f"{path}: this is no benchmark (no {BENCH}); give the folder that `unetkit bench` printed"
        )
    tree = _read(path / BENCH, "restore it, or begin anew with name=OTHER")
    if tree.get("format") != FORMAT:
        raise CheckpointError(f"{path}: a benchmark of format {tree.get('format')}, not {FORMAT}; update unetkit")
    try:
        return BenchFolder(path, checked_bench(tree["bench"]))
    except (KeyError, RecipeError) as error:
        raise CheckpointError(f"{path}: a damaged benchmark ({error}); restore its {BENCH}, or begin anew") from error


def _require_same(old: BenchFolder, new: BenchFolder) -> None:
    """More models, data sets, seeds or other data may join; what is there must mean the same."""
    now = {job.name: job for job in new.jobs}
    if old.bench.protocol != new.bench.protocol:
        raise RecipeError(f"{new.path}: was begun with protocol={old.bench.protocol}; give the new one name=OTHER")
    for job in old.jobs:
        if not old.has_result(job) and old.state(job) in (WAITING, BROKEN):
            continue
        if lacks := _other(job, now.get(job.name), set(old.untested(job))):
            raise RecipeError(
                f"{new.path}: holds a result of {job.name}, which {lacks}; go on with the old recipe, or give the new "
                "benchmark name=OTHER"
            )


def _other(job: BenchJob, now: BenchJob | None, free: Collection[str]) -> str:
    """Return in which way a job is not what it was; nothing if it is, but for other data that are `free` or new."""
    if now is None:
        return "is not asked for now"
    if now.recipe != job.recipe:
        return "would now be trained by other settings"
    tested = {name: data for name, data in job.transfers.items() if name not in free}
    same = all(now.transfers.get(name) == data for name, data in tested.items())
    return "" if same else "would now be tested on other data (zero_shot)"


def _read(path: Path, remedy: str = "delete it to do the job again") -> dict[str, Any]:
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error}); {remedy}") from error
    if not isinstance(tree, dict):
        raise CheckpointError(f"{path}: damaged; {remedy}")
    return tree


def _write(path: Path, tree: Mapping[str, Any]) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(tree, indent=1), encoding="utf-8")
