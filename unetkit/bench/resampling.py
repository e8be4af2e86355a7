"""What a benchmark's means would have been on other cases and with other random starts: the bootstrap of both.

Cases are drawn anew, the same ones for every model, whole groups (patients) at a time (percentile bootstrap: Efron and
Tibshirani, 1993). What other training runs would add is drawn for each model by itself, since runs of one seed number
have nothing in common between models, and from Student's distribution: drawing from the two or three runs that there
are would take what they happen to have in common for certain. From one set of draws come intervals of means and of
differences, ranks and how sure they are (stability of ranks: Wiesenfarth et al., Sci Rep 2021).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan

import numpy as np
from scipy.stats import kendalltau, rankdata

from unetkit.errors import DataError, ShapeError

_TIED = 1e-9


@dataclass(frozen=True)
class Draws:
    """Mean score of each model, `means` [M], and in each draw, `drawn` [D, M]; higher is better."""

    means: np.ndarray
    drawn: np.ndarray
    level: float = 0.95

    def interval(self, model: int) -> tuple[float, float]:
        """Return the interval of a model's mean."""
        return self._span(self.drawn[:, model])

    def difference(self, first: int, second: int) -> tuple[float, float, float]:
        """Return by how much the first model is better than the second, and the interval of that."""
        low, high = self._span(self.drawn[:, first] - self.drawn[:, second])
        return float(self.means[first] - self.means[second]), low, high

    def separable(self, first: int, second: int) -> bool:
        """Tell whether the interval of two models' difference leaves out 0."""
        _, low, high = self.difference(first, second)
        return low > _TIED or high < -_TIED

    def ranks(self) -> np.ndarray:
        """Return the rank of each model in each draw, [D, M], 1 the best; models that are level share the mean rank."""
        ranks: np.ndarray = rankdata(-np.round(self.drawn, 9), axis=1)
        return ranks

    def rank_interval(self, model: int) -> tuple[float, float]:
        """Return the interval of a model's rank."""
        return self._span(self.ranks()[:, model], method="nearest")

    def first_place(self) -> np.ndarray:
        """Return the share of draws in which each model is the best, [M]; a shared first place is divided."""
        best = self.drawn >= self.drawn.max(axis=1, keepdims=True) - _TIED
        share: np.ndarray = (best / best.sum(axis=1, keepdims=True)).mean(axis=0)
        return share

    def stability(self) -> float:
        """Return the mean Kendall tau-b between the ranks of the means and of each draw; NaN if all are level."""
        found = [kendalltau(self.means, draw).statistic for draw in self.drawn]
        defined = [tau for tau in found if not isnan(tau)]
        return float(np.mean(defined)) if defined else float("nan")

    def _span(self, values: np.ndarray, method: str = "linear") -> tuple[float, float]:
        tails = [(1 - self.level) / 2, (1 + self.level) / 2]
        low, high = np.quantile(values, tails, method=method)  # type: ignore[call-overload]
        return float(low), float(high)


def resample(
    scores: np.ndarray,
    groups: Sequence[str] | None = None,
    *,
    draws: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Draws:
    """Return the draws of scores [M, R, N]: models, training runs of each, cases; higher is better.

    `groups` names the patient of each case. Runs that are missing are rows of NaN; a single run is taken as it is, so
    that the interval knows of cases alone.
    Raises ShapeError for an array of another kind, DataError for scores that are not finite or a model without a run.
    """
    runs = _checked(scores, groups)
    rng = np.random.default_rng(seed)
    weights = _case_weights(scores.shape[2], groups, draws, rng)
    drawn = np.empty((draws, len(scores)))
    for model, there in enumerate(runs):
        # a run's mean in each draw, [runs, D]
        means = scores[model, there] @ weights.T
        drawn[:, model] = means.mean(axis=0)
        if len(there) > 1:
            error = means.std(axis=0, ddof=1) / np.sqrt(len(there))
            drawn[:, model] += error * rng.standard_t(len(there) - 1, draws)
    plain = np.array([scores[model, there].mean() for model, there in enumerate(runs)])
    return Draws(plain, drawn, level)


def join(parts: Sequence[Draws]) -> Draws:
    """Return the draws of the mean over data sets, each of which was drawn for itself."""
    return Draws(
        np.mean([part.means for part in parts], axis=0), np.mean([part.drawn for part in parts], axis=0), parts[0].level
    )


def _case_weights(cases: int, groups: Sequence[str] | None, draws: int, rng: np.random.Generator) -> np.ndarray:
    """Return the weight of each case in each draw, [D, N], each row of sum 1."""
    _, owner = np.unique(np.arange(cases) if groups is None else np.asarray(groups), return_inverse=True)
    number = int(owner.max()) + 1
    counts = rng.multinomial(number, np.full(number, 1 / number), draws)[:, owner].astype(float)
    weights: np.ndarray = counts / counts.sum(axis=1, keepdims=True)
    return weights


def _checked(scores: np.ndarray, groups: Sequence[str] | None) -> list[np.ndarray]:
    """Return the indices of each model's runs."""
    if scores.ndim != 3 or not scores.shape[2]:
        raise ShapeError(f"scores of shape {scores.shape}: give models x runs x cases, with one case at least")
    if groups is not None and len(groups) != scores.shape[2]:
        raise ShapeError(f"{len(groups)} groups for {scores.shape[2]} cases; give one for each")
    runs = [np.flatnonzero(~np.isnan(of_model).all(axis=1)) for of_model in scores]
    for model, there in enumerate(runs):
        if not len(there):
            raise DataError(f"model {model} has no finished run; leave it out")
        if not np.isfinite(scores[model, there]).all():
            raise DataError(f"model {model}: a run lacks the score of a case; compare on cases that all have")
    return runs
