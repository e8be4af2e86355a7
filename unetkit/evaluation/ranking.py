"""The average precision of objects that have scores: over all cases at once, in the order of the scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from unetkit.metrics.instances import THRESHOLDS, coco_average_precision, overlap
from unetkit.types import IGNORE, instance_numbers

RANKED = (
    "AP ranked by scores over all cases, as COCO computes it (101 recalls), mean of IoU 0.5 to 0.95, and at 0.5; of "
    "objects that do not overlap, without those below the threshold of the prediction"
)


@dataclass(frozen=True, eq=False)
class RankedCase:
    """The IoU [P, R] of predicted with reference objects of a case, and the scores [P]."""

    iou: np.ndarray
    scores: np.ndarray


def ranked_case(pred: np.ndarray, ref: np.ndarray, scores: np.ndarray) -> RankedCase:
    """Compare encoded labels of instances uint8 [4, *S]; `scores` [N] are of the predicted objects 1 to N.

    What is ignored in either map belongs to no object.
    """
    ignored = (pred[0] == IGNORE) | (ref[0] == IGNORE)
    numbers, truth = (np.where(ignored, 0, instance_numbers(encoded)) for encoded in (pred, ref))
    present = np.unique(numbers)
    return RankedCase(overlap(numbers, truth).iou, scores[present[present > 0].astype(int) - 1])


def ranked_precision(cases: Sequence[RankedCase]) -> dict[str, float]:
    """Return `ranked_ap` and `ranked_ap50` of all cases together; NaN without a reference object."""
    ious, scores = [case.iou for case in cases], [case.scores for case in cases]
    values = [coco_average_precision(ious, scores, threshold) for threshold in THRESHOLDS]
    return {"ranked_ap": float(np.mean(values)), "ranked_ap50": values[0]}
