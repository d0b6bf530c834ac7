from __future__ import annotations

import pytest

from shoal.agents.contract.break_even import Price
from shoal.agents.feedback.accounts import Account, Rates, make_accounts
from shoal.agents.feedback.ledger import NO_TASK, Compute, Expense, Ledger
from shoal.agents.registry.records import TaskId
from shoal.agents.traces.trace import Trace
from shoal.config import parse_config

from .books import call, specialist_call

A = TaskId("a")
#: a call of 100 and 10 tokens costs 0.002
PRICE = Price(tokens_in=10, tokens_out=100)
CALL_USD = 0.002
#: 0.001 USD a second
RATES = Rates(core_hour_usd={"": 3.6})


def ledger(*traces: Trace) -> Ledger:
    out = Ledger()
    for trace in traces:
        out.add(trace, TaskId(str(trace.tags["task_id"])) if trace.tags.get("task_id") else None)
    return out


def audit(calls: int, *, usd: float = 0.0, unpriced: int = 0, task: TaskId = A) -> Expense:
    return Expense(
        kind="audit",
        task_id=task,
        at=0.0,
        calls=calls,
        prompt_tokens=100 * calls,
        completion_tokens=10 * calls,
        usd=usd,
        unpriced=unpriced,
    )


def account_of(
    book: Ledger, *expenses: Expense, price: Price | None = PRICE, rates: Rates = RATES
) -> Account:
    return make_accounts(book, expenses, price=price, rates=rates).tasks[A]


def test_saved_is_what_was_not_paid_less_compute_audits_and_shadows() -> None:
    book = ledger(
        *(specialist_call(n, ms=500.0) for n in range(10)),
        # asked, not sure: its compute is spent and the generalist is paid as well
        call(10, cost_usd=0.004, compute_ms=500.0, compute_on="cpu"),
    )
    shadow = Expense(kind="shadow", task_id=A, at=0.0, compute=Compute(cpu_ms=1000.0))
    found = account_of(book, audit(2, usd=2 * CALL_USD), shadow)
    assert found.avoided_usd == pytest.approx(10 * CALL_USD)
    assert found.compute_usd == pytest.approx(11 * 0.5 * 0.001)
    assert found.audits_usd == pytest.approx(2 * CALL_USD)
    assert found.shadow_usd == pytest.approx(0.001)
    assert found.saved_usd == pytest.approx(0.020 - 0.0055 - 0.004 - 0.001)
    assert found.paid_usd == pytest.approx(0.004), "as the record says, not at today's price"
    assert found.all_generalist_usd == pytest.approx(11 * CALL_USD)


def test_learning_and_opinions_come_off_what_was_saved() -> None:
    book = ledger(*(specialist_call(n, ms=0.0) for n in range(1000)))
    learning = Expense(kind="learning", task_id=A, at=0.0, compute=Compute(cpu_ms=500_000.0))
    again = Expense(kind="again", task_id=A, at=0.0, calls=5, usd=0.25)
    found = account_of(book, learning, again)
    assert found.saved_usd == pytest.approx(2.0)
    assert found.spent_on_learning_usd == pytest.approx(0.5 + 0.25)
    assert found.net_usd == pytest.approx(1.25)
    assert found.even_after_calls == 375, "0.75 USD at 0.002 a call"
    assert account_of(book, audit(2000, usd=4.0), learning).even_after_calls is None, "it never pays"


def test_what_has_no_price_is_unknown_and_makes_the_sum_unknown() -> None:
    book = ledger(specialist_call(0), call(1))
    found = account_of(book, price=None)
    assert (found.avoided_usd, found.paid_usd, found.all_generalist_usd, found.saved_usd, found.net_usd) == (
        None,
    ) * 5
    assert found.compute_usd == pytest.approx(0.002 * 0.001), "a core's hour is known"
    # a recorded cost is known whatever today's price is
    assert account_of(ledger(call(1, cost_usd=0.3)), price=None).paid_usd == pytest.approx(0.3)
    # nobody has said what a judge costs
    judge = Expense(kind="judge", task_id=A, at=0.0, calls=4, prompt_tokens=100, unpriced=4)
    judged = account_of(book, judge)
    assert judged.opinions_usd is None and judged.net_usd is None and judged.saved_usd is not None


