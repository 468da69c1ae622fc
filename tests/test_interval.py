"""Intervals against what theory says of them, and against plain resampling."""

import time

import numpy as np
import pytest

from lynx_moe.interval import bootstrap_interval, mean_interval

RNG = np.random.default_rng(5)


def test_interval_of_shares_is_the_binomials_own():
    """Resampling 0 and 1 is drawing from a binomial, whose quantiles are known by counting."""
    n, right = 200, 60
    low, high = mean_interval([1.0] * right + [0.0] * (n - right))
    drawn = np.sort(RNG.binomial(n, right / n, size=400_000)) / n
    assert low == pytest.approx(drawn[int(0.025 * len(drawn))], abs=1 / n)
    assert high == pytest.approx(drawn[int(0.975 * len(drawn))], abs=1 / n)


def test_interval_of_many_values_is_near_the_normal_one():
    values = RNG.normal(3, 2, size=900)
    low, high = mean_interval(values, draws=4000)
    half = 1.96 * values.std() / 30
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.1 * half)


def test_wider_level_is_a_wider_interval_and_the_same_values_give_the_same():
    values = RNG.normal(size=300)
    narrow, wide = mean_interval(values, level=0.5, draws=500), mean_interval(values, level=0.99, draws=500)
    assert wide[0] < narrow[0] < narrow[1] < wide[1] and mean_interval(values, level=0.5, draws=500) == narrow


def test_one_value_or_equal_ones_have_no_width():
    assert mean_interval([0.25]) == mean_interval([0.25] * 9) == (0.25, 0.25)


@pytest.mark.parametrize("values", [[], [1.0, float("nan")], [[1.0], [2.0]]])
def test_no_interval_of_nothing(values):
    with pytest.raises(ValueError, match="at least one number"):
        mean_interval(values)


def test_any_statistic_gets_the_interval_that_its_mean_would():
    values = RNG.normal(size=400)
    low, high, draws = bootstrap_interval(lambda counts: float(counts @ values / counts.sum()), len(values), draws=2000)
    assert draws == 2000
    assert (low, high) == pytest.approx(mean_interval(values, draws=2000), abs=0.02)


def test_slow_statistic_stops_in_time_and_says_how_often_it_was_drawn():
    def slow(counts):
        time.sleep(0.02)
        return float(counts[0])

    start = time.monotonic()
    low, high, draws = bootstrap_interval(slow, 10, seconds=0.1)
    assert 2 <= draws < 50 and time.monotonic() - start < 2 and low <= high


def test_statistic_without_a_number_has_no_interval():
    assert bootstrap_interval(lambda counts: None, 10, draws=5) is None
    assert bootstrap_interval(lambda counts: 1.0, 0) is None
