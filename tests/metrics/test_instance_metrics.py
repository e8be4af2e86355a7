"""Instance metrics against values worked out by hand, and what must not matter."""

import math

import numpy as np
import pytest

from unetkit.errors import ShapeError
from unetkit.metrics.instances import (
    THRESHOLDS,
    aggregated_jaccard,
    average_precision,
    coco_average_precision,
    instance_scores,
    match,
    overlap,
    panoptic_quality,
)


def _row(*runs: tuple[int, int]) -> np.ndarray:
    """A map of one row from (number, length) pairs."""
    return np.concatenate([np.full(length, number) for number, length in runs])[None]


# Ten pixels against eight of them: IoU 0.8. Ten against six: 0.6. One object missed, one invented.
REF = _row((1, 10), (0, 5), (2, 10), (0, 5), (3, 4), (0, 6))
PRED = _row((5, 8), (0, 7), (9, 6), (0, 9), (0, 4), (0, 2), (4, 4))


def test_values_by_hand() -> None:
    found = overlap(PRED, REF)
    assert found.shared.shape == (3, 3)
    # IoU 0.8 and 0.6 are matched, one false positive, one false negative
    assert average_precision(found, 0.5) == pytest.approx(2 / 4)
    assert average_precision(found, 0.6) == pytest.approx(2 / 4)
    assert average_precision(found, 0.75) == pytest.approx(1 / 5)
    assert average_precision(found, 0.85) == 0
    quality = panoptic_quality(found)
    assert quality.sq == pytest.approx(0.7)
    assert quality.rq == pytest.approx(2 / 3)
    assert quality.pq == pytest.approx(0.7 * 2 / 3)
    # intersections 8 + 6 over unions 10 + 10, the missed 4 and the invented 4
    assert aggregated_jaccard(found) == pytest.approx(14 / 28)
    scores = instance_scores(PRED, REF)
    # 0.5, 0.55, 0.6: two matches; 0.65 to 0.8: one; above none
    assert scores["ap"] == pytest.approx((3 * 0.5 + 4 * 0.2) / 10)
    assert (scores["ap50"], scores["ap75"]) == (0.5, 0.2)


def test_thresholds_are_those_of_dsb2018() -> None:
    assert THRESHOLDS == (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)


def test_halves_are_matched_once() -> None:
    ref, pred = _row((1, 10)), _row((1, 5), (2, 5))
    # each half has an IoU of exactly 0.5 with the whole, only one of them can be it
    assert average_precision(overlap(pred, ref), 0.5) == pytest.approx(1 / 2)
    assert panoptic_quality(overlap(pred, ref)).pq == 0  # PQ wants more than a half
    # 5 of 10, and the half that nobody took adds its 5
    assert aggregated_jaccard(overlap(pred, ref)) == pytest.approx(5 / 15)


def test_matching_prefers_more_pairs_to_better_ones() -> None:
    iou = np.array([[0.6, 0.5], [0.5, 0.0]])
    rows, columns = match(iou, 0.4)
    assert sorted(zip(rows.tolist(), columns.tolist(), strict=True)) == [(0, 1), (1, 0)]


@pytest.mark.parametrize("shape", [(24, 30), (8, 12, 10)])
def test_numbers_axes_and_scale_do_not_matter(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(3)
    coarse = [rng.integers(0, 5, tuple(n // 2 for n in shape)) for _ in range(2)]
    pred, ref = (np.kron(c, np.ones((2,) * len(shape), int)) for c in coarse)
    ref[pred == 1] = 1  # something to match
    scores = instance_scores(pred, ref)
    other = np.concatenate([[0], rng.permutation(np.arange(1, 5)) * 1000])
    assert instance_scores(other[pred], ref) == pytest.approx(scores, nan_ok=True)
    assert instance_scores(pred, other[ref]) == pytest.approx(scores, nan_ok=True)
    assert instance_scores(pred.T, ref.T) == pytest.approx(scores, nan_ok=True)
    larger = [np.kron(m, np.ones((2,) * len(shape), int)) for m in (pred, ref)]
    assert instance_scores(*larger) == pytest.approx(scores, nan_ok=True)


def test_perfect_and_empty_maps() -> None:
    empty = np.zeros_like(REF)
    assert set(instance_scores(REF, REF).values()) == {1.0}
    assert all(math.isnan(value) for value in instance_scores(empty, empty).values())
    for pred, ref in ((REF, empty), (empty, REF)):
        scores = instance_scores(pred, ref)
        assert math.isnan(scores.pop("sq"))
        assert set(scores.values()) == {0.0}


def test_maps_of_two_shapes_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"prediction \(1, 40\) and reference \(1, 39\) differ"):
        overlap(PRED, REF[:, :-1])


def test_scored_precision_by_hand() -> None:
    # By score: right, wrong, right. Precision 1, 1/2, 2/3 at recall 1/2, 1/2, 1: the best from each recall on is 1
    # for recalls up to 0.5 (51 of 101) and 2/3 for the others.
    iou = np.array([[0.9, 0.0], [0.8, 0.1], [0.0, 0.7]])
    scores = np.array([0.9, 0.8, 0.3])
    expected = (51 + 50 * 2 / 3) / 101
    assert coco_average_precision([iou], [scores]) == pytest.approx(expected)
    # the same over two images
    split = [iou[:2, :1], iou[2:, 1:]], [scores[:2], scores[2:]]
    assert coco_average_precision(*split) == pytest.approx(expected)
    assert coco_average_precision([iou], [scores], 0.75) == pytest.approx(51 / 101)


def test_scored_precision_without_objects() -> None:
    assert math.isnan(coco_average_precision([np.zeros((1, 0))], [np.array([0.5])]))
    assert coco_average_precision([np.zeros((0, 2))], [np.zeros(0)]) == 0
