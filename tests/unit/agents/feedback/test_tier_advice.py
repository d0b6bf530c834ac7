from __future__ import annotations

from dataclasses import replace

import pytest

from shoal.agents.contract.break_even import Price
from shoal.agents.feedback.accounts import Rates
from shoal.agents.feedback.tier_advice import TIERS, Advice, Offer, Use, advise

#: a call of 1,000 and 100 tokens costs 0.002
PRICE = Price(tokens_in=1, tokens_out=10)
RATES = Rates(core_hour_usd={"": 0.05}, gpu_hour_usd={"": 2.0})
USE = Use(
    ready=True,
    calls_per_hour=100.0,
    coverage=0.9,
    compute_ms=5.0,
    memory_mb=500.0,
    prompt_tokens=1000,
    completion_tokens=100,
    deadline_ms=1500.0,
)
OFFERS = tuple(Offer(tier=tier, nodes=1, free_memory_mb=4000.0, gpus=0.0) for tier in TIERS)


def best(
    use: Use = USE, *offers: Offer, price: Price | None = PRICE, rates: Rates = RATES, local: bool = False
) -> Advice:
    return advise(use, offers or OFFERS, price=price, rates=rates, generalist_local=local)


def test_of_equal_costs_the_nearest_tier_and_of_others_the_cheapest() -> None:
    found = best()
    assert found.tier == "local"
    assert found.call_usd["generalist"] == pytest.approx(0.002)
    assert found.call_usd["local"] == pytest.approx(0.0002 + 0.005 / 3600 * 0.05)
    dear = Rates(core_hour_usd={"": 0.05, "local": 5.0, "edge": 0.5})
    assert best(rates=dear).tier == "cloud"
    near = (Offer(tier="local", round_trip_ms=80.0), Offer(tier="edge", round_trip_ms=2.0))
    assert best(USE, *near).tier == "edge", "of equal costs the one that is reached sooner"


def test_private_calls_keep_off_the_cloud_and_off_the_generalist() -> None:
    cheap_cloud = Rates(core_hour_usd={"": 500.0, "cloud": 0.0})
    private = replace(USE, local_only=True)
    found = best(private, rates=cheap_cloud)
    assert found.tier == "local"
    assert "local-only" in found.rejected["cloud"]
    assert "local-only" in found.rejected["generalist"]
    assert "generalist" not in best(private, local=True).rejected


def test_what_is_too_large_too_slow_or_not_there_is_said() -> None:
    offers = (
        Offer(tier="local", nodes=1, free_memory_mb=100.0),
        Offer(tier="edge", nodes=0),
        Offer(tier="cloud", nodes=1, free_memory_mb=9000.0, round_trip_ms=2000.0),
    )
    found = best(USE, *offers)
    assert found.tier == "generalist"
    assert "500 MB" in found.rejected["local"]
    assert "no node" in found.rejected["edge"]
    assert "2,005 ms" in found.rejected["cloud"]
    no_gpu = replace(USE, gpus=0.5, own_replica=True)
    assert "GPU" in best(no_gpu).rejected["local"]


def test_a_replica_of_its_own_needs_calls_enough_to_pay_for_it() -> None:
    own = replace(USE, own_replica=True, cores=2.0)
    # 0.10 USD an hour against 0.0018 USD a call: from 56 calls an hour on
    busy, idle = best(own), best(replace(own, calls_per_hour=10.0))
    assert busy.tier == "local"
    assert idle.tier == "generalist"
    assert "from 56 calls an hour" in " ".join(idle.reasons)
    assert idle.call_usd["local"] == pytest.approx(0.01 + 0.0002)


def test_a_task_without_a_specialist_stays_and_says_why() -> None:
    found = best(replace(USE, ready=False, why_not="0.8 of 0.95 right"))
    assert (found.tier, found.reasons) == ("generalist", ("0.8 of 0.95 right",))
    assert "nothing was trained" in best(replace(USE, ready=False)).reasons[0]


def test_without_a_price_costs_are_unknown_and_not_compared() -> None:
    found = best(price=None)
    assert found.tier == "local"
    assert found.call_usd == {"generalist": None, "local": None, "edge": None, "cloud": None}
    assert "not known" in " ".join(found.reasons)


def test_a_gpu_without_a_rate_costs_something_unknown() -> None:
    on_gpu = replace(USE, on_gpu=True)
    unknown = best(on_gpu, rates=Rates(core_hour_usd={"": 0.05}))
    assert unknown.call_usd["local"] is None
    assert best(on_gpu).call_usd["local"] == pytest.approx(0.0002 + 0.005 / 3600 * 2.0)


def test_a_specialist_dearer_than_the_generalist_is_not_advised() -> None:
    found = best(rates=Rates(core_hour_usd={"": 10_000.0}))
    assert found.tier == "generalist"
    assert "the cheapest tier" in found.reasons[0]
