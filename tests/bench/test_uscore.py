"""U-Score against the calculator of its authors."""

import numpy as np
import pytest

import unetkit
from unetkit.bench import cohort_anchors, u_score, u_score_parts, ubench_anchors
from unetkit.bench.anchors import UBENCH_UNET_FPS
from unetkit.errors import DataError

# data set, IoU, parameters in millions, "GFLOPs" (multiply-accumulates), images a second; then the parts, efficiency
# and score of the JavaScript on the project page, which was run on these numbers.
VECTORS = [
    ("busi", 0.6557507, 34.527041, 65.522368512, UBENCH_UNET_FPS, 0.587669, 0.198030, 0.005304, 1, 0.115164, 19.258756),
    ("busi", 0.7, 3.149185, 7.41773312, 150, 0.948877, 0.807343, 0.661484, 1, 0.799918, 86.805367),
    ("busi", 0.72, 0.5, 0.6, 200, 1, 1, 1, 1, 1, 100),
    ("busi", 0.5, 120, 250, 10, 0, 0, 0, 0, 0.05, 5),
    ("busi", 0.645, 10, 20, 60, 0.499911, 0.513337, 0.362731, 0.366923, 0.403754, 44.671653),
    ("busbra", 0.82, 2.321393, 4.892515328, 100, 0.691613, 0.884945, 0.786835, 0.777812, 0.813761, 74.773123),
]
GIVEN = {"iou": 0.7, "params_m": 3.0, "gmacs": 7.0, "fps": 100.0}


@pytest.mark.parametrize("vector", VECTORS, ids=lambda v: f"{v[0]}-{v[1]}")
def test_the_score_is_that_of_the_published_calculator(vector):
    dataset, iou, params, gmacs, fps, *parts, efficiency, score = vector
    found = u_score_parts(iou, params, gmacs, fps, ubench_anchors(dataset))
    assert (found.accuracy, found.params, found.gmacs, found.speed) == pytest.approx(parts, abs=1e-6)
    assert found.efficiency == pytest.approx(efficiency, abs=1e-6)
    assert found.score == pytest.approx(score, abs=1e-6)
    named = unetkit.bench.u_score(iou=iou, params_m=params, gmacs=gmacs, fps=fps, anchors=f"ubench:{dataset}")
    assert named == found.score


def test_equal_weights_of_any_size_are_the_same():
    assert u_score(**GIVEN, weights=(0.33, 0.33, 0.33)) == pytest.approx(u_score(**GIVEN))


def test_alpha_of_one_is_accuracy_alone():
    parts = u_score_parts(0.7, 3, 7, 100, ubench_anchors("busi"), alpha=1)
    assert parts.score == pytest.approx(100 * parts.accuracy)


def test_a_cohort_of_equal_models_has_anchors_without_span_and_finite_scores():
    anchors = cohort_anchors([(0.5, 2, 4, 50)] * 3)
    assert np.isfinite(u_score(iou=0.5, params_m=2, gmacs=4, fps=50, anchors=anchors))


def test_cohort_anchors_are_quantiles_of_the_models():
    models = np.arange(11)
    anchors = cohort_anchors(np.stack([models / 10, np.exp(models), np.exp(models), models], axis=1))
    assert anchors.iou == pytest.approx((0.1, 0.9))
    assert anchors.log_params == anchors.log_gmacs == pytest.approx((1, 9))
    best = u_score_parts(0.9, np.e, np.e, 9, anchors)
    assert best.score == pytest.approx(100)


@pytest.mark.parametrize(
    "wrong", [(0.5, 0, 4, 50), (0.5, 2, -4, 50), (0.5, 2, 4, -1), (55, 2, 4, 50), (0.5, 2, 4, np.nan)]
)
def test_a_cohort_of_numbers_out_of_range_has_no_anchors(wrong):
    with pytest.raises(DataError, match="anchors of a cohort: give"):
        cohort_anchors([(0.5, 2, 4, 50), wrong])


def test_anchors_move_with_the_speed_of_unet_on_the_machine():
    there, here = ubench_anchors("busi"), ubench_anchors("busi").on_machine(UBENCH_UNET_FPS / 10)
    assert u_score_parts(0.7, 3, 7, 8, here).score == pytest.approx(u_score_parts(0.7, 3, 7, 80, there).score)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"iou": 65.5}, "share from 0 to 1, not percent"),
        ({"iou": float("nan")}, "share from 0 to 1"),
        ({"params_m": 0}, "params_m=0; give a number above 0"),
        ({"fps": float("inf")}, "fps=inf"),
        ({"anchors": "ubench:bussi"}, "did you mean 'busi'"),
        ({"anchors": "busi"}, "give 'ubench:DATASET'"),
        ({"weights": (1, 1)}, "give three"),
        ({"weights": (float("nan"), 1, 1)}, "give three, not negative"),
        ({"alpha": 2}, "alpha=2"),
    ],
)
def test_numbers_out_of_range_are_refused(changed, told):
    with pytest.raises(DataError, match=told):
        u_score(**{**GIVEN, **changed})
