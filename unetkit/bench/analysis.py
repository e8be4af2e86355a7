"""What the results of a benchmark come to: for each data set means with intervals, ranks, differences, U-Scores."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any
from zlib import crc32

import numpy as np

from unetkit.bench.anchors import Anchors, cohort_anchors
from unetkit.bench.costs import Costs
from unetkit.bench.resampling import Draws, join, resample
from unetkit.bench.significance import Comparison, cases_needed, compare, false_win
from unetkit.bench.table import case_means
from unetkit.bench.uscore import Parts, read_anchors, u_score_parts
from unetkit.errors import DataError
from unetkit.recipe.bench import BenchJob

QUANTILES = ((0.05, 0.95), (0.1, 0.9), (0.2, 0.8))
ALPHAS = (0.3, 0.5, 0.7)
WEIGHTS = ((1, 1, 1), (2, 1, 1), (1, 2, 1), (1, 1, 2))


@dataclass(frozen=True, eq=False)
class Scores:
    """One metric of models on the cases of a data set: `values` [M, R, N], NaN rows for runs that are missing."""

    target: str
    metric: str
    models: tuple[str, ...]
    cases: tuple[str, ...]
    groups: tuple[str, ...]
    values: np.ndarray
    dropped: int = 0
    """Cases that some run could not score, or in which the metric is not defined for all; left out for every model."""

    @property
    def means(self) -> np.ndarray:
        """Means over runs, [M, N]."""
        found: np.ndarray = np.nanmean(self.values, axis=1)
        return found

    @property
    def blocks(self) -> np.ndarray:
        """Means over runs and over the cases of each group, [M, G]: what tests may take for independent."""
        _, owner = np.unique(self.groups, return_inverse=True)
        return np.stack([np.bincount(owner, row) for row in self.means]) / np.bincount(owner)


@dataclass(frozen=True, eq=False)
class Pair:
    """Two models on one data set: by how much the first is better, its interval, and how sure that is."""

    first: str
    second: str
    difference: float
    low: float
    high: float
    separable: bool
    p: float
    false_win: float
    cases_needed: float


@dataclass(frozen=True, eq=False)
class Rating:
    """U-Scores of a data set by one kind of anchors, by model, with the band that other settings would give."""

    anchors: str
    scores: Mapping[str, Parts]
    bands: Mapping[str, tuple[float, float]]
    ranks: Mapping[str, tuple[float, float]]


@dataclass(frozen=True, eq=False)
class Verdict:
    """All that is said of one data set; `ratings` by the anchors that were asked for, then by those of the cohort."""

    scores: Scores
    draws: Draws
    comparison: Comparison | None
    pairs: tuple[Pair, ...]
    ratings: tuple[Rating, ...] = ()

    @property
    def order(self) -> list[int]:
        """Models by mean, best first."""
        return [int(i) for i in np.argsort(-self.draws.means, kind="stable")]


Results = Collection[tuple[BenchJob, Mapping[str, Any]]]
"""Jobs that are done, with what they came to."""


def collect(results: Results, metric: str, pretrained: bool) -> dict[str, Scores]:
    """Return the scores of jobs by tested data set, of networks that started trained or of those that did not.

    The two kinds are never compared with each other: what one has seen more would pass for what it is. Data sets
    without a case in which every model has the metric are left out. Raises DataError where no other is left.
    """
    by_target: dict[str, dict[str, list[dict[str, float]]]] = {}
    groups: dict[str, dict[str, str]] = {}
    for job, result in results:
        if result["pretrained"] != pretrained:
            continue
        groups.setdefault(job.dataset, {}).update(result["groups"])
        for target, scores in {job.dataset: result["scores"], **result["zero_shot"]}.items():
            groups.setdefault(target, {}).update(scores.get("groups", {}))
            by_target.setdefault(target, {}).setdefault(job.model, []).append(case_means(scores, metric))
    found = {target: _scores(target, metric, runs, groups[target]) for target, runs in by_target.items()}
    if by_target and not any(found.values()):
        raise DataError(
            f"{', '.join(by_target)}: no case in which every model has {metric}; choose another metric, or look for "
            "failed cases in results.csv"
        )
    return {target: scores for target, scores in found.items() if scores is not None}


def judge(scores: Scores, costs: Mapping[str, Mapping[str, Any]], anchors: str = "cohort", seed: int = 0) -> Verdict:
    """Return what a data set's scores come to; `costs` holds the CostRow of each model, as far as there is one.

    U-Scores are of the models whose costs and times are known, for IoU alone. Frozen anchors of speed are moved to the
    machine that the costs were timed on, by the reference network timed there too; the cohort's own come beside them.
    """
    # of its own for each data set: those with as many cases would share their draws, and not join as independent
    draws = resample(scores.values, scores.groups, seed=crc32(f"{scores.target} {seed}".encode()))
    blocks = scores.blocks
    comparison = compare(blocks, alike=_alike(draws)) if min(blocks.shape) > 1 else None
    pairs = tuple(_pair(scores, draws, comparison, a, b) for a, b in combinations(_order(draws), 2))
    known = [m for m in scores.models if _costed(costs.get(m))]
    if scores.metric != "iou" or len(known) < 2:
        return Verdict(scores, draws, comparison, pairs)
    inputs = [_inputs(scores, draws, model, costs) for model in known]
    frozen = [] if anchors == "cohort" else [read_anchors(anchors).on_machine(_reference(known, costs))]
    ratings = tuple(_rating(known, inputs, fixed) for fixed in (*frozen, None))
    return Verdict(scores, draws, comparison, pairs, ratings)


def overall(verdicts: Sequence[Verdict]) -> tuple[tuple[str, ...], Draws] | None:
    """Return the models that all data sets have, and the draws of their mean over data sets; None below two of each."""
    common = [m for m in verdicts[0].scores.models if all(m in v.scores.models for v in verdicts)] if verdicts else []
    if len(verdicts) < 2 or len(common) < 2:
        return None
    parts = []
    for verdict in verdicts:
        columns = [verdict.scores.models.index(model) for model in common]
        parts.append(Draws(verdict.draws.means[columns], verdict.draws.drawn[:, columns], verdict.draws.level))
    return tuple(common), join(parts)


def pareto(accuracy: Sequence[float], cost: Sequence[float]) -> list[int]:
    """Return the indices of the models than which no other is at least as good and as cheap, and better in one."""
    return [
        i
        for i, (a, c) in enumerate(zip(accuracy, cost, strict=True))
        if not any(
            other >= a and price <= c and (other > a or price < c) for other, price in zip(accuracy, cost, strict=True)
        )
    ]


def costs_of(costs: Costs, dataset: str) -> dict[str, dict[str, Any]]:
    """Return the costs of the models on one data set."""
    return {model: row for (model, of), row in costs.items() if of == dataset}


def _scores(
    target: str, metric: str, runs: Mapping[str, list[dict[str, float]]], groups: Mapping[str, str]
) -> Scores | None:
    every = {case for of_model in runs.values() for run in of_model for case in run}
    shared = sorted(case for case in every if all(case in run for of_model in runs.values() for run in of_model))
    if not shared:
        return None
    most = max(len(of_model) for of_model in runs.values())
    values = np.full((len(runs), most, len(shared)), np.nan)
    for m, of_model in enumerate(runs.values()):
        for r, run in enumerate(of_model):
            values[m, r] = [run[case] for case in shared]
    owners = tuple(groups.get(case, case) for case in shared)
    return Scores(target, metric, tuple(runs), tuple(shared), owners, values, len(every) - len(shared))


def _order(draws: Draws) -> list[int]:
    return [int(i) for i in np.argsort(-draws.means, kind="stable")]


def _pair(scores: Scores, draws: Draws, comparison: Comparison | None, a: int, b: int) -> Pair:
    difference, low, high = draws.difference(a, b)
    differences = scores.blocks[a] - scores.blocks[b]
    several = len(differences) > 1
    return Pair(
        scores.models[a],
        scores.models[b],
        difference,
        low,
        high,
        draws.separable(a, b),
        1.0 if comparison is None else float(comparison.p[a, b]),
        false_win(differences) if several else 0.5,
        cases_needed(differences) if several else float("inf"),
    )


def _alike(draws: Draws) -> np.ndarray:
    """Return the pairs that the intervals over cases and runs leave open, [M, M]; the tests know nothing of runs."""
    every = range(len(draws.means))
    return np.array([[not draws.separable(a, b) for b in every] for a in every])


def _costed(row: Mapping[str, Any] | None) -> bool:
    return row is not None and all(row.get(key) for key in ("params_m", "gmacs", "per_second", "to_reference"))


def _reference(models: Sequence[str], costs: Mapping[str, Mapping[str, Any]]) -> float:
    """Return the images a second of the reference network, as it was timed beside the models."""
    return float(np.median([costs[model]["per_second"] * costs[model]["to_reference"] for model in models]))


def _inputs(
    scores: Scores, draws: Draws, model: str, costs: Mapping[str, Mapping[str, Any]]
) -> tuple[float, float, float, float]:
    row = costs[model]
    return float(draws.means[scores.models.index(model)]), row["params_m"], row["gmacs"], row["per_second"]


def _rating(
    models: Sequence[str], inputs: Sequence[tuple[float, float, float, float]], fixed: Anchors | None
) -> Rating:
    """Return the U-Scores of the models by fixed anchors, or by those of their cohort."""
    anchors = fixed or cohort_anchors(inputs)
    found = {model: u_score_parts(*given, anchors) for model, given in zip(models, inputs, strict=True)}
    return Rating(anchors.name, found, *_sensitivity(models, inputs, fixed))


def _sensitivity(
    models: Sequence[str], inputs: Sequence[tuple[float, float, float, float]], fixed: Anchors | None
) -> tuple[dict[str, tuple[float, float]], dict[str, tuple[float, float]]]:
    """Return for each model the lowest and highest U-Score, and rank, over quantiles, shares and weights."""
    settled = [fixed] if fixed else [cohort_anchors(inputs, q) for q in QUANTILES]
    tried = np.array(
        [
            [u_score_parts(*given, anchors, weights, alpha).score for given in inputs]
            for anchors, weights, alpha in product(settled, WEIGHTS, ALPHAS)
        ]
    )
    places = 1 + (tried[:, None, :] > tried[:, :, None] + 1e-9).sum(axis=2)
    bands = {m: (float(tried[:, i].min()), float(tried[:, i].max())) for i, m in enumerate(models)}
    return bands, {m: (float(places[:, i].min()), float(places[:, i].max())) for i, m in enumerate(models)}
