from __future__ import annotations

import asyncio

import pytest

from shoal.agents.contract.drift import bin_of
from shoal.agents.feedback.audit_view import AuditView
from shoal.agents.traces.chat import ChatRequest
from shoal.serve.call import LOCAL_CALLER
from shoal.serve.metrics import Metrics
from shoal.serve.ports import InputsSeen

from .conftest import SERVING, Bench, ask, unsure


def request(text: str, mark: str = "triage", **more: object) -> ChatRequest:
    return ChatRequest(body=ask(text, mark, **more))


async def seen(bench: Bench) -> list[InputsSeen]:
    await bench.service.background.drain()
    return [event for event in bench.observer.events if isinstance(event, InputsSeen)]


async def test_fifty_calls_are_one_batch_that_holds_how_sure_the_version_was_and_no_text(
    bench: Bench,
) -> None:
    for number in range(50):
        await bench.service.chat(request(f"secret {number}"), LOCAL_CALLER)
    (event,) = await seen(bench)
    assert (event.version_key, len(event.bins), event.given) == (SERVING.key, 50, 50)
    assert set(event.bins) == {bin_of(0.95)}
    assert event.since <= event.at
    assert "secret" not in str(event.to_dict())
    assert event.to_dict()["type"] == "inputs"


async def test_a_version_that_was_unsure_is_watched_and_has_given_nothing(bench: Bench) -> None:
    bench.specialists.functions[SERVING.key] = unsure
    await bench.service.chat(request("a"), LOCAL_CALLER)
    await bench.service.close()
    (event,) = await seen(bench)
    assert (event.bins, event.given) == ((bin_of(0.3),), 0)


async def test_calls_that_name_the_specialist_count_in_nothing(bench: Bench) -> None:
    await bench.service.chat(request("a", model="specialist/triage"), LOCAL_CALLER)
    bench.specialists.functions[SERVING.key] = unsure
    await bench.service.chat(request("b", model="specialist/triage"), LOCAL_CALLER)
    await bench.service.close()
    assert await seen(bench) == []


async def test_calls_that_no_version_was_asked_for_are_nothing_to_watch(bench: Bench) -> None:
    await bench.service.chat(request("a", ""), LOCAL_CALLER)
    await bench.service.close()
    assert await seen(bench) == []


async def test_what_waits_is_sent_after_a_while(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shoal.serve.inputs._WAIT_S", 0.0)
    await bench.service.chat(request("a"), LOCAL_CALLER)
    await asyncio.sleep(0.02)
    assert len(await seen(bench)) == 1


def test_metrics_show_the_audit_of_each_version_and_read_it_only_when_asked() -> None:
    reads: list[int] = []
    view = AuditView(
        stage="audit",
        compared=40,
        wrong=3,
        given=900,
        contradicted=2,
        e_value=1.5,
        limit=20.0,
        drift="drifted",
        inputs=1000,
        drift_e_value=300.0,
        drift_limit=100.0,
        distance=0.25,
        drifted_at=5.0,
    )

    def audits() -> dict[str, AuditView]:
        reads.append(1)
        return {"triage@2": view}

    metrics = Metrics(audits=audits)
    assert not reads
    page = metrics.render().decode()
    for line in (
        'shoal_audit_compared{specialist="triage@2"} 40.0',
        'shoal_audit_wrong{specialist="triage@2"} 3.0',
        'shoal_audit_e_value{specialist="triage@2"} 1.5',
        'shoal_audit_limit{specialist="triage@2"} 20.0',
        'shoal_inputs_drifted{specialist="triage@2"} 1.0',
    ):
        assert line in page
    metrics.render()
    assert len(reads) == 1
