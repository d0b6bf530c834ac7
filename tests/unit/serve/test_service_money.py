"""What the chat service says of money and time: in traces, in the expenses beside the calls, and in the metrics."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from shoal.agents.fakes import FunctionGeneralist
from shoal.agents.feedback.ledger import Compute, Expense
from shoal.agents.ports import Effort, SpecialistAnswer
from shoal.agents.registry.records import TaskId
from shoal.agents.traces.chat import ChatRequest
from shoal.serve.call import LOCAL_CALLER
from shoal.serve.settings import ServiceSettings

from .conftest import Bench, ask

PRICED = ServiceSettings(price_in=10.0, price_out=100.0, audit_share=1.0)
EFFORT = Effort(compute_ms=4.0)


def request(mark: str) -> ChatRequest:
    return ChatRequest(body=ask("a", mark))


def _metered(confidence: float = 1.0, effort: Effort = EFFORT) -> Any:
    return lambda r: SpecialistAnswer(
        content=f"small: {r.last_user_text}", confidence=confidence, effort=effort, node="edge-1", tier="edge"
    )


def series(bench: Bench, name: str) -> dict[str, float]:
    """labels -> value, of one metric."""
    lines = bench.service.metrics.render().decode().splitlines()
    return {
        line.rpartition(" ")[0].removeprefix(name): float(line.rpartition(" ")[2])
        for line in lines
        if line.startswith(name)
    }


async def test_a_specialists_trace_says_what_it_took_and_where(bench: Bench) -> None:
    bench.specialists.functions["t1@3"] = _metered(effort=replace(EFFORT, on_gpu=True, energy_joules=1.5))
    await bench.service.chat(request("triage"), LOCAL_CALLER)
    [trace] = bench.record.traces
    wanted = {
        "compute_ms": 4.0,
        "compute_on": "gpu",
        "compute_tier": "edge",
        "energy_joules": 1.5,
        "task_id": "t1",
    }
    assert {name: trace.tags.get(name) for name in wanted} == wanted


async def test_a_specialist_that_was_not_sure_has_computed_all_the_same(bench: Bench) -> None:
    bench.specialists.functions["t1@3"] = _metered(confidence=0.0)
    served = await bench.service.chat(request("triage"), LOCAL_CALLER)
    assert served.served_by.startswith("generalist/")
    [trace] = bench.record.traces
    assert (trace.tags["compute_ms"], trace.tags["compute_on"], trace.tags["fallback"]) == (
        4.0,
        "cpu",
        "unsure",
    )


async def test_an_answer_that_nobody_measured_claims_no_effort(bench: Bench) -> None:
    await bench.service.chat(request("triage"), LOCAL_CALLER)
    [trace] = bench.record.traces
    assert "compute_ms" not in trace.tags


async def test_an_audit_is_an_expense_and_no_keys(bench: Bench) -> None:
    bench.settings = PRICED
    bench.specialists.functions["t1@3"] = _metered()
    await bench.service.chat(request("triage"), LOCAL_CALLER)
    await bench.service.background.drain()
    [spent] = bench.spent
    usd = (spent.prompt_tokens * 10 + spent.completion_tokens * 100) / 1e6
    assert spent == Expense(
        kind="audit",
        task_id=TaskId("t1"),
        at=bench.clock.now(),
        calls=1,
        prompt_tokens=spent.prompt_tokens,
        completion_tokens=spent.completion_tokens,
        usd=pytest.approx(usd),
    )
    assert spent.prompt_tokens > 0 and spent.completion_tokens > 0
    assert bench.charged == []
    assert series(bench, "shoal_cost_usd_total") == {'{what="audits"}': pytest.approx(usd)}


async def test_without_a_price_an_audit_is_unpriced_and_money_has_no_series(bench: Bench) -> None:
    bench.settings = ServiceSettings(audit_share=1.0)
    await bench.service.chat(request("triage"), LOCAL_CALLER)
    await bench.service.chat(request("mood"), LOCAL_CALLER)
    await bench.service.background.drain()
    assert [(e.kind, e.unpriced, e.usd) for e in bench.spent if e.kind == "audit"] == [("audit", 1, 0.0)]
    assert series(bench, "shoal_cost_usd_total") == {}
    assert series(bench, "shoal_avoided_usd_total") == {}


async def test_a_shadow_spends_its_compute(bench: Bench) -> None:
    bench.specialists.functions["t2@1"] = _metered()
    await bench.service.chat(request("mood"), LOCAL_CALLER)
    await bench.service.background.drain()
    [spent] = bench.spent
    assert (spent.kind, spent.task_id, spent.calls, spent.compute) == ("shadow", "t2", 0, Compute(cpu_ms=4.0))
    assert series(bench, "shoal_compute_seconds_total") == {'{task="mood"}': 0.004}


async def test_metrics_count_what_was_not_paid_and_what_was(bench: Bench) -> None:
    bench.settings = replace(PRICED, audit_share=0.0)
    bench.generalist = FunctionGeneralist(lambda r: "ok")
    bench.specialists.functions["t1@3"] = _metered()
    await bench.service.chat(request("triage"), LOCAL_CALLER)
    await bench.service.chat(request("none such"), LOCAL_CALLER)
    (avoided,) = series(bench, "shoal_avoided_usd_total").values()
    paid = series(bench, "shoal_cost_usd_total")
    assert avoided > 0
    assert list(paid) == ['{what="answers"}'] and paid['{what="answers"}'] == pytest.approx(
        bench.charged[0][1]
    )
    assert series(bench, "shoal_compute_seconds_total") == {'{task="triage"}': 0.004}
