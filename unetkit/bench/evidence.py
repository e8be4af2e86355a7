"""What a benchmark has to say to others: per data set its traits, and per model the means of each run, in one file.

The file holds no image and no score of a single case. That cases were the same for all models is kept in the
covariance of the models' means over cases.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unetkit.bench.analysis import Results, Scores, collect
from unetkit.bench.costs import COSTS
from unetkit.bench.folder import BENCH, BenchFolder, read_bench_folder
from unetkit.bench.job import starts_trained
from unetkit.bench.report import STARTS
from unetkit.bench.traits import Traits, bench_traits
from unetkit.data.formats.files import replacing
from unetkit.errors import DataError
from unetkit.recipe.bench import labelled
from unetkit.recipe.find import recipes_folder

FORMAT = 1
"""Version of the file."""
SUFFIX = ".evidence.json"
"""Of the files among the recipes that `bench advise` reads where none is named."""
METRICS = ("iou", "dice", "nsd", "ap50", "pq")
_ABOUT = {"budget": dict, "seeds": list, "devices": list, "left_out": list, "protocol": str}
"""What is asked of how the benchmark was done."""
_COSTS = ("params_m", "gflops", "step_mb", "ms")


@dataclass(frozen=True, eq=False)
class Standing:
    """One metric of models on the test cases of a data set.

    `runs` [M, R] are means over cases, NaN where a run is missing; `covariance` [M, M] is that of the models' means
    over runs if other cases (patients as a whole) had been drawn.
    """

    models: tuple[str, ...]
    runs: np.ndarray
    covariance: np.ndarray
    cases: int

    @property
    def means(self) -> np.ndarray:
        """Means over runs and cases, [M]."""
        found: np.ndarray = np.nanmean(self.runs, axis=1)
        return found

    def of(self, models: Sequence[str]) -> Standing:
        """Return some of the models, in this order."""
        rows = [self.models.index(model) for model in models]
        return Standing(tuple(models), self.runs[rows], self.covariance[np.ix_(rows, rows)], self.cases)

    def noise(self) -> np.ndarray:
        """Return the variance that cases and runs alone give each model's difference to the mean of all, [M]."""
        runs = [row[~np.isnan(row)] for row in self.runs]
        # of a single run nothing is known of its start; then cases alone are counted
        of_runs = [float(np.var(run, ddof=1)) / len(run) if len(run) > 1 else 0.0 for run in runs]
        centred = np.eye(len(runs)) - 1 / len(runs)
        return np.diag(centred @ (self.covariance + np.diag(of_runs)) @ centred)


@dataclass(frozen=True, eq=False)
class Known:
    """A data set on which models were compared: `size` of the patches they saw, `scores` by (start, metric)."""

    name: str
    size: tuple[int, ...]
    traits: Traits
    scores: Mapping[tuple[str, str], Standing]
    costs: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True, eq=False)
class Evidence:
    """What one benchmark found: its data sets, the section `model` of each label, and how it was done."""

    name: str
    models: Mapping[str, Mapping[str, Any]]
    datasets: tuple[Known, ...]
    about: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        datasets = {
            known.name: {
                "size": list(known.size),
                "traits": known.traits.to_json(),
                "scores": [_scores_to_json(*key, tested) for key, tested in known.scores.items()],
                "costs": known.costs,
            }
            for known in self.datasets
        }
        return {"format": FORMAT, "name": self.name, "about": self.about, "models": self.models, "datasets": datasets}

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> Evidence:
        """Rebuild evidence. Raises DataError for a tree that is none, or of a later version."""
        try:
            if tree["format"] != FORMAT:
                raise DataError(f"evidence of format {tree['format']}, not {FORMAT}; write it anew, or update unetkit")
            datasets = [
                Known(
                    name,
                    tuple(one["size"]),
                    Traits.from_json(one["traits"]),
                    {(of["start"], of["metric"]): _scores_from_json(of) for of in one["scores"]},
                    {label: {"params_m": of["params_m"] + 0.0, **of} for label, of in one["costs"].items()},
                )
                for name, one in tree["datasets"].items()
            ]
            for label in {label for one in datasets for of in one.scores.values() for label in of.models}:
                str(tree["models"][label]["name"])
            about = {key: kind(tree["about"][key]) for key, kind in _ABOUT.items()}
            return cls(tree["name"], tree["models"], tuple(datasets), {**tree["about"], **about})
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise DataError(f"this is no evidence of a benchmark ({type(error).__name__}: {error})") from error


def gather(folder: BenchFolder, progress: Callable[[int, int], None] | None = None) -> Evidence:
    """Return what a benchmark found so far; traits of its data are measured if they never were.

    Raises DataError if no job is done, or if a data set is not at hand whose traits are not known.
    """
    results: Results = list(folder.results())
    traits = bench_traits(folder, progress)
    costs, datasets = _costs(folder, results), []
    for name in folder.bench.datasets:
        # what was tested untrained (zero-shot) tells of another question
        own = [(job, {**result, "zero_shot": {}}) for job, result in results if job.dataset == name]
        if scores := _scores_of(own):
            datasets.append(Known(name, tuple(own[0][1]["patch_size"]), traits[name], scores, costs[name]))
    if not datasets:
        raise DataError(f"{folder.path}: no job is done yet; run it with `unetkit bench run={folder.path}`")
    # where weights lay is of no use elsewhere
    models = {
        label: {k: v for k, v in tree.items() if k != "weights"} for label, tree in labelled(folder.bench).items()
    }
    left_out = sorted(set(folder.bench.datasets) - {known.name for known in datasets})
    return Evidence(folder.path.name, models, tuple(datasets), {**_about(folder, results), "left_out": left_out})


