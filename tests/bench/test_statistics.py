"""Statistics of a benchmark against closed forms, enumeration and cases where the answer is known."""

from itertools import product

import numpy as np
import pytest
from scipy.stats import ttest_rel

from unetkit.bench.resampling import Draws, join, resample
from unetkit.bench.significance import cases_needed, compare, false_win, holm, signed_rank, smallest_p
from unetkit.errors import DataError, ShapeError


def noisy(means, runs=3, cases=60, run_sd=0.0, case_sd=0.1, own_sd=0.02, seed=0):
    """Scores [M, R, N] with a difficulty of each case that all models share."""
    rng = np.random.default_rng(seed)
    shape = (len(means), runs, cases)
    shared = case_sd * rng.standard_normal(cases)
    return (
        np.asarray(means)[:, None, None]
        + shared
        + run_sd * rng.standard_normal(shape[:2])[..., None]
        + own_sd * rng.standard_normal(shape)
    )


def test_the_interval_of_a_mean_is_that_of_theory():
    scores = noisy([0.8], runs=1, cases=200)
    low, high = resample(scores, draws=4000).interval(0)
    error = scores[0, 0].std() / np.sqrt(200)
    assert (high - low) / 2 == pytest.approx(1.96 * error, rel=0.06)
    assert low < scores.mean() < high


def test_differences_are_paired():
    # Cases differ by far more than models do: unpaired, nothing could be told apart.
    draws = resample(noisy([0.80, 0.82]))
    assert draws.separable(0, 1)
    difference, low, high = draws.difference(1, 0)
    assert low < difference < high
    assert difference == pytest.approx(0.02, abs=0.01)
    one, other = draws.interval(0), draws.interval(1)
    assert one[1] > other[0]


def test_runs_count_besides_cases():
    alike = noisy([0.8, 0.8], runs=3, run_sd=0.05, own_sd=0.001)
    draws = resample(alike)
    # with the mean of all runs as if it were exact, the tiny spread of cases would separate them
    pooled = resample(alike.mean(axis=1, keepdims=True))
    assert not draws.separable(0, 1)
    assert pooled.separable(0, 1)


@pytest.mark.parametrize(("runs", "run_sd"), [(2, 0.02), (3, 0.02), (3, 0.005), (5, 0.02)])
def test_networks_that_differ_by_the_chance_of_training_alone_are_seldom_told_apart(runs, run_sd):
    told, covered = [], []
    for seed in range(120):
        draws = resample(noisy([0.8, 0.8], runs, run_sd=run_sd, case_sd=0.05, seed=seed), draws=400, seed=seed)
        told.append(draws.separable(0, 1))
        low, high = draws.interval(0)
        covered.append(low <= 0.8 <= high)
    assert np.mean(told) <= 0.08
    assert np.mean(covered) >= 0.9


def test_a_model_beside_itself_is_level_in_every_draw():
    scores = noisy([0.8], runs=1)
    draws = resample(np.concatenate([scores, scores]))
    assert not draws.separable(0, 1)
    assert draws.first_place().tolist() == [0.5, 0.5]
    assert (draws.ranks() == 1.5).all()


def test_ranks_of_models_far_apart_are_sure():
    draws = resample(noisy([0.5, 0.9, 0.7]))
    assert [draws.rank_interval(m) for m in range(3)] == [(3, 3), (1, 1), (2, 2)]
    assert draws.first_place().tolist() == [0, 1, 0]
    assert draws.stability() == pytest.approx(1)


def test_draws_by_patient_are_wider_than_by_case():
    rng = np.random.default_rng(1)
    of_patient = np.repeat(0.1 * rng.standard_normal(20), 10)
    scores = (0.8 + of_patient)[None, None]
    groups = [f"p{n // 10}" for n in range(200)]
    by_case, by_patient = resample(scores).interval(0), resample(scores, groups).interval(0)
    assert by_patient[1] - by_patient[0] > 2 * (by_case[1] - by_case[0])


def test_missing_runs_are_left_out_and_others_refused():
    scores = noisy([0.8, 0.7])
    scores[0, 2] = np.nan
    assert resample(scores, draws=50).means[0] == pytest.approx(scores[0, :2].mean())
    scores[0, 1, 3] = np.nan
    with pytest.raises(DataError, match="lacks the score of a case"):
        resample(scores)
    scores[0] = np.nan
    with pytest.raises(DataError, match="model 0 has no finished run"):
        resample(scores)
    with pytest.raises(ShapeError, match="2 groups for 60 cases"):
        resample(noisy([0.8]), ["a", "b"])