def test_an_unknown_amount_of_one_task_is_unknown_in_all() -> None:
    book = ledger(specialist_call(0), specialist_call(1, task="b", compute_on="gpu"))
    found = make_accounts(book, [], price=PRICE, rates=RATES)
    assert found.tasks[A].saved_usd is not None
    assert found.tasks[TaskId("b")].compute_usd is None
    assert found.total.compute_usd is None and found.total.saved_usd is None
    assert found.total.avoided_usd == pytest.approx(2 * CALL_USD)


def test_a_gpu_and_each_tier_have_rates_of_their_own() -> None:
    rates = Rates(core_hour_usd={"": 3.6, "edge": 36.0}, gpu_hour_usd={"": 360.0})
    edge, gpu = specialist_call(0, ms=1000.0), specialist_call(1, ms=1000.0, compute_on="gpu")
    assert account_of(ledger(edge), rates=rates).compute_usd == pytest.approx(0.01)
    assert account_of(ledger(gpu), rates=rates).compute_usd == pytest.approx(0.1)
    elsewhere = specialist_call(2, ms=1000.0, compute_tier="cloud")
    assert account_of(ledger(elsewhere), rates=rates).compute_usd == pytest.approx(0.001)


def test_a_replica_that_holds_four_cores_costs_four_times() -> None:
    book = ledger(specialist_call(0, ms=1000.0))
    found = make_accounts(book, [], price=PRICE, rates=RATES, cores={A: 4.0})
    assert found.tasks[A].compute_usd == pytest.approx(0.004)
    held = make_accounts(book, [], price=PRICE, rates=RATES, cores={A: 0.5})
    assert held.tasks[A].compute_usd == pytest.approx(0.001), "half a core's share computes on a whole one"


def test_audits_of_before_a_price_was_set_are_taken_at_todays() -> None:
    found = account_of(ledger(specialist_call(0)), audit(4, usd=2 * CALL_USD, unpriced=2))
    assert found.audits_usd == pytest.approx(4 * CALL_USD)
    assert account_of(ledger(specialist_call(0)), audit(4, unpriced=4), price=None).audits_usd is None


def test_totals_add_tasks_and_work_of_none_and_take_quantiles_over_all_calls() -> None:
    book = ledger(
        *(specialist_call(n, latency_ms=10.0) for n in range(9)),
        specialist_call(9, task="b", latency_ms=1000.0),
        call(10, task="", latency_ms=300.0),
    )
    finding = Expense(kind="learning", task_id=NO_TASK, at=0.0, compute=Compute(cpu_ms=7000.0))
    found = make_accounts(book, [finding], price=PRICE, rates=RATES)
    assert (found.total.calls, found.total.by_specialist) == (11, 10)
    assert found.total.learning_cpu_s == pytest.approx(7.0)
    assert found.total.specialist_p50_ms == pytest.approx(10.0, rel=0.011)
    assert found.total.specialist_p95_ms == pytest.approx(1000.0, rel=0.011)
    assert found.total.generalist_p50_ms == pytest.approx(300.0, rel=0.011)
    assert found.hours == pytest.approx(10.0)


def test_energy_is_unknown_until_a_gpu_was_metered() -> None:
    assert account_of(ledger(specialist_call(0))).energy_joules is None
    metered = specialist_call(1, compute_on="gpu", energy_joules=3.5)
    trained = Expense(kind="shadow", task_id=A, at=0.0, energy_joules=1.5)
    assert account_of(ledger(specialist_call(0), metered), trained).energy_joules == pytest.approx(5.0)


def test_rates_are_the_configurations() -> None:
    rates = Rates.from_config(
        parse_config(
            {
                "learning": {"core_hour_usd": 0.2},
                "costs": {
                    "gpu_hour_usd": 3,
                    "tiers": {"local": {"core_hour_usd": 0.01}, "cloud": {"gpu_hour_usd": 9}},
                },
            },
            source="test",
        )
    )
    assert (rates.core("local"), rates.core("edge")) == (0.01, 0.2)
    assert (rates.gpu("cloud"), rates.gpu("edge")) == (9, 3)
    assert Rates.from_config(parse_config({}, source="test")).gpu("cloud") is None