def read_evidence(place: Path, progress: Callable[[int, int], None] | None = None) -> Evidence:
    """Return the evidence of a file, or of a benchmark's folder.

    Raises DataError or CheckpointError for one that is neither or damaged.
    """
    if (place / BENCH).is_file():
        return gather(read_bench_folder(place), progress)
    try:
        tree = json.loads(place.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"evidence={place}: neither a benchmark's folder nor a file of `unetkit bench table run=... evidence=FILE` "
            f"({type(error).__name__})"
        ) from error
    try:
        return Evidence.from_json(tree)
    except DataError as error:
        raise DataError(f"evidence={place}: {error}") from error


def write_evidence(path: Path, evidence: Evidence) -> Path:
    """Write evidence to a file. Raises DataError if it cannot be written."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(evidence.to_json(), separators=(",", ":")) + "\n", encoding="utf-8")
    return path


def shipped_evidence() -> list[Path]:
    """Return the files of evidence that come with unetkit."""
    return sorted(recipes_folder().glob(f"*{SUFFIX}"))


def _scores_of(results: Results) -> dict[tuple[str, str], Standing]:
    """Return the scores of one data set by start and metric."""
    scores = {}
    for pretrained, start in STARTS.items():
        for metric in METRICS:
            # a metric that is defined in no case of some run, or runs without a case in common
            with suppress(DataError):
                for found in collect(results, metric, pretrained).values():
                    scores[start, metric] = _standing(found)
    return scores


def _standing(scores: Scores) -> Standing:
    """Sum scores up; cases of a group (patient) are drawn together."""
    means, cases = scores.means, len(scores.cases)
    _, owner = np.unique(scores.groups, return_inverse=True)
    groups = int(owner.max()) + 1
    apart = means - means.mean(axis=1, keepdims=True)
    sums = np.stack([np.bincount(owner, row, groups) for row in apart])
    # the usual estimate of a clustered mean; of a single patient nothing can be said
    covariance = sums @ sums.T / cases**2 * (groups / (groups - 1) if groups > 1 else 0.0)
    return Standing(scores.models, scores.values.mean(axis=2), covariance, cases)


def _about(folder: BenchFolder, results: Results) -> dict[str, Any]:
    bench = folder.bench
    return {
        "description": bench.description,
        "protocol": bench.protocol,
        "budget": bench.budget.model_dump(mode="json", exclude_none=True),
        "seeds": sorted({job.seed for job, _ in results}),
        "pretrained": sorted({job.model for job, _ in results if starts_trained(job)}),
        "devices": sorted({str(result["machine"]["device"]) for _, result in results}),
        "versions": next((dict(result["versions"]) for _, result in results), {}),
    }


def _costs(folder: BenchFolder, results: Results) -> dict[str, dict[str, dict[str, float]]]:
    """Return data set -> model -> its cost there: what the jobs counted, and what a report measured if there is one."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for job, result in results:
        found.setdefault(job.dataset, {})[job.model] = {"params_m": _short(result["params_m"])}
    with suppress(OSError, ValueError, KeyError, TypeError):
        for row in json.loads((folder.path / COSTS).read_text(encoding="utf-8"))["rows"]:
            cost = {key: _short(row["cost"][key]) for key in _COSTS if row["cost"].get(key) is not None}
            found.get(row["dataset"], {}).get(row["model"], {}).update(cost)
    return found


def _scores_to_json(start: str, metric: str, tested: Standing) -> dict[str, Any]:
    return {
        "start": start,
        "metric": metric,
        "cases": tested.cases,
        "models": list(tested.models),
        "runs": [[_short(value) for value in row if not np.isnan(value)] for row in tested.runs],
        # to read without a computer too: the spread that other cases would give each model's mean
        "sd": [_short(value) for value in np.sqrt(np.diag(tested.covariance))],
        "covariance": [[_short(value, 4) for value in row] for row in tested.covariance],
    }


def _scores_from_json(tree: Mapping[str, Any]) -> Standing:
    count, most = len(tree["models"]), max(map(len, tree["runs"]))
    runs = np.array([[*row, *[np.nan] * (most - len(row))] for row in tree["runs"]], dtype=float)
    covariance = np.array(tree["covariance"], dtype=float)
    if runs.shape != (count, most) or covariance.shape != (count, count) or np.isnan(runs).all(axis=1).any():
        raise ValueError(f"{count} models, runs {runs.shape}, covariance {covariance.shape}")
    return Standing(tuple(tree["models"]), runs, covariance, int(tree["cases"]))


def _short(value: float, digits: int = 6) -> float:
    return float(f"{value:.{digits}g}")