def test_joined_data_sets_count_alike():
    parts = [resample(noisy([0.6, 0.8], seed=s), seed=s) for s in (1, 2)]
    joined = join(parts)
    assert isinstance(joined, Draws)
    np.testing.assert_allclose(joined.means, (parts[0].means + parts[1].means) / 2)


def test_the_signed_rank_test_is_exact_for_few_differences():
    differences = np.array([0.3, -0.1, 0.5, 0.2, 0.4, 0.6])
    # every assignment of signs to ranks 1 to 6 is as likely; the only negative one has rank 1
    sums = [sum(r for r, sign in zip(range(1, 7), signs, strict=True) if sign) for signs in product([0, 1], repeat=6)]
    expected = 2 * np.mean(np.asarray(sums) <= 1)
    assert signed_rank(differences) == pytest.approx(expected)
    assert signed_rank(np.abs(differences)) == pytest.approx(smallest_p(6))
    assert signed_rank(np.zeros(5)) == 1


def test_holm_is_the_step_down_rule():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.9]) == [1, 1]


def test_holm_keeps_false_claims_rare():
    rng = np.random.default_rng(0)
    claims = [bool((compare(rng.standard_normal((5, 25))).p < 0.05).any()) for _ in range(200)]
    assert np.mean(claims) < 0.09


def test_cliques_hold_models_that_cannot_be_told_apart():
    rng = np.random.default_rng(3)
    difficulty = rng.standard_normal(40)
    base = np.array([3, 3, 0, 0])[:, None]
    found = compare(base + difficulty + 0.1 * rng.standard_normal((4, 40)))
    assert {frozenset(c) for c in found.cliques} == {frozenset({0, 1}), frozenset({2, 3})}
    assert found.friedman < 1e-6
    assert sorted(found.ranks) == pytest.approx(sorted([1.5, 1.5, 3.5, 3.5]), abs=0.3)
    assert found.ranks.sum() == pytest.approx(10)


def test_pairs_that_something_else_leaves_open_are_joined_too():
    scores = np.arange(3)[:, None] + np.random.default_rng(0).normal(0, 0.1, (3, 40))
    assert compare(scores).cliques == ()
    open_ones = np.eye(3, dtype=bool)
    open_ones[0, 1] = open_ones[1, 0] = True
    found = compare(scores, alike=open_ones)
    assert [set(clique) for clique in found.cliques] == [{0, 1}]
    assert (found.p == compare(scores).p).all()


def test_few_blocks_are_said_to_show_nothing():
    scores = np.arange(3)[:, None] + np.zeros((3, 5))
    found = compare(scores)
    assert not found.can_differ()
    assert len(found.cliques) == 1
    assert compare(np.repeat(scores, 4, axis=1)).can_differ()
    with pytest.raises(ShapeError, match="two models and two blocks"):
        compare(scores[:1])


@pytest.mark.parametrize(("mean", "spread"), [(0.01, 0.04), (0.03, 0.04), (0.04, 0.04)])
def test_so_many_cases_do_show_the_difference_with_the_power_asked_for(mean, spread):
    rng = np.random.default_rng(0)
    needed = int(cases_needed(mean + spread * rng.standard_normal(100_000), power=0.8))
    shown = [signed_rank(mean + spread * rng.standard_normal(needed)) < 0.05 for _ in range(600)]
    assert np.mean(shown) == pytest.approx(0.8, abs=0.05)


def test_the_cases_needed_have_bounds():
    assert cases_needed(np.array([1.0, -1.0])) == np.inf
    assert cases_needed(np.array([1.0, 1.0001, 0.9999])) == 6


def test_the_chance_of_a_false_win_is_half_the_p_of_the_paired_t_test():
    scores = noisy([0.80, 0.805], runs=1)[:, 0]
    differences = scores[1] - scores[0]
    assert false_win(differences) == pytest.approx(ttest_rel(*scores).pvalue / 2)
    assert false_win(np.zeros(4)) == 0.5
