"""The results of a benchmark as tables: a row for each job, done or not, and the scores of every case."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unetkit.bench.folder import DONE, BenchFolder
from unetkit.data.formats.files import replacing
from unetkit.metrics import METRICS
from unetkit.recipe.bench import BenchJob

SCHEMA = 1
"""Version of the columns; it stands in each row, so that tables of several benchmarks can be put together."""

Row = dict[str, Any]


def job_rows(folder: BenchFolder) -> list[Row]:
    """Return a row for each job and, where there are other data to test, one for each of those.

    `target` is the data set that was tested; metrics are means over the classes of a case, then over cases; a job
    without result has its state and its reason.
    """
    return [row for job in folder.jobs for row in _rows_of(folder, job)]


def case_rows(folder: BenchFolder) -> Iterator[Row]:
    """Yield a row for each metric of each class of each case that was tested."""
    for job, result in folder.results():
        for target, scores in _targets(job, result):
            groups = result["groups"] if target == job.dataset else scores.get("groups", {})
            for case, of_case in scores["cases"].items():
                for name, of_class in of_case.items():
                    for metric, value in of_class.items():
                        yield {
                            "schema": SCHEMA,
                            **_names(job, target),
                            "case": case,
                            "group": groups.get(case, case),
                            "class": name,
                            "metric": metric,
                            "value": value,
                        }


def case_means(scores: Mapping[str, Any], metric: str) -> dict[str, float]:
    """Return a metric's mean over the classes of each case in which it is defined for any."""
    found = {}
    for case, of_case in scores["cases"].items():
        values = [of_class[metric] for of_class in of_case.values() if of_class.get(metric) is not None]
        if values:
            found[case] = float(np.mean(values))
    return found


def write_tables(folder: BenchFolder) -> tuple[list[Path], list[Row]]:
    """Write results.csv and cases.csv, and both as Parquet where pyarrow is installed; return files and job rows.

    Raises DataError if they cannot be written.
    """
    jobs, written = job_rows(folder), list[Path]()
    tables = {"results": jobs, "cases": list(case_rows(folder))}
    for name, rows in tables.items():
        written.append(write_rows(folder.path / f"{name}.csv", rows))
        if (parquet := _write_parquet(folder.path / f"{name}.parquet", rows)) is not None:
            written.append(parquet)
    return written, jobs


def write_rows(path: Path, rows: Sequence[Row]) -> Path:
    """Write rows as CSV, empty where a row lacks a value. Raises DataError if it cannot be written."""
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, _columns(rows), restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows([{k: "" if v is None else v for k, v in row.items()} for row in rows])
    return path


def _columns(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(key for row in rows for key in row))


def _write_parquet(path: Path, rows: Sequence[Row]) -> Path | None:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        return None
    columns = _columns(rows)
    table = pyarrow.table({name: [row.get(name) for row in rows] for name in columns})
    with replacing(path) as temporary:
        pyarrow.parquet.write_table(table, temporary)
    return path


def _rows_of(folder: BenchFolder, job: BenchJob) -> Iterator[Row]:
    if not folder.has_result(job):
        yield _undone(folder, job, job.dataset)
        return
    result = folder.result(job)
    shared = ("pretrained", "params_m", "steps", "train_seconds", "split")
    for target, scores in _targets(job, result):
        means = {metric: _mean(case_means(scores, metric)) for metric in METRICS}
        yield {
            "schema": SCHEMA,
            **_names(job, target),
            "state": DONE,
            "reason": "",
            **{key: result[key] for key in shared},
            "cases": len(scores["cases"]),
            "failed_cases": len(scores["failures"]),
            **{metric: value for metric, value in means.items() if value is not None},
            "device": result["machine"]["device"],
            "torch": result["versions"].get("torch", ""),
        }
    joined = [target for target in job.transfers if target not in result["zero_shot"]]  # when the job was done
    yield from (_undone(folder, job, target) for target in joined)


def _undone(folder: BenchFolder, job: BenchJob, target: str) -> Row:
    told = {"state": folder.state(job), "reason": folder.reason(job)}
    return {"schema": SCHEMA, **_names(job, target), **told}


def _targets(job: BenchJob, result: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    yield job.dataset, result["scores"]
    yield from result["zero_shot"].items()


def _names(job: BenchJob, target: str) -> Row:
    return {"model": job.model, "dataset": job.dataset, "target": target, "seed": job.seed}


def _mean(values: Mapping[str, float]) -> float | None:
    mean = float(np.mean(list(values.values()))) if values else math.nan
    return mean if math.isfinite(mean) else None
