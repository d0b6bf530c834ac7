from __future__ import annotations

from dataclasses import replace

import pytest

from shoal.agents.contract.break_even import Price, TaskCost, break_even

COST = TaskCost(
    learning_s=7200,
    answer_ms=36,
    coverage=0.8,
    prompt_tokens=1000,
    completion_tokens=100,
    calls_per_day=500,
)
PRICE = Price(tokens_in=2.5, tokens_out=10)


def test_learning_is_earned_back_by_what_calls_save() -> None:
    even = break_even(COST, PRICE, core_hour_usd=0.05)
    assert even.learning_usd == pytest.approx(0.10)
    assert even.generalist_call_usd == pytest.approx(0.0035)
    assert even.specialist_call_usd == pytest.approx(36e-3 / 3600 * 0.05)
    saved = 0.8 * 0.0035 - 5e-7
    assert even.saved_per_call_usd == pytest.approx(saved)
    assert even.calls == 36  # 0.10 / 0.0027995 = 35.7
    assert even.days == pytest.approx(36 / 500)
    assert even.saved_per_month_usd == pytest.approx(saved * 500 * 30)
    assert even.saved_per_1000_usd == pytest.approx(1000 * saved)


def test_what_costs_more_than_it_saves_is_never_even() -> None:
    dear = break_even(replace(COST, coverage=0.0), PRICE)
    assert dear.calls is None and dear.days is None and dear.saved_per_call_usd < 0
    assert break_even(COST, Price(tokens_in=0, tokens_out=0)).calls is None


def test_an_unknown_volume_leaves_days_and_months_open() -> None:
    even = break_even(replace(COST, calls_per_day=None), PRICE)
    assert even.calls == 36 and even.days is None and even.saved_per_month_usd is None


def test_impossible_figures_are_refused() -> None:
    with pytest.raises(ValueError, match=r"share in \[0, 1\], got 80"):
        break_even(replace(COST, coverage=80), PRICE)
    with pytest.raises(ValueError, match="negative"):
        break_even(COST, PRICE, core_hour_usd=-1)
