"""What scores of models on known data sets let expect on another one, and whether its traits help to expect it.

`gains` [K, M] are scores of M models on K data sets, less the mean of each data set. The plain rule expects their mean;
the rule of traits a mean weighed by similarity (Nadaraya and Watson, 1964), whose bandwidth leaves data sets out. How
far another data set may be off is told by how far the known ones were when left out, seeds and cases included: for the
plain rule that is Student's predictive interval, which covers as it says however few they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from math import inf

import numpy as np
from scipy.stats import kendalltau

from unetkit.bench.resampling import Draws
from unetkit.bench.similarity import weigh

BANDWIDTHS = (inf, 2.0, 1.0, 0.5, 0.25)
FEWEST = 3
"""Data sets without which nothing is said of another one."""
LEVEL = 0.05
_EXACT, _RANDOM = 12, 4096
_TINY = 1e-12


@dataclass(frozen=True, eq=False)
class Trial:
    """Both rules on data sets that were left out: score lost by each rule's first choice, and Kendall's tau, each [K].

    `p` is of the traits' rule ranking better by chance (one-sided sign flips of tau over data sets). Every data set
    counts there, while the same first choice by both rules would leave few whose loss differs.
    """

    plain: np.ndarray
    traits: np.ndarray
    tau_plain: np.ndarray
    tau_traits: np.ndarray
    p: float

    @property
    def helps(self) -> bool:
        """Tell whether traits rank better beyond chance, and lose no more by their first choice."""
        return self.p <= LEVEL and float(self.traits.mean()) <= float(self.plain.mean())

    @property
    def can_help(self) -> bool:
        """Tell whether so few data sets could show it at all."""
        return 0.5 ** len(self.plain) <= LEVEL


def expect(gains: np.ndarray, distances: np.ndarray, bandwidth: float) -> np.ndarray:
    """Return the gains [M] to expect on a data set at these distances [K]."""
    found: np.ndarray = weigh(distances, bandwidth) @ gains
    return found


def best_bandwidth(gains: np.ndarray, distances: np.ndarray) -> float:
    """Return the bandwidth that foretells best the gains of data sets left out, [K, M] with distances [K, K].

    Infinite, the plain rule, where none is better.
    """
    errors = [float(((left_out(gains, distances, width) - gains) ** 2).sum()) for width in BANDWIDTHS]
    return BANDWIDTHS[int(np.argmin(errors))]


def try_rules(gains: np.ndarray, distances: np.ndarray) -> Trial:
    """Return how both rules fare on each of K data sets, at least 4, by the others alone, bandwidth included."""
    plain = left_out(gains, distances, inf)
    traits = np.empty_like(gains)
    for left in range(len(gains)):
        rest = np.arange(len(gains)) != left
        width = best_bandwidth(gains[rest], distances[np.ix_(rest, rest)])
        traits[left] = expect(gains[rest], distances[left, rest], width)
    tau_plain, tau_traits = _agreement(gains, plain), _agreement(gains, traits)
    return Trial(_lost(gains, plain), _lost(gains, traits), tau_plain, tau_traits, sign_flips(tau_traits - tau_plain))


def foresee(expected: np.ndarray, off: np.ndarray, share: float, draws: int = 20000, seed: int = 0) -> Draws:
    """Return draws of the gains [M] that another data set may show.

    `expected` [M] are drawn towards 0 by as much as chance alone would spread them; `off` [K, M] is how far they were
    off where a data set was left out, `share` the sum of the squared weights. Draws mix whole data sets, so that models
    that fail together do so here, and, for K data sets are few, some of each model for itself.
    """
    rng = np.random.default_rng(seed)
    count = len(off)
    # of a plain mean, exactly the variance of Student's predictive interval
    spread = (off**2).mean(axis=0) * (count**2 - 1) / count**2
    chance = share * float(spread.sum()) / (1 + 1 / count)
    mean = expected * max(0.0, 1 - chance / max(float((expected**2).sum()), _TINY))
    own = 1 / (count - 1)
    together = rng.normal(size=(draws, count)) @ off * np.sqrt((count**2 - 1) / count**3)
    mixed = np.sqrt(1 - own) * together + np.sqrt(own) * rng.normal(size=(draws, len(mean))) * np.sqrt(spread)
    return Draws(mean, mean + np.sqrt((count - 1) / rng.chisquare(count - 1, (draws, 1))) * mixed)


def sign_flips(differences: np.ndarray) -> float:
    """Return p, one-sided, of paired differences [K] above 0 in the mean: the share of signs that give as much."""
    signs = (
        np.array(list(product((1, -1), repeat=len(differences))))
        if len(differences) <= _EXACT
        else np.random.default_rng(0).choice((1, -1), (_RANDOM, len(differences)))
    )
    # the signs as they are count among the random ones, so that p is never 0
    reached = (signs @ differences >= differences.sum() - _TINY).sum()
    extra = len(differences) > _EXACT
    return float((reached + extra) / (len(signs) + extra))


def left_out(gains: np.ndarray, distances: np.ndarray, bandwidth: float) -> np.ndarray:
    """Return for each data set what the others let expect, [K, M]."""
    every = np.arange(len(gains))
    return np.stack([expect(gains[every != k], distances[k, every != k], bandwidth) for k in every])


def _lost(gains: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Return how much less than the best model of each data set the first choice has, [K]; the mean of several."""
    firsts = expected >= expected.max(axis=1, keepdims=True) - _TINY
    return gains.max(axis=1) - (gains * firsts).sum(axis=1) / firsts.sum(axis=1)


def _agreement(gains: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Return Kendall's tau-b between what was expected and what came, [K]; 0 where all was expected alike."""
    return np.nan_to_num([kendalltau(a, b).statistic for a, b in zip(gains, expected, strict=True)])
