"""Voxel counts against hand-made masks, and what masks are refused."""

import math

import numpy as np
import pytest

from unetkit.errors import ShapeError
from unetkit.metrics import dice, hd95, iou, precision, recall, volume_difference

PRED = np.array([[1, 1, 1, 0], [0, 0, 0, 0]], bool)
REF = np.array([[0, 1, 1, 0], [0, 1, 1, 0]], bool)
EMPTY = np.zeros_like(REF)
OVERLAPS = (dice, iou, precision, recall, volume_difference)


@pytest.mark.parametrize(
    ("metric", "value"),
    [(dice, 4 / 7), (iou, 2 / 5), (precision, 2 / 3), (recall, 1 / 2), (volume_difference, -1 / 4)],
)
def test_value_by_hand(metric, value):
    assert metric(PRED, REF) == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize("metric", OVERLAPS)
def test_perfect_mask(metric):
    assert metric(REF, REF) == (0.0 if metric is volume_difference else 1.0)


@pytest.mark.parametrize("metric", OVERLAPS)
def test_two_empty_masks_are_undefined(metric):
    assert math.isnan(metric(EMPTY, EMPTY))


def test_one_empty_mask():
    assert [m(EMPTY, REF) for m in (dice, iou, recall, volume_difference)] == [0.0, 0.0, 0.0, -1.0]
    assert [m(REF, EMPTY) for m in (dice, iou, precision)] == [0.0, 0.0, 0.0]
    assert all(math.isnan(v) for v in (precision(EMPTY, REF), recall(REF, EMPTY), volume_difference(REF, EMPTY)))


@pytest.mark.parametrize("metric", OVERLAPS)
@pytest.mark.parametrize(
    ("pred", "ref", "said"),
    [
        (PRED.astype(np.uint8), REF, "the prediction is uint8, masks are boolean arrays"),
        (PRED, REF.tolist(), "the reference is list, masks are boolean arrays"),
        (PRED, REF[:, :3], r"prediction \(2, 4\) and reference \(2, 3\) differ in shape"),
        (PRED[0], REF[0], r"masks of shape \(4,\) have 1 axes, 2 or 3 are allowed"),
    ],
)
def test_malformed_masks_are_refused(metric, pred, ref, said):
    with pytest.raises(ShapeError, match=said):
        metric(pred, ref)


@pytest.mark.parametrize("spacing", [(1.0,), (1.0, 0.0), (1.0, math.nan), (1.0, -2.0), (1.0, math.inf)])
def test_malformed_spacing_is_refused(spacing):
    with pytest.raises(ShapeError, match="give one positive number per axis"):
        hd95(PRED, REF, spacing)
