"""Worlds in which traits decide, or nothing does: what the forecast makes of them."""

from dataclasses import replace
from math import inf

import numpy as np
import pytest
from scipy.stats import t

from unetkit.bench.forecast import best_bandwidth, expect, foresee, left_out, sign_flips, try_rules
from unetkit.bench.similarity import SCALES, distance, weigh
from unetkit.bench.traits import Traits


def traits(**changed):
    values = {"modality": "CT", "dims": 2, "channels": 1, "classes": 1, "cases": 100, "sides": (64, 64)}
    measured = {"voxels": 4096.0, "foreground": 0.1, "contrast": 0.5, "sharpness": 0.3, "winding": 1.2}
    return Traits(**{**values, **measured, "components": 1.0, "measured": 32, **changed})


def world(rng, datasets, effect, noise=0.01, models=6):
    """Gains and distances: every other data set is of another kind, every other model suits each by `effect`."""
    kind = np.where(np.arange(datasets) % 2, 1.0, -1.0)
    place = kind[:, None] * [1.0, 0.5, 0.0] + 0.2 * rng.normal(size=(datasets, 3))
    suits = np.where(np.arange(models) % 2, 1.0, -1.0)
    scores = 0.7 + effect * kind[:, None] * suits + 0.01 * rng.normal(size=models)
    scores = scores + noise * rng.normal(size=(datasets, models))
    distances = np.sqrt(((place[:, None] - place[None]) ** 2).mean(axis=2))
    return scores - scores.mean(axis=1, keepdims=True), distances


def test_distance_counts_steps_of_each_trait():
    assert distance(traits(), traits()) == 0
    steps = len(SCALES) + 2
    assert distance(traits(), traits(sharpness=0.45)) == pytest.approx(np.sqrt(1 / steps))
    assert distance(traits(), traits(foreground=0.4, modality="MR")) == pytest.approx(np.sqrt(2 / steps))
    assert distance(traits(dims=3), traits()) == distance(traits(), traits(dims=3)) > 0


def test_weights_of_three_data_sets_by_hand():
    distances = np.array([0.5, 1.0, 2.0])
    np.testing.assert_allclose(weigh(distances, inf), [1 / 3] * 3)
    kernel = np.exp(-(distances**2) / (2 * 0.5**2))
    np.testing.assert_allclose(weigh(distances, 0.5), kernel / kernel.sum())
    # so far that all kernels are 0 as floats: the nearest counts
    np.testing.assert_allclose(weigh(np.array([50.0, 60.0]), 0.25), [1, 0])
    gains = np.array([[0.3, -0.3], [0.0, 0.0], [-0.3, 0.3]])
    np.testing.assert_allclose(expect(gains, distances, inf), [0, 0], atol=1e-12)
    np.testing.assert_allclose(left_out(gains, np.ones((3, 3)), inf)[0], [-0.15, 0.15])


def test_signs_by_hand():
    assert sign_flips(np.array([1.0, 1.0, 1.0, 1.0, 1.0])) == 1 / 32
    assert sign_flips(np.array([3.0, -1.0])) == 2 / 4  # ++ and +-
    assert sign_flips(np.zeros(6)) == 1.0
    assert sign_flips(-np.ones(4)) == 1.0
    # of many, a sample of the signs
    assert sign_flips(np.ones(30)) == pytest.approx(1 / 4097)


def test_what_is_lost_where_data_sets_are_left_out_by_hand():
    # two models: the first is better on three data sets, worse on the fourth
    gains = np.array([[0.1, -0.1], [0.1, -0.1], [0.1, -0.1], [-0.2, 0.2]])
    found = try_rules(gains, np.ones((4, 4)))
    # leaving out one of three: mean of the rest 0, both are first; leaving out the last: the first is, and loses 0.4
    np.testing.assert_allclose(found.plain, [0.1, 0.1, 0.1, 0.4])
    np.testing.assert_allclose(found.traits, found.plain)
    np.testing.assert_allclose(found.tau_plain, [0, 0, 0, -1])
    assert (found.p, found.helps, found.can_help) == (1.0, False, False)


