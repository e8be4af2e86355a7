"""Intensity statistics in constant memory against NumPy over all values at once."""

import numpy as np
import pytest

from unetkit.plan.histogram import EMPTY, added, histogram, moments

RNG = np.random.default_rng(0)
SHARES = (0.005, 0.05, 0.5, 0.95, 0.995)
KINDS = {
    "ct": np.clip(RNG.normal(60, 300, 50_001), -1024, 3071).astype(np.int16),
    "bytes": RNG.integers(0, 256, 30_003, dtype=np.uint8),
    "words": RNG.integers(0, 65536, 30_003, dtype=np.uint16),
    "mr": RNG.gamma(2, 200, 50_001).astype(np.float32),
    "signed": RNG.normal(0, 1e-3, 50_001).astype(np.float32),
    "huge": RNG.normal(0, 1e9, 50_001).astype(np.float32),
}


@pytest.mark.parametrize("name", KINDS)
def test_quantiles_are_those_of_all_values(name):
    values = KINDS[name]
    found = np.asarray(histogram(values).quantiles(SHARES))
    # With so many values the definitions of a quantile differ by a neighbour; bins are 2^-11 of their value wide.
    below, above = (np.percentile(values, 100 * np.asarray(SHARES), method=m) for m in ("lower", "higher"))
    slack = 2.0**-11 * np.maximum(np.abs(below), np.abs(above))
    assert (below - slack <= found).all()
    assert (found <= above + slack).all()


@pytest.mark.parametrize("name", ["ct", "bytes"])
def test_whole_numbers_of_ct_are_exact(name):
    values = KINDS[name]
    found = histogram(values)
    expected, counts = np.unique(values, return_counts=True)
    assert np.array_equal(found.lows, expected)
    assert np.array_equal(found.highs, expected)
    assert np.array_equal(found.weights, counts)
    assert found.quantiles(SHARES) == np.percentile(values, 100 * np.asarray(SHARES), method="inverted_cdf").tolist()


def test_minus_zero_is_zero():
    found = histogram(np.array([-0.0, 0.0, 1.0, -0.0], np.float32))
    assert found.weights.tolist() == [3, 1]


@pytest.mark.parametrize("name", KINDS)
def test_moments_do_not_cancel(name):
    values = KINDS[name].astype(np.float32) + np.float32(1e5)
    exact = values.astype(np.float64)
    found = moments(values.reshape(3, -1).T)
    assert (found.weight, found.low, found.high) == (values.size, exact.min(), exact.max())
    assert found.mean == pytest.approx(exact.mean(), rel=1e-14)
    assert found.std == pytest.approx(exact.std(), rel=1e-9)


def test_the_order_of_adding_does_not_matter():
    cases = [histogram(values.astype(np.float32)).weighing(1.0) for values in KINDS.values()]
    forward, backward = added(cases), added([added(cases[3:][::-1]), EMPTY, added(cases[:3][::-1])])
    assert np.array_equal(forward.bins, backward.bins)
    assert np.array_equal(forward.lows, backward.lows)
    assert np.array_equal(forward.highs, backward.highs)
    np.testing.assert_allclose(forward.weights, backward.weights, rtol=1e-14)
    assert forward.quantiles(SHARES) == pytest.approx(backward.quantiles(SHARES), rel=1e-6)
    assert (forward.moments.mean, forward.moments.std) == pytest.approx((backward.moments.mean, backward.moments.std))


def test_cases_weigh_the_same():
    """Three cases of very different size: as if each had given equally many values."""
    cases = [RNG.normal(100, 10, 30_000), RNG.normal(200, 10, 300), RNG.normal(300, 10, 3_000)]
    found = added(histogram(case.astype(np.float32)).weighing(1.0) for case in cases)
    pooled = np.concatenate([np.repeat(case, 30_000 // len(case)) for case in cases])
    assert found.moments.weight == pytest.approx(3)
    assert found.moments.mean == pytest.approx(pooled.mean(), rel=1e-6)
    assert found.moments.std == pytest.approx(pooled.std(), rel=1e-6)
    expected = np.percentile(pooled, 100 * np.asarray(SHARES), method="inverted_cdf")
    np.testing.assert_allclose(found.quantiles(SHARES), expected, rtol=1e-3)


def test_memory_is_bounded():
    """However many values there are, and of whatever magnitude."""
    pieces = (np.exp(np.random.default_rng(n).uniform(-80, 80, 200_000)).astype(np.float32) for n in range(6))
    total = added(histogram(piece) for piece in pieces)
    assert len(total.bins) <= 2**20
    assert total.weights.sum() == 1_200_000


@pytest.mark.parametrize("name", KINDS)
def test_bars_hold_everything_between_their_ends(name):
    found = histogram(KINDS[name])
    edges, shares = found.bars(found.moments.low, found.moments.high, 50)
    assert len(edges) == len(shares) + 1 <= 52
    assert sum(shares) == pytest.approx(1, abs=0.01)


def test_bars_follow_values_far_out():
    values = np.concatenate([RNG.normal(100, 10, 9_000), RNG.normal(1e6, 1e4, 1_000)]).astype(np.float32)
    edges, shares = histogram(values).bars(50, 1.1e6, 60)
    # on even bars all of the first hump would stand in one
    assert sum(share > 0.005 for share in shares) > 10
    assert (np.diff(edges) > 0).all()


def test_one_value_alone():
    found = histogram(np.full(5, 7, np.uint8))
    assert found.quantiles(SHARES) == [7] * 5
    assert found.moments.std == 0
    assert max(found.bars(7, 7, 10)[1]) == 1
