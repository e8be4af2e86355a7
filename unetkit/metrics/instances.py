"""How well single objects are found: average precision, panoptic quality, aggregated Jaccard index.

Instance maps [*S] hold whole numbers: 0 is background, any other value is one object, in one piece or several. The
first map is always the prediction. Numbers mean nothing beyond "same object", so that no metric depends on them.
Without an object in either map every metric is NaN; with objects in one of them only it is 0 (SQ, a mean over
matches, is NaN wherever there is no match).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from unetkit.errors import ShapeError

THRESHOLDS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
"""IoU thresholds 0.5, 0.55, ... 0.95 of the mean average precision, in DSB 2018 as in COCO."""

INSTANCE_METRICS = {
    "ap50": "AP of objects at IoU 0.5, TP / (TP + FP + FN) of each image, as DSB 2018 defines it",
    "ap75": "the same AP at IoU 0.75",
    "ap": "mean of that AP at IoU 0.5, 0.55, ... 0.95",
    "pq": "panoptic quality, SQ x RQ, of objects matched with an IoU above 0.5",
    "sq": "segmentation quality, the mean IoU of matched objects",
    "rq": "recognition quality, the F1 score of matched objects",
    "aji": "aggregated Jaccard index of the objects",
}
"""The metrics of `instance_scores`, and what each of them is."""

_RECALLS = np.linspace(0, 1, 101)


@dataclass(frozen=True, eq=False)
class Overlap:
    """Voxels that P predicted and R reference objects share [P, R], and the voxels of each of them [P], [R]."""

    shared: np.ndarray
    pred_sizes: np.ndarray
    ref_sizes: np.ndarray

    @property
    def union(self) -> np.ndarray:
        """Voxels of each pair together, [P, R]."""
        joined: np.ndarray = self.pred_sizes[:, None] + self.ref_sizes[None] - self.shared
        return joined

    @property
    def iou(self) -> np.ndarray:
        """Intersection over union of each pair, [P, R]."""
        ratio: np.ndarray = self.shared / self.union
        return ratio

    @property
    def empty(self) -> bool:
        """Whether there is no object at all."""
        return not self.shared.shape[0] and not self.shared.shape[1]


@dataclass(frozen=True)
class PanopticQuality:
    """PQ = SQ x RQ: how well matched objects agree (mean IoU), times how many are matched (F1)."""

    pq: float
    sq: float
    rq: float


def overlap(pred: np.ndarray, ref: np.ndarray) -> Overlap:
    """Count what the objects of two instance maps [*S] share. Raises ShapeError for maps of different shape."""
    if pred.shape != ref.shape:
        raise ShapeError(f"prediction {pred.shape} and reference {ref.shape} differ in shape; give one grid")
    pred_ids, rows = np.unique(pred, return_inverse=True)
    ref_ids, columns = np.unique(ref, return_inverse=True)
    pairs = rows.ravel() * len(ref_ids) + columns.ravel()
    table = np.bincount(pairs, minlength=len(pred_ids) * len(ref_ids)).reshape(len(pred_ids), len(ref_ids))
    p, r = pred_ids != 0, ref_ids != 0
    return Overlap(table[p][:, r], table.sum(1)[p], table.sum(0)[r])


def match(iou: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Return indices (predictions, references) of the most pairs possible with IoU >= threshold, each object once.

    Among as many pairs the ones of the largest total IoU win (Hungarian algorithm).
    """
    close = iou >= threshold
    # Objects do not overlap within a map, so that above a half there is nothing to choose.
    if not ((close.sum(0) > 1).any() or (close.sum(1) > 1).any()):
        rows, columns = np.nonzero(close)
        return rows, columns
    # IoUs of all pairs together must weigh less than one pair more.
    rows, columns = linear_sum_assignment(close * (1 + iou / (2 * min(iou.shape))), maximize=True)
    kept = close[rows, columns]
    return rows[kept], columns[kept]