def test_where_traits_decide_they_are_found_to():
    rng = np.random.default_rng(0)
    trials = [try_rules(*world(rng, 10, effect=0.04)) for _ in range(30)]
    assert np.mean([trial.helps for trial in trials]) > 0.9
    assert np.mean([trial.traits.mean() for trial in trials]) < 0.25 * np.mean([trial.plain.mean() for trial in trials])
    assert np.mean([trial.tau_traits for trial in trials]) > np.mean([trial.tau_plain for trial in trials]) + 0.3
    # better ranks do not help whose first choice is worse
    worse = replace(trials[0], traits=trials[0].plain + 0.1)
    assert (worse.p <= 0.05, worse.helps) == (True, False)
    gains, distances = world(rng, 10, effect=0.04)
    width = best_bandwidth(gains, distances)
    assert width < inf
    # near the first data set its kind of models is ahead
    expected = expect(gains, distances[0], width)
    assert min(expected[::2]) > max(expected[1::2])


def test_where_nothing_decides_traits_are_seldom_taken_for_help():
    rng = np.random.default_rng(1)
    for datasets in (5, 8, 11):
        found = [try_rules(*world(rng, datasets, effect=0.0, noise=0.03)).helps for _ in range(120)]
        # 5 % of 120 are 6; 12 would come by chance once in 70 times
        assert sum(found) < 12, datasets


def test_four_data_sets_cannot_show_it_however_clear():
    gains, distances = world(np.random.default_rng(0), 4, effect=0.2, noise=0.0)
    assert not try_rules(gains, distances).helps


def test_of_the_plain_mean_the_interval_is_students():
    gains = np.array([[0.1, -0.1], [0.3, -0.3], [0.2, -0.2], [0.4, -0.4]])
    off = gains - left_out(gains, np.ones((4, 4)), inf)
    draws = foresee(gains.mean(axis=0), off, 0.25, draws=200000)
    spread = np.std(gains[:, 0], ddof=1)
    # drawn towards 0: of the sum of squares of the means, as much as chance would give
    shrunk = 0.25 * (1 - 0.25 * 2 * spread**2 / (2 * 0.25**2))
    assert draws.means[0] == pytest.approx(shrunk)
    half = t.ppf(0.975, 3) * spread * np.sqrt(1 + 1 / 4)
    assert draws.interval(0) == pytest.approx((shrunk - half, shrunk + half), rel=0.03, abs=0.003)
    # both models come from the same data sets: what one gains the other loses, in most of each draw
    assert np.corrcoef(draws.drawn.T)[0, 1] < -0.5


def test_intervals_cover_another_data_set_and_first_places_come_about_as_often_as_said():
    rng = np.random.default_rng(3)
    covered, said, came = [], [], []
    for _ in range(250):
        scores = 0.02 * rng.normal(size=5) + 0.015 * rng.normal(size=(6, 5))
        gains = scores - scores.mean(axis=1, keepdims=True)
        known, new = gains[:5], gains[5]
        off = known - left_out(known, np.ones((5, 5)), inf)
        draws = foresee(known.mean(axis=0), off, 0.2, draws=1000)
        covered += [draws.interval(m)[0] <= new[m] <= draws.interval(m)[1] for m in range(5)]
        first = draws.first_place()
        said.append(first.max())
        came.append(first.argmax() == new.argmax())
    assert np.mean(covered) == pytest.approx(0.95, abs=0.025)
    assert np.mean(said) == pytest.approx(np.mean(came), abs=0.1)


def test_models_that_differ_by_chance_are_drawn_together():
    rng = np.random.default_rng(4)
    gains = 0.02 * rng.normal(size=(4, 12))
    gains -= gains.mean(axis=1, keepdims=True)
    draws = foresee(gains.mean(axis=0), gains - left_out(gains, np.ones((4, 4)), inf), 0.25)
    assert abs(draws.means).max() < 0.6 * abs(gains.mean(axis=0)).max()
    assert draws.first_place().max() < 0.5
    assert not any(draws.separable(int(draws.means.argmax()), m) for m in range(12) if m != draws.means.argmax())
