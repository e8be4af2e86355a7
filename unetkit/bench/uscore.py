"""U-Score: accuracy and cost of a network in one number from 5 to 100 (U-Bench, arXiv:2510.07041).

The harmonic mean of accuracy and efficiency, where efficiency is the harmonic mean of parameters, operations and speed,
each spread between anchors. As in the calculator of its authors no part falls below 0.05: their equations have no such
floor, and one part of 0 would settle the score alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite, log

from unetkit.bench.anchors import Anchors, ubench_anchors
from unetkit.errors import DataError

FLOOR = 0.05
_LEAST_SPAN = 1e-12


@dataclass(frozen=True)
class Parts:
    """What a U-Score is made of: each part from 0 to 1 before the floor, efficiency, and the score from 5 to 100."""

    accuracy: float
    params: float
    gmacs: float
    speed: float
    efficiency: float
    score: float
    anchors: str


def u_score(
    *,
    iou: float,
    params_m: float,
    gmacs: float,
    fps: float,
    anchors: str | Anchors = "ubench:busi",
    weights: Sequence[float] = (1, 1, 1),
    alpha: float = 0.5,
) -> float:
    """Return the U-Score, 5 to 100, of a network on a data set.

    `iou` from 0 to 1; `params_m` trainable parameters in millions; `gmacs` billions of multiply-accumulates an image;
    `fps` images per second. `anchors`: "ubench:DATASET" or Anchors. `weights` are of parameters, operations and speed;
    `alpha` is the share of accuracy.
    Raises DataError for values out of range or an unknown data set.
    """
    return u_score_parts(iou, params_m, gmacs, fps, read_anchors(anchors), weights, alpha).score


def u_score_parts(
    iou: float,
    params_m: float,
    gmacs: float,
    fps: float,
    anchors: Anchors,
    weights: Sequence[float] = (1, 1, 1),
    alpha: float = 0.5,
) -> Parts:
    """Return a U-Score with its parts; arguments and errors as `u_score`."""
    _check(iou, {"params_m": params_m, "gmacs": gmacs, "fps": fps}, weights, alpha)
    a = _share(iou, anchors.iou)
    p = _share(-log(params_m), _negative(anchors.log_params))
    g = _share(-log(gmacs), _negative(anchors.log_gmacs))
    s = _share(fps, anchors.fps)
    efficiency = sum(weights) / sum(w / max(part, FLOOR) for w, part in zip(weights, (p, g, s), strict=True))
    score = 1 / (alpha / max(a, FLOOR) + (1 - alpha) / efficiency)
    return Parts(a, p, g, s, efficiency, 100 * score, anchors.name)


def read_anchors(anchors: str | Anchors) -> Anchors:
    """Return the anchors that a name like "ubench:kvasir" stands for. Raises DataError for a name that is none."""
    if isinstance(anchors, Anchors):
        return anchors
    kind, _, dataset = anchors.partition(":")
    if kind != "ubench":
        raise DataError(f"anchors '{anchors}': give 'ubench:DATASET', or Anchors of a cohort")
    return ubench_anchors(dataset)


def _share(value: float, span: tuple[float, float]) -> float:
    low, high = span
    return min(max((value - low) / max(high - low, _LEAST_SPAN), 0.0), 1.0)


def _negative(span: tuple[float, float]) -> tuple[float, float]:
    # Of a cost less is better.
    return -span[1], -span[0]


def _check(iou: float, costs: dict[str, float], weights: Sequence[float], alpha: float) -> None:
    if not 0 <= iou <= 1:
        raise DataError(f"u_score: iou={iou}; give a share from 0 to 1, not percent")
    for key, value in costs.items():
        if not (isfinite(value) and value > 0):
            raise DataError(f"u_score: {key}={value}; give a number above 0")
    if len(weights) != 3 or not all(isfinite(w) and w >= 0 for w in weights) or not sum(weights):
        raise DataError(f"u_score: weights={tuple(weights)}; give three, not negative, of parameters, gmacs and fps")
    if not 0 <= alpha <= 1:
        raise DataError(f"u_score: alpha={alpha}; give a share from 0 to 1")
