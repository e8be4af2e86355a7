"""Which models differ: Wilcoxon's signed-rank test of every pair, Holm's correction, cliques, and the cases it takes.

The blocks are what the scores are paired by: the cases of a data set, or data sets. Demsar, JMLR 2006, for ranks over
blocks and the diagram; Benavoli et al., JMLR 2016, for Wilcoxon and Holm in place of Nemenyi's test, whose outcome for
a pair depends on which other models took part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import ceil, inf, sqrt

import numpy as np
from scipy.stats import friedmanchisquare, rankdata, t, wilcoxon

from unetkit.errors import ShapeError

WILCOXON_EFFICIENCY = 3 / np.pi
"""Of the signed-rank test beside the t-test where differences are normal (asymptotic relative efficiency)."""


@dataclass(frozen=True)
class Comparison:
    """Mean ranks [M] over blocks, p of Friedman's test, p of each pair after Holm [M, M], and cliques.

    A clique is a set of models, best first, no two of which differ; sets within others are left out.
    """

    ranks: np.ndarray
    friedman: float
    p: np.ndarray
    cliques: tuple[tuple[int, ...], ...]
    blocks: int
    level: float

    def can_differ(self) -> bool:
        """Tell whether so few blocks could show any difference at all between so many models."""
        return smallest_p(self.blocks) * len(self.ranks) * (len(self.ranks) - 1) / 2 <= self.level


def compare(scores: np.ndarray, level: float = 0.05, alike: np.ndarray | None = None) -> Comparison:
    """Compare models by scores [M, N], higher is better, paired over N blocks.

    `alike` [M, M] are pairs that count as no different whatever p is, since something that the blocks do not hold, as
    the chance of training, may have made the difference.
    Raises ShapeError below two models or blocks.
    """
    if scores.ndim != 2 or min(scores.shape) < 2:
        raise ShapeError(f"scores of shape {scores.shape}: give two models and two blocks at least")
    models = len(scores)
    # Of floats that were rounded on the way, equal ones count as equal.
    exact = np.round(scores, 9)
    ranks = rankdata(-exact, axis=0).mean(axis=1)
    pairs = list(combinations(range(models), 2))
    raw = [signed_rank(exact[a] - exact[b]) for a, b in pairs]
    p = np.ones((models, models))
    for (a, b), value in zip(pairs, holm(raw), strict=True):
        p[a, b] = p[b, a] = value
    level_all = friedmanchisquare(*exact).pvalue if models > 2 else raw[0]
    # Where all blocks are level the statistic is 0 / 0.
    overall = 1.0 if np.isnan(level_all) else float(level_all)
    same = p > level if alike is None else (p > level) | alike
    return Comparison(ranks, overall, p, _cliques(ranks, same), scores.shape[1], level)


def signed_rank(differences: np.ndarray) -> float:
    """Return p, two-sided, of Wilcoxon's signed-rank test of differences [N]; 1 where all are 0."""
    if not np.any(differences):
        return 1.0
    # Zeros are ranked with the rest (Pratt): leaving them out would forget that the models were level there.
    return float(wilcoxon(differences, zero_method="pratt").pvalue)


def smallest_p(blocks: int) -> float:
    """Return the smallest p, two-sided, that the signed-rank test can give for so many blocks."""
    return min(1.0, 2.0 ** (1 - blocks))


def holm(p: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number (Holm, 1979): the chance of any false claim stays below the level."""
    order = np.argsort(p)
    corrected, reached = [0.0] * len(p), 0.0
    for step, index in enumerate(order):
        reached = max(reached, min(1.0, (len(p) - step) * p[index]))
        corrected[index] = reached
    return corrected


def cases_needed(differences: np.ndarray, power: float = 0.8, level: float = 0.05) -> float:
    """Return how many cases it takes to show the mean of paired differences [N]; inf where it is 0.

    For the signed-rank test, two-sided, of differences spread as the given ones; by Student's distribution, as few
    cases leave their spread uncertain.
    """
    mean, spread = float(np.mean(differences)), float(np.std(differences, ddof=1))
    if mean == 0:
        return inf
    # Below six cases the test cannot reach the usual level whatever the differences.
    cases = max(ceil(_needed(spread / mean, inf, power, level)), 1 + ceil(-np.log2(level)))
    while _needed(spread / mean, cases - 1, power, level) > cases:
        cases += 1
    return cases


def _needed(spread: float, freedom: float, power: float, level: float) -> float:
    """Return the cases for a spread in units of the mean, if so many degrees of freedom tell of it."""
    reach = float(t.isf(level / 2, freedom) + t.isf(1 - power, freedom))
    return (reach * spread) ** 2 / WILCOXON_EFFICIENCY


def false_win(differences: np.ndarray) -> float:
    """Return the chance that the model with the better mean is not the better one (arXiv:2505.04720): 0 to 0.5."""
    count, mean, spread = len(differences), float(np.mean(differences)), float(np.std(differences, ddof=1))
    if spread == 0:
        return 0.5 if mean == 0 else 0.0
    return float(t.sf(sqrt(count) * abs(mean) / spread, count - 1))


def _cliques(ranks: np.ndarray, same: np.ndarray) -> tuple[tuple[int, ...], ...]:
    """Return the runs of models in order of rank within which every pair is the same, the largest ones alone."""
    order = [int(i) for i in np.argsort(ranks, kind="stable")]
    found: list[tuple[int, ...]] = []
    for start in range(len(order)):
        end = start
        while end + 1 < len(order) and all(same[order[end + 1], member] for member in order[start : end + 1]):
            end += 1
        clique = tuple(order[start : end + 1])
        if len(clique) > 1 and not any(set(clique) <= set(other) for other in found):
            found.append(clique)
    return tuple(found)
