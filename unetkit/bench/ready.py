"""Whether all data of a benchmark can be used, asked before the first job starts and not hours later."""

from __future__ import annotations

from pathlib import Path

from unetkit.bench.folder import BROKEN, DONE, BenchFolder
from unetkit.data.datasets import open_dataset
from unetkit.data.splits import make_split
from unetkit.errors import DataError, UnetkitError, counted
from unetkit.evaluation.cases import cases_of_other, ids_of_side, other_data
from unetkit.recipe.bench import BenchJob


def require_data(folder: BenchFolder, *, retry: bool = False) -> None:
    """Open the data sets of all jobs that are to be done, and the other data that their networks are tested on.

    `retry`: failed jobs are to be done again.
    Raises DataError that names every data set with its fault.
    """
    skipped = {DONE} if retry else {DONE, BROKEN}
    first = {job.dataset: job for job in reversed(folder.jobs) if folder.state(job) not in skipped}
    faults = []
    for dataset, job in first.items():
        seen = frozenset[Path]()
        try:
            seen = _own(folder, job)
        except UnetkitError as error:
            faults.append(f"datasets.{dataset}: {error}")
        try:
            _others(job, seen)
        except UnetkitError as error:
            faults.append(f"zero_shot of {dataset}: {error}")
    if faults:
        raise DataError("; ".join(faults))


def _own(folder: BenchFolder, job: BenchJob) -> frozenset[Path]:
    """Return the images that a job's network learns from or is chosen on."""
    dataset = open_dataset(job.recipe.data)
    split = make_split(dataset, job.recipe.data.split)
    for side in ("train", "val") if folder.bench.protocol == "ubench" else ("train", "val", "test"):
        ids_of_side(split, side, job.dataset)
    used = {*split.train, *split.val}
    return frozenset(image.resolve() for case in dataset.cases if case.id in used for image in case.images)


def _others(job: BenchJob, seen: frozenset[Path]) -> None:
    for name, data in job.transfers.items():
        dataset = open_dataset(other_data(job.recipe.data, data))
        tested = cases_of_other(dataset, "test")
        known = [i for i in tested if any(image.resolve() in seen for image in dataset.case(i).images)]
        if known:
            raise DataError(
                f"{name}: {len(known)} of its {counted(len(tested), 'case')}, {known[0]} among them, are images that "
                f"{job.dataset} trains on; take them out of its folder, or drop zero_shot.{name}"
            )
