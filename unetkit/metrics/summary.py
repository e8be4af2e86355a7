"""From the scores of many cases to means, confidence intervals and counts of what was undefined."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from unetkit.metrics.case import METRICS, Scores

AGGREGATION = "mean over the classes of a case, then over cases; undefined values are left out and counted"


def bootstrap_interval(
    values: Sequence[float], *, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of the mean of finite values, one per case.

    NaN for both ends with fewer than two values. Reference: Efron and Tibshirani, 1993, chapter 13.

    >>> bootstrap_interval([0.8, 0.8, 0.8])
    (0.8, 0.8)
    """
    given = np.asarray(values, float)
    if given.size < 2:
        return math.nan, math.nan
    # Cases are drawn, never voxels: patients differ, the voxels of one patient do not count as independent.
    rng = np.random.default_rng(seed)
    means = given[rng.integers(0, given.size, (resamples, given.size))].mean(axis=1)
    # The mean of equal numbers may be off in its last digit, the interval may not.
    low, high = np.clip(np.quantile(means, [(1 - level) / 2, (1 + level) / 2]), given.min(), given.max())
    return float(low), float(high)


def _statistics(values: Iterable[float], resamples: int, seed: int) -> dict[str, Any]:
    """Summarise one number per case; NaN is left out and counted."""
    every = np.asarray(list(values), float)
    defined = every[np.isfinite(every)]
    low, high = bootstrap_interval(defined.tolist(), resamples=resamples, seed=seed)
    return {
        "mean": float(defined.mean()) if defined.size else math.nan,
        # of the sample, n - 1: other cases are what a reader asks about
        "std": float(defined.std(ddof=1)) if defined.size > 1 else math.nan,
        "median": float(np.median(defined)) if defined.size else math.nan,
        "ci95": [low, high],
        "defined": int(defined.size),
        "undefined": int(every.size - defined.size),
    }


def case_mean(scores: Scores, metric: str) -> float:
    """Return a metric's mean over the classes of one case where it is defined, else NaN."""
    values = [value for of_class in scores.values() if math.isfinite(value := of_class.get(metric, math.nan))]
    return float(np.mean(values)) if values else math.nan


def aggregate(cases: Mapping[str, Scores], *, resamples: int = 2000, seed: int = 0) -> dict[str, Any]:
    """Summarise the scores of all cases (case to class to metric to value), undefined values left out.

    `dice` is the mean foreground Dice: over the classes of a case, then over cases. `mean` holds the same for every
    metric, `classes` holds each class over the cases, `presence` counts for each class in how many cases the
    reference has it, it is absent, it is missed altogether, and it is predicted although absent. Statistics are
    mean, std, median, ci95 (bootstrap over cases), and how many values are defined and undefined.
    """
    # In the order of the first case, which is that of the classes.
    names = list(dict.fromkeys(name for scores in cases.values() for name in scores))
    metrics = [
        metric for metric in METRICS if any(metric in of_class for case in cases.values() for of_class in case.values())
    ]
    mean = {m: _statistics((case_mean(scores, m) for scores in cases.values()), resamples, seed) for m in metrics}
    return {
        "dice": mean["dice"]["mean"] if "dice" in mean else math.nan,
        "cases": len(cases),
        "aggregation": AGGREGATION,
        "mean": mean,
        "classes": {
            name: {
                m: _statistics((s[name].get(m, math.nan) for s in cases.values() if name in s), resamples, seed)
                for m in metrics
            }
            for name in names
        },
        "presence": {name: _presence([s[name] for s in cases.values() if name in s]) for name in names},
    }


def _presence(scores: Sequence[Mapping[str, float]]) -> dict[str, int]:
    pairs = [(of_case["reference_voxels"] > 0, of_case["predicted_voxels"] > 0) for of_case in scores]
    return {
        "present": sum(there for there, _ in pairs),
        "absent": sum(not there for there, _ in pairs),
        "missed": sum(there and not found for there, found in pairs),
        "false_alarms": sum(found and not there for there, found in pairs),
    }