def average_precision(found: Overlap, threshold: float = 0.5) -> float:
    """Return TP / (TP + FP + FN) of one image at an IoU threshold: AP as DSB 2018 and StarDist define it.

    Reference: Caicedo et al., Nature Methods 2019; no scores are involved, other than in `coco_average_precision`.

    >>> two, one = np.array([[1, 1, 0, 2]]), np.array([[7, 7, 0, 0]])
    >>> average_precision(overlap(two, one))
    0.5
    """
    if found.empty:
        return math.nan
    true = len(match(found.iou, threshold)[0])
    return true / (sum(found.shared.shape) - true)


def panoptic_quality(found: Overlap) -> PanopticQuality:
    """Return PQ, SQ and RQ of pairs with an IoU above 0.5 (Kirillov et al., arXiv:1801.00868)."""
    if found.empty:
        return PanopticQuality(math.nan, math.nan, math.nan)
    iou = found.iou
    matched = iou[iou > 0.5]  # such pairs are unique
    rq = 2 * len(matched) / sum(found.shared.shape)
    sq = float(matched.mean()) if len(matched) else math.nan
    return PanopticQuality(sq * rq if len(matched) else 0.0, sq, rq)


def aggregated_jaccard(found: Overlap) -> float:
    """Return the aggregated Jaccard index (Kumar et al., IEEE TMI 2017, algorithm 1).

    Each reference object takes the prediction of the largest IoU, which several may share; intersections and unions
    are summed, and predictions that nobody took add to the unions.
    """
    if found.empty:
        return math.nan
    if not all(found.shared.shape):
        return 0.0
    # Of equal IoUs the larger intersection, so that the numbers of objects do not decide.
    iou = found.iou
    ahead = np.where(iou == iou.max(0), found.shared, -1)
    best, columns = ahead.argmax(0), np.arange(iou.shape[1])
    hit = found.shared[best, columns]
    alone = hit == 0
    union = np.where(alone, found.ref_sizes, found.union[best, columns]).sum()
    taken = np.unique(best[~alone])
    return float(hit.sum() / (union + found.pred_sizes.sum() - found.pred_sizes[taken].sum()))


def instance_scores(pred: np.ndarray, ref: np.ndarray) -> dict[str, float]:
    """Return the `INSTANCE_METRICS` of two instance maps [*S]. Raises ShapeError as `overlap`."""
    found = overlap(pred, ref)
    precisions = {threshold: average_precision(found, threshold) for threshold in THRESHOLDS}
    quality = panoptic_quality(found)
    return {
        "ap50": precisions[0.5],
        "ap75": precisions[0.75],
        "ap": float(np.mean(list(precisions.values()))),
        "pq": quality.pq,
        "sq": quality.sq,
        "rq": quality.rq,
        "aji": aggregated_jaccard(found),
    }


def coco_average_precision(ious: Sequence[np.ndarray], scores: Sequence[np.ndarray], threshold: float = 0.5) -> float:
    """Return the area under the precision-recall curve of scored objects over all images, as COCO computes it.

    For each image the IoU [P, R] of its predictions, which may overlap each other, with the references, and the
    scores [P]. In the order of the scores a prediction takes the free reference of the largest IoU, at least the
    threshold; precision, made to fall, is read at 101 recalls. NaN without a reference object.
    """
    total = sum(iou.shape[1] for iou in ious)
    if not total:
        return math.nan
    hits = np.concatenate([_hits(iou, of, threshold) for iou, of in zip(ious, scores, strict=True)])
    # Stable, so that of equal scores the first image goes first, as in pycocotools.
    hits = hits[np.argsort(-np.concatenate(list(scores)), kind="stable")]
    true = np.cumsum(hits)
    recall, precision = true / total, true / np.arange(1, len(hits) + 1)
    falling = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
    return float(falling[np.searchsorted(recall, _RECALLS)].mean())


def _hits(iou: np.ndarray, scores: np.ndarray, threshold: float) -> np.ndarray:
    """Whether each prediction of an image is right, [P]."""
    hits = np.zeros(len(scores), dtype=bool)
    free = iou.copy()
    for row in np.argsort(-scores, kind="stable"):
        best = int(free[row].argmax()) if free.shape[1] else 0
        if free.shape[1] and free[row, best] >= threshold:
            hits[row] = True
            free[:, best] = -1  # taken
    return hits
