"""Whether all data of a benchmark can be used, asked before the first job starts and not hours later."""

from __future__ import annotations

from unetkit.bench.folder import BROKEN, DONE, BenchFolder
from unetkit.data.datasets import open_dataset
from unetkit.data.splits import make_split
from unetkit.errors import DataError, UnetkitError
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
        for where, check in {f"datasets.{dataset}": _own, f"zero_shot of {dataset}": _others}.items():
            try:
                check(folder, job)
            except UnetkitError as error:
                faults.append(f"{where}: {error}")
    if faults:
        raise DataError("; ".join(faults))


def _own(folder: BenchFolder, job: BenchJob) -> None:
    split = make_split(open_dataset(job.recipe.data), job.recipe.data.split)
    for side in ("train", "val") if folder.bench.protocol == "ubench" else ("train", "val", "test"):
        ids_of_side(split, side, job.dataset)


def _others(folder: BenchFolder, job: BenchJob) -> None:
    for data in job.transfers.values():
        cases_of_other(open_dataset(other_data(job.recipe.data, data)), "test")
