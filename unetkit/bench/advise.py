"""Which networks to try on data that no benchmark has seen: ranked by evidence, with how sure that is.

Traits of the data decide nothing unless they have ranked better than the plain average on data sets that were left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import inf
from typing import Any

import numpy as np

from unetkit.bench.evidence import Evidence, Known, Standing
from unetkit.bench.forecast import FEWEST, Trial, best_bandwidth, expect, foresee, left_out, try_rules
from unetkit.bench.limits import Cost
from unetkit.bench.resampling import Draws
from unetkit.bench.similarity import distance, weigh
from unetkit.bench.traits import Traits
from unetkit.errors import DataError, counted


@dataclass(frozen=True, eq=False)
class Basis:
    """Data sets on which networks of one start were compared, and the models (label -> section) that all of them have.

    `partial`: models that some data set lacks, with the data sets that do, and so are not compared. `without`: data
    sets of as many dims that have no such scores.
    """

    start: str
    metric: str
    datasets: tuple[Known, ...]
    models: Mapping[str, Mapping[str, Any]]
    partial: Mapping[str, tuple[str, ...]]
    without: tuple[str, ...] = ()

    def standings(self, models: Sequence[str]) -> list[Standing]:
        """Return the scores of these models on each data set."""
        return [known.scores[self.start, self.metric].of(models) for known in self.datasets]

    def params_m(self) -> dict[str, float]:
        """Return the parameters of models where they were counted, in millions; the least of several counts."""
        found: dict[str, float] = {}
        for known in self.datasets:
            for model, cost in known.costs.items():
                found[model] = min(cost["params_m"], found.get(model, inf))
        return found


@dataclass(frozen=True, eq=False)
class Advice:
    """Models within limits, and what evidence lets expect of them on data of some traits.

    `gains` [K, M] are scores less the data set's mean over these models, `distances` [K] from the data to advise on.
    """

    basis: Basis
    costs: Mapping[str, Cost]
    refused: Mapping[str, str]
    gains: np.ndarray
    distances: np.ndarray
    trial: Trial | None
    bandwidth: float
    draws: Draws | None

    @property
    def models(self) -> list[str]:
        """Models within limits, in the order of `gains`."""
        return list(self.costs)

    @property
    def weights(self) -> np.ndarray:
        """Weight of each data set, [K]."""
        return weigh(self.distances, self.bandwidth)

    @cached_property
    def order(self) -> list[int]:
        """Models by what is expected of them, best first."""
        # not by the draws' means: where those are all 0, the averages still have an order
        return [int(i) for i in np.argsort(-(self.weights @ self.gains), kind="stable")]

    def alike(self) -> list[str]:
        """Return the models that cannot be told from the first."""
        first, *others = self.order
        if self.draws is None:
            return []
        return [self.models[other] for other in others if not self.draws.separable(first, other)]

    def noise(self) -> np.ndarray:
        """Return the variance of each gain that seeds and cases alone give, [K, M]."""
        return np.stack([standing.noise() for standing in self.basis.standings(self.models)])

    def spread(self) -> tuple[float, float]:
        """Return by how much a model's gain varies between data sets, and how much of that is seeds and cases alone."""
        return float(np.sqrt(self.gains.var(axis=0, ddof=1).mean())), float(np.sqrt(self.noise().mean()))


def find_basis(evidence: Sequence[Evidence], start: str, metric: str, dims: int) -> Basis:
    """Return what there is on networks of so many dims and one start.

    Raises DataError where there is nothing, where one data set stands in two files, or a label means two networks.
    """
    there = [(one, dataset) for one in evidence for dataset in one.datasets if len(dataset.size) == dims]
    known = [(one, dataset) for one, dataset in there if (start, metric) in dataset.scores]
    without = tuple(dataset.name for _, dataset in there if (start, metric) not in dataset.scores)
    if not known:
        raise DataError(_nothing(evidence, start, metric, dims))
    names = [dataset.name for _, dataset in known]
    if twice := [name for name in names if names.count(name) > 1]:
        raise DataError(f"evidence: data set '{twice[0]}' stands in two of the files, and would count twice; drop one")
    trees: dict[str, Mapping[str, Any]] = {}
    for one, dataset in known:
        for label in dataset.scores[start, metric].models:
            if trees.setdefault(label, one.models[label]) != one.models[label]:
                raise DataError(f"evidence: '{label}' is another network in {one.name}; drop one of the files")
    lacks = {
        label: tuple(dataset.name for _, dataset in known if label not in dataset.scores[start, metric].models)
        for label in trees
    }
    shared = {label: tree for label, tree in trees.items() if not lacks[label]}
    partial = {label: missing for label, missing in lacks.items() if missing}
    if not shared:
        raise DataError(f"evidence: no model was tested on all of {', '.join(names)}; drop the files that share none")
    return Basis(start, metric, tuple(dataset for _, dataset in known), shared, partial, without)


