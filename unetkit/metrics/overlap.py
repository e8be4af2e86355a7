"""Voxel counts: Dice, IoU, precision, recall and volume difference.

Reference: Taha and Hanbury, "Metrics for evaluating 3D medical image segmentation", BMC Medical Imaging 15, 2015.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from unetkit.errors import ShapeError


def check_masks(pred: np.ndarray, ref: np.ndarray, spacing: Sequence[float] | None = None) -> None:
    """Refuse masks that cannot be compared.

    Raises ShapeError if they are not boolean, differ in shape, have other than 2 or 3 axes, or if `spacing`
    is not one positive finite number per axis.
    """
    # Label maps are refused, not cast: as booleans all their classes would be one.
    for name, mask in (("prediction", pred), ("reference", ref)):
        if not isinstance(mask, np.ndarray) or mask.dtype != bool:
            given = mask.dtype if isinstance(mask, np.ndarray) else type(mask).__name__
            raise ShapeError(f"the {name} is {given}, masks are boolean arrays; compare first, as in labels == 1")
    if pred.shape != ref.shape:
        raise ShapeError(f"prediction {pred.shape} and reference {ref.shape} differ in shape; give the same grid")
    if pred.ndim not in (2, 3):
        raise ShapeError(f"masks of shape {pred.shape} have {pred.ndim} axes, 2 or 3 are allowed; drop the others")
    if spacing is not None:
        check_spacing(spacing, pred.ndim)


def check_spacing(spacing: Sequence[float], dims: int) -> None:
    """Raise ShapeError if a spacing is not one positive finite number in mm for each of `dims` axes."""
    if len(spacing) != dims or not all(math.isfinite(s) and s > 0 for s in spacing):
        raise ShapeError(f"spacing {tuple(spacing)} for masks of {dims} axes; give one positive number per axis")


def _count(mask: np.ndarray) -> int:
    return int(np.count_nonzero(mask))


def _ratio(part: int, whole: int) -> float:
    # 0 / 0 is left undefined here: whether an absent class counts, and as what, is a rule for `evaluate_case`.
    return part / whole if whole else math.nan


def dice(pred: np.ndarray, ref: np.ndarray) -> float:
    """Return the Dice coefficient 2|P and R| / (|P| + |R|), 0 to 1; NaN if both masks are empty.

    Raises ShapeError for masks that cannot be compared. Reference: Dice, Ecology 26(3), 1945.

    >>> dice(np.array([[True, True, False]]), np.array([[False, True, False]]))
    0.6666666666666666
    """
    check_masks(pred, ref)
    return _ratio(2 * _count(pred & ref), _count(pred) + _count(ref))


def iou(pred: np.ndarray, ref: np.ndarray) -> float:
    """Return the intersection over union |P and R| / |P or R|, 0 to 1; NaN if both masks are empty.

    Raises ShapeError for masks that cannot be compared. Reference: Jaccard, New Phytologist 11(2), 1912.

    >>> iou(np.array([[True, True, False]]), np.array([[False, True, False]]))
    0.5
    """
    check_masks(pred, ref)
    return _ratio(_count(pred & ref), _count(pred | ref))


def precision(pred: np.ndarray, ref: np.ndarray) -> float:
    """Return the share of the prediction that is right, |P and R| / |P|; NaN if nothing is predicted.

    Raises ShapeError for masks that cannot be compared.

    >>> precision(np.array([[True, True, False]]), np.array([[False, True, False]]))
    0.5
    """
    check_masks(pred, ref)
    return _ratio(_count(pred & ref), _count(pred))


def recall(pred: np.ndarray, ref: np.ndarray) -> float:
    """Return the share of the reference that is found, |P and R| / |R|; NaN if the reference is empty.

    Raises ShapeError for masks that cannot be compared.

    >>> recall(np.array([[True, True, False]]), np.array([[False, True, False]]))
    1.0
    """
    check_masks(pred, ref)
    return _ratio(_count(pred & ref), _count(ref))


def volume_difference(pred: np.ndarray, ref: np.ndarray) -> float:
    """Return the relative volume difference (|P| - |R|) / |R|: negative if too little is predicted.

    NaN if the reference is empty. Raises ShapeError for masks that cannot be compared.

    >>> volume_difference(np.array([[True, True, False]]), np.array([[False, True, False]]))
    1.0
    """
    check_masks(pred, ref)
    reference = _count(ref)
    return _ratio(_count(pred) - reference, reference)
