from __future__ import annotations

import json

from shoal.agents.feedback.ledger import NO_TASK, Ledger
from shoal.agents.registry.records import TaskId

from .books import call, specialist_call

A = TaskId("a")


def test_sums_survive_being_kept_and_merged_in_any_order() -> None:
    traces = [
        specialist_call(0, latency_ms=3.0),
        specialist_call(1, ms=None),
        call(2, cost_usd=0.5, latency_ms=400.0, privacy="local-only"),
        call(3, compute_ms=4.0, compute_on="gpu", energy_joules=2.0),
    ]
    whole = Ledger()
    parts = [Ledger(), Ledger()]
    for n, trace in enumerate(traces):
        whole.add(trace, A)
        parts[n % 2].add(trace, A)
    merged = Ledger()
    for part in reversed(parts):
        merged.merge(Ledger.from_dict(json.loads(json.dumps(part.to_dict()))))
    assert merged.to_dict()["sums"] == whole.to_dict()["sums"]
    sums = merged.sums[A]
    assert (sums.calls, sums.by_specialist, sums.unmeasured, sums.asked, sums.local_only) == (4, 2, 1, 2, 1)
    assert (sums.paid_usd, sums.unpriced, sums.unpriced_in) == (0.5, 1, 100)
    assert (sums.compute["edge"].cpu_ms, sums.compute[""].gpu_ms, sums.metered) == (2.0, 4.0, 1)
    assert (sums.first, sums.last) == (0.0, 3 * 3600.0)


def test_a_plans_call_is_counted_by_its_steps() -> None:
    book = Ledger()
    book.add(call(0, by="agent/report"), None)
    book.add(call(1), None)
    assert (book.of_agents, book.total().calls) == (1, 1)
    assert list(book.sums) == [NO_TASK]


def test_who_says_that_it_is_a_stand_in_is_named() -> None:
    book = Ledger()
    book.add(call(0), A)
    assert book.stand_ins == ()
    book.add(call(1, by="generalist/stand-in-generalist"), A)
    honest = call(2, by="generalist/other")
    honest.response["system_fingerprint"] = "Stand-in: fixed rules"  # type: ignore[index]
    book.add(honest, A)
    assert book.stand_ins == ("other", "stand-in-generalist")


def test_calls_of_less_than_an_hour_say_nothing_of_an_hour() -> None:
    book = Ledger()
    book.add(call(0, at=0.0), A)
    book.add(call(1, at=3599.0), A)
    assert book.hours is None
    book.add(call(2, at=7200.0), A)
    assert book.hours == 2.0
