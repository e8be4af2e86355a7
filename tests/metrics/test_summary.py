"""Means, intervals and counts over cases."""

import math

import numpy as np
import pytest

from unetkit.metrics import aggregate, bootstrap_interval


def scores(dice: float, predicted: int, reference: int) -> dict[str, float]:
    return {"dice": dice, "predicted_voxels": float(predicted), "reference_voxels": float(reference)}


CASES = {
    "a": {"liver": scores(0.9, 90, 100), "spleen": scores(0.5, 10, 10)},
    "b": {"liver": scores(0.7, 80, 100), "spleen": scores(math.nan, 5, 0)},
    "c": {"liver": scores(0.0, 0, 100), "spleen": scores(math.nan, 0, 0)},
}


def test_mean_goes_over_classes_then_cases():
    summary = aggregate(CASES)
    assert summary["dice"] == pytest.approx((0.7 + 0.7 + 0.0) / 3)
    assert summary["classes"]["liver"]["dice"]["mean"] == pytest.approx(1.6 / 3)
    assert summary["classes"]["spleen"]["dice"]["mean"] == 0.5
    assert summary["cases"] == 3


def test_undefined_values_are_counted():
    spleen = aggregate(CASES)["classes"]["spleen"]["dice"]
    assert (spleen["defined"], spleen["undefined"]) == (1, 2)
    assert all(math.isnan(end) for end in spleen["ci95"])


def test_presence_counts_misses_and_false_alarms():
    presence = aggregate(CASES)["presence"]
    assert presence["liver"] == {"present": 3, "absent": 0, "missed": 1, "false_alarms": 0}
    assert presence["spleen"] == {"present": 1, "absent": 2, "missed": 0, "false_alarms": 1}


def test_no_cases_give_an_undefined_dice():
    assert math.isnan(aggregate({})["dice"])


def test_interval_covers_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(3)
    hits = 0
    for trial in range(200):
        low, high = bootstrap_interval(rng.normal(0.8, 0.1, 40).tolist(), resamples=400, seed=trial)
        hits += low <= 0.8 <= high
    assert 0.89 <= hits / 200 <= 0.99


def test_interval_is_the_same_for_the_same_seed():
    values = [0.2, 0.9, 0.6, 0.7]
    assert bootstrap_interval(values) == bootstrap_interval(values)
