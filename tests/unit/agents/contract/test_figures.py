"""Intervals against values known from elsewhere, and comparisons in pairs."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import norm

from shoal.agents.contract.figures import mean, paired, ratio, resampled, share


@pytest.mark.parametrize(
    ("hits", "count", "low", "high"),
    # Clopper-Pearson as R's binom.test gives it
    [(8, 10, 0.4439, 0.9748), (95, 100, 0.8872, 0.9836), (0, 59, 0.0, 0.0606), (59, 59, 0.9394, 1.0)],
)
def test_shares_have_the_exact_interval(hits: int, count: int, low: float, high: float) -> None:
    figure = share(hits, count)
    assert (figure.low, figure.high) == (pytest.approx(low, abs=2e-4), pytest.approx(high, abs=2e-4))


def test_a_bootstrapped_mean_agrees_with_theory_and_with_itself() -> None:
    values = list(np.random.default_rng(1).normal(0.4, 0.1, size=400))
    figure = mean(values)
    half = norm.ppf(0.975) * np.std(values, ddof=1) / math.sqrt(len(values))
    assert figure.value == pytest.approx(np.mean(values))
    assert (figure.high - figure.low) / 2 == pytest.approx(half, rel=0.12)
    assert mean(values) == figure


def test_a_ratio_draws_whole_calls_so_that_things_of_one_call_do_not_count_as_independent() -> None:
    # 50 calls with ten fields each, all of a call right or all wrong
    right = [10.0 * (i % 2) for i in range(50)]
    figure = ratio(right, [10.0] * 50)
    exact = share(25, 50)
    assert figure.value == 0.5 and figure.count == 50
    assert figure.high - figure.low == pytest.approx(exact.high - exact.low, rel=0.15)
    assert ratio([0.0], [0.0]).count == 0


def test_a_statistic_of_one_call_says_nothing_of_its_spread() -> None:
    assert resampled(1, lambda at: 0.7).low == -math.inf
    assert resampled(0, lambda at: 0.7).value == 0.0


def test_a_pair_is_decided_by_the_calls_on_which_they_differ() -> None:
    first = [True] * 90 + [False] * 10
    second = [True] * 80 + [False] * 10 + [True] * 10
    same = paired(first, second)
    assert (same.wins, same.losses, same.difference.value, same.is_worse) == (10, 10, 0.0, False)
    worse = paired([True] * 80 + [False] * 20, [True] * 98 + [False] * 2)
    assert (worse.wins, worse.losses) == (0, 18)
    assert worse.p == pytest.approx(2 / 2**18) and worse.is_worse
    assert worse.difference.high < 0
    with pytest.raises(ValueError, match="same calls"):
        paired([True], [])