def advise(basis: Basis, traits: Traits, costs: Mapping[str, Cost], refused: Mapping[str, str]) -> Advice:
    """Return what to expect of the models whose costs are given, on data of these traits. Raises DataError for none."""
    if not costs:
        told = "; ".join(f"{label}: {reason}" for label, reason in list(refused.items())[:3])
        raise DataError(f"budget: none of {counted(len(refused), 'model')} is within it ({told}); raise it")
    means = np.stack([standing.means for standing in basis.standings(list(costs))])
    gains = means - means.mean(axis=1, keepdims=True)
    every = [known.traits for known in basis.datasets]
    apart = np.array([[distance(a, b) for b in every] for a in every])
    distances = np.array([distance(traits, one) for one in every])
    trial = try_rules(gains, apart) if len(every) > FEWEST and len(costs) > 1 else None
    width = best_bandwidth(gains, apart) if trial is not None and trial.helps else inf
    draws = None
    if len(every) >= FEWEST and len(costs) > 1:
        share = float((weigh(distances, width) ** 2).sum())
        draws = foresee(expect(gains, distances, width), gains - left_out(gains, apart, width), share)
    return Advice(basis, costs, refused, gains, distances, trial, width, draws)


def ranking(advice: Advice) -> list[dict[str, Any]]:
    """Return a row for each model, the most promising first: what was measured, what to expect, how sure that is.

    `error` is the standard error of what was measured by seeds and test cases alone, on these very data sets.
    """
    measured, alike = advice.gains.mean(axis=0), set(advice.alike())
    errors = np.sqrt(advice.noise().sum(axis=0)) / len(advice.gains)
    rows = []
    for place, index in enumerate(advice.order, start=1):
        model, draws = advice.models[index], advice.draws
        cost = advice.costs[model]
        row: dict[str, Any] = {"rank": place, "model": model, "measured": float(measured[index])}
        row["error"] = float(errors[index])
        if draws is not None:
            low, high = draws.interval(index)
            row |= {"expected": float(draws.means[index]), "low": low, "high": high}
            row |= {"p_best": float(draws.first_place()[index]), "ranks": draws.rank_interval(index)}
            row |= {"as_first": place == 1 or model in alike}
        rows.append(row | {key: cost.get(key) for key in ("params_m", "gflops", "step_mb", "ms")})
    return rows


def evidence_rows(advice: Advice) -> list[dict[str, Any]]:
    """Return a row for each data set, the one most like the data first, with its best model and its weight."""
    rows = []
    standings = advice.basis.standings(advice.models)
    for index in np.argsort(advice.distances, kind="stable"):
        known, standing = advice.basis.datasets[index], standings[index]
        best = int(np.argmax(standing.means))
        rows.append(
            {
                "dataset": known.name,
                "distance": float(advice.distances[index]),
                "weight": float(advice.weights[index]),
                "modality": known.traits.modality,
                "foreground": known.traits.foreground,
                "sharpness": known.traits.sharpness,
                "winding": known.traits.winding,
                "cases": known.traits.cases,
                "test_cases": standing.cases,
                "best": standing.models[best],
                advice.basis.metric: float(standing.means[best]),
            }
        )
    return rows


def _nothing(evidence: Sequence[Evidence], start: str, metric: str, dims: int) -> str:
    there = sorted({f"{len(d.size)}D {m} of {s} starts" for e in evidence for d in e.datasets for s, m in d.scores})
    return (
        f"no evidence on {metric} of {dims}D networks with {start} starts; there is {', '.join(there) or 'nothing'}; "
        "add some with evidence=FILE"
    )
