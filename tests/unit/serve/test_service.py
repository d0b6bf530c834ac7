from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest

from shoal.agents.fakes import FakeClock, FunctionGeneralist
from shoal.agents.ports import SpecialistAnswer
from shoal.agents.registry.records import OutputKind, VersionState
from shoal.agents.routing.router import Router
from shoal.agents.routing.snapshot import Snapshot
from shoal.agents.traces.chat import Answer, ChatRequest, Delta, Usage
from shoal.errors import (
    DeadlineExceeded,
    GeneralistUnavailable,
    NoPerformer,
    NotFound,
    PrivacyViolation,
    SpecialistUnavailable,
    StorageFull,
)
from shoal.serve.call import LOCAL_CALLER, CallContext
from shoal.serve.fakes import FunctionSpecialists, ListObserver, ListRecord
from shoal.serve.ports import ComparisonMade, Routing
from shoal.serve.service import ChatService
from shoal.serve.settings import ServiceSettings

from .conftest import SERVING, SHADOW, Bench, ask, route, sure, unsure


def request(text: str, mark: str = "", **more: Any) -> ChatRequest:
    return ChatRequest(body=ask(text, mark, **more))


async def chunks(service: ChatService, asked: ChatRequest) -> list[dict[str, Any]]:
    stream = await service.stream(asked, LOCAL_CALLER)
    try:
        return [chunk async for chunk in stream]
    finally:
        await stream.aclose()


class SlowGeneralist(FunctionGeneralist):
    """Streams for ever until it is closed."""

    closed = False

    async def stream(self, request: ChatRequest, *, deadline_s: float) -> AsyncIterator[Delta]:
        try:
            while True:
                yield Delta(content="on ")
                await asyncio.sleep(0)
        finally:
            self.closed = True


class BreakingGeneralist(FunctionGeneralist):
    async def stream(self, request: ChatRequest, *, deadline_s: float) -> AsyncIterator[Delta]:
        yield Delta(content="half ")
        raise GeneralistUnavailable("It broke off.")


# -- who answers ---------------------------------------------------------------------------------------------------------


async def test_a_slow_specialist_is_left_for_the_generalist(bench: Bench) -> None:
    bench.settings = ServiceSettings(specialist_deadline_s=0.02)
    bench.specialists.delay_s = 5
    served = await bench.service.chat(request("a", "triage"), LOCAL_CALLER)
    assert served.served_by == "generalist/fake-generalist"
    assert bench.record.traces[0].tags["fallback"] == "slow"


async def test_a_specialist_client_that_keeps_no_deadline_is_cut_off(bench: Bench) -> None:
    class Stuck:
        async def ask(self, version_key: str, request: ChatRequest, *, deadline_s: float) -> SpecialistAnswer:
            await asyncio.sleep(60)
            raise AssertionError

    bench.settings = ServiceSettings(specialist_deadline_s=0.02)
    bench.specialists = Stuck()  # type: ignore[assignment]
    assert (await bench.service.chat(request("a", "triage"), LOCAL_CALLER)).served_by.startswith("generalist")


async def test_a_failed_specialist_is_left_for_the_generalist(bench: Bench) -> None:
    bench.specialists.error = SpecialistUnavailable("The replica died.")
    served = await bench.service.chat(request("a", "triage"), LOCAL_CALLER)
    assert served.served_by == "generalist/fake-generalist"
    assert bench.record.traces[0].tags["fallback"] == "failed"


async def test_a_specialist_without_an_answer_is_left_for_the_generalist(bench: Bench) -> None:
    bench.specialists.functions["t1@3"] = lambda r: SpecialistAnswer(content=None, confidence=1.0)
    assert (await bench.service.chat(request("a", "triage"), LOCAL_CALLER)).answer.content == "large: a"


async def test_a_named_specialist_answers_however_unsure(bench: Bench) -> None:
    bench.specialists.functions["t1@3"] = unsure
    served = await bench.service.chat(request("a", model="specialist/triage"), LOCAL_CALLER)
    assert (served.answer.content, served.served_by) == ("a guess", "specialist/triage@3")


async def test_a_named_specialist_that_fails_is_replaced_by_nobody(bench: Bench) -> None:
    asked = request("a", model="specialist/triage")
    bench.specialists.error = SpecialistUnavailable("The replica died.")
    with pytest.raises(SpecialistUnavailable):
        await bench.service.chat(asked, LOCAL_CALLER)
    bench.specialists.error = DeadlineExceeded("slow")
    with pytest.raises(DeadlineExceeded):
        await bench.service.chat(asked, LOCAL_CALLER)
    bench.specialists.error = None
    bench.specialists.functions["t1@3"] = lambda r: SpecialistAnswer(
        content=None, confidence=0.0, reason="no record"
    )
    with pytest.raises(NoPerformer, match="no record"):
        await bench.service.chat(asked, LOCAL_CALLER)


async def test_before_the_first_snapshot_the_generalist_answers(bench: Bench) -> None:
    bench.ready = False
    assert bench.service.unready() == ["no router snapshot yet"]
    served = await bench.service.chat(request("a", "triage"), LOCAL_CALLER)
    assert served.served_by == "generalist/fake-generalist"
    with pytest.raises(NoPerformer):
        await bench.service.chat(request("a", model="specialist/triage"), LOCAL_CALLER)
    bench.ready = True
    assert bench.service.unready() == []


async def test_local_only_data_may_go_to_a_generalist_on_this_machine(bench: Bench) -> None:
    bench.settings = ServiceSettings(generalist_local=True, default_privacy="local-only")
    assert (await bench.service.chat(request("a"), LOCAL_CALLER)).answer.content == "large: a"


async def test_local_only_data_is_kept_from_a_generalist_elsewhere_also_when_streamed(bench: Bench) -> None:
    bench.specialists.functions["t1@3"] = unsure
    with pytest.raises(PrivacyViolation, match="not sure enough"):
        await bench.service.stream(request("a", "triage"), LOCAL_CALLER, CallContext(privacy="local-only"))


async def test_the_generalist_gets_what_the_client_sent_without_our_conversation(bench: Bench) -> None:
    generalist = bench.generalist
    assert isinstance(generalist, FunctionGeneralist)
    asked = request("a")
    await bench.service.chat(asked, LOCAL_CALLER, CallContext(conversation="c-1"))
    assert generalist.requests == [asked]
    assert bench.record.traces[0].conversation_id == "c-1"


# -- recording -----------------------------------------------------------------------------------------------------------


async def test_nobody_is_asked_where_the_record_would_have_no_room(bench: Bench) -> None:
    bench.admit_error = StorageFull("full")
    with pytest.raises(StorageFull):
        await bench.service.chat(request("a", "triage"), LOCAL_CALLER)
    assert bench.specialists.asked == []


async def test_a_stream_is_recorded_before_its_last_pieces_go_out(bench: Bench) -> None:
    stream = await bench.service.stream(
        request("one two", stream_options={"include_usage": True}), LOCAL_CALLER
    )
    recorded = [
        (len(bench.record.traces), [c["finish_reason"] for c in chunk["choices"]]) async for chunk in stream
    ]
    assert recorded[:-2] == [(0, [None])] * (len(recorded) - 2)
    assert recorded[-2:] == [(1, ["stop"]), (1, [])]
    [trace] = bench.record.traces
    assert trace.answer.content == "large: one two "
    assert "incomplete" not in trace.tags
    await stream.aclose()
    assert len(bench.record.traces) == 1


async def test_usage_comes_last_and_only_where_it_was_asked_for(bench: Bench) -> None:
    assert not any("usage" in chunk for chunk in await chunks(bench.service, request("a", "triage")))
    asked = request("a", "triage", stream_options={"include_usage": True})
    *_, last = await chunks(bench.service, asked)
    assert last["choices"] == []
    assert last["usage"]["total_tokens"] > 0


async def test_a_stream_that_the_client_leaves_is_broken_off_and_recorded_as_incomplete(bench: Bench) -> None:
    bench.generalist = generalist = SlowGeneralist(lambda r: "")
    stream = await bench.service.stream(request("a"), LOCAL_CALLER)
    iterator = aiter(stream)
    for _ in range(3):
        await anext(iterator)
    await stream.aclose()
    assert generalist.closed
    [trace] = bench.record.traces
    assert trace.tags["incomplete"] == "client_closed"
    assert trace.response["choices"][0]["finish_reason"] is None
    assert trace.answer.content == "on on on "


async def test_a_stream_that_nobody_reads_is_broken_off_too(bench: Bench) -> None:
    bench.generalist = generalist = SlowGeneralist(lambda r: "")
    stream = await bench.service.stream(request("a"), LOCAL_CALLER)
    await stream.aclose()
    await stream.aclose()
    assert generalist.closed
    assert [trace.tags["incomplete"] for trace in bench.record.traces] == ["client_closed"]


async def test_a_stream_that_breaks_off_upstream_is_recorded_as_incomplete(bench: Bench) -> None:
    bench.generalist = BreakingGeneralist(lambda r: "")
    with pytest.raises(GeneralistUnavailable):
        await chunks(bench.service, request("a"))
    [trace] = bench.record.traces
    assert (trace.tags["incomplete"], trace.answer.content) == ("generalist_unavailable", "half ")


async def test_a_client_that_leaves_while_the_disk_is_full_hurts_nobody(bench: Bench) -> None:
    stream = await bench.service.stream(request("a"), LOCAL_CALLER)
    bench.record.error = StorageFull("full")
    await stream.aclose()


class ThinkingGeneralist(FunctionGeneralist):
    """Streams as endpoints do: the role alone, then after 0.25 s its reasoning, then a call, each in a chunk of its own."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(lambda request: "")
        self._clock = clock

    async def stream(self, request: ChatRequest, *, deadline_s: float) -> AsyncIterator[Delta]:
        call = {"index": 0, "id": "c1", "type": "function", "function": {"name": "find", "arguments": "{}"}}
        pieces: list[dict[str, Any]] = [
            {"role": "assistant"},
            {"reasoning_content": "Hm."},
            {"tool_calls": [call]},
        ]
        for number, delta in enumerate(pieces):
            self._clock.advance(0.25 if number else 0.0)
            last = number == len(pieces) - 1
            choice = {"index": 0, "delta": delta, "finish_reason": "tool_calls" if last else None}
            yield Delta(chunk={"choices": [choice]}, usage=Usage(prompt_tokens=7, completion_tokens=3))


async def test_a_stream_s_trace_keeps_reasoning_calls_tokens_cost_and_the_first_token(bench: Bench) -> None:
    bench.generalist = ThinkingGeneralist(bench.clock)
    await chunks(bench.service, request("a", stream=True))
    [trace] = bench.record.traces
    message = trace.response["choices"][0]["message"]
    assert message["reasoning_content"] == "Hm."
    assert message["tool_calls"][0]["function"]["name"] == "find"
    assert trace.answer.usage == Usage(prompt_tokens=7, completion_tokens=3)
    assert (trace.first_token_ms, trace.latency_ms) == (250.0, 500.0)
    assert trace.cost_usd == bench.service._settings.cost_usd(Usage(prompt_tokens=7, completion_tokens=3))


async def test_tags_say_how_it_went(bench: Bench) -> None:
    parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    await bench.service.chat(request("a", "triage"), LOCAL_CALLER, CallContext(traceparent=parent))
    [trace] = bench.record.traces
    assert trace.tags == {
        "key": "local",
        "epoch": 7,
        "how": "mark",
        "task": "triage",
        "task_id": "t1",
        "confidence": 0.95,
        "traceparent": parent,
    }
    assert trace.latency_ms == 0.0


async def test_what_the_generalist_costs_is_charged_to_the_key(bench: Bench) -> None:
    class Counting(FunctionGeneralist):
        async def chat(self, request: ChatRequest, *, deadline_s: float) -> Answer:
            return Answer(
                content="x", model="m", usage=Usage(prompt_tokens=1_000_000, completion_tokens=500_000)
            )

    bench.generalist = Counting(lambda r: "")
    bench.settings = ServiceSettings(price_in=2.0, price_out=8.0)
    served = await bench.service.chat(request("a"), replace(LOCAL_CALLER, id="key-9"))
    assert served.cost_usd == pytest.approx(6.0)
    assert bench.charged == [("key-9", pytest.approx(6.0))]


# -- comparisons ---------------------------------------------------------------------------------------------------------


async def test_a_shadow_is_compared_where_the_generalist_answered(bench: Bench) -> None:
    bench.generalist = FunctionGeneralist(lambda r: "Calm")
    bench.specialists.functions["t2@1"] = lambda r: SpecialistAnswer(content="calm", confidence=0.9)
    for streamed in (False, True):
        asked = request("a", "mood")
        served_by = (
            (await chunks(bench.service, asked))[0]["model"]
            if streamed
            else (await bench.service.chat(asked, LOCAL_CALLER)).served_by
        )
        assert served_by == "generalist/fake-generalist"
    await bench.service.background.drain()
    first = ComparisonMade(
        task_id="t2",
        task_name="mood",
        version_key="t2@1",
        source="shadow",
        judged=True,
        agrees=True,
        confidence=0.9,
        accepted=True,
        trace_id="trace-1",
        at=bench.clock.now(),
    )
    second = replace(first, trace_id="trace-2")
    assert bench.observer.events[0] == first
    # the fake generalist streams a blank after each word, which no label minds
    assert bench.observer.events[1:] == [second]


async def test_a_shadow_that_differs_or_is_unsure_is_reported_as_such(bench: Bench) -> None:
    bench.specialists.functions["t2@1"] = lambda r: SpecialistAnswer(content="angry", confidence=0.2)
    await bench.service.chat(request("a", "mood"), LOCAL_CALLER)
    await bench.service.background.drain()
    [event] = bench.observer.events
    assert isinstance(event, ComparisonMade)
    assert (event.agrees, event.accepted, event.confidence) == (False, False, 0.2)


async def test_a_free_text_is_not_judged_without_a_checker(bench: Bench) -> None:
    bench.routes = (route("mood", SHADOW, kind=OutputKind.TEXT),)
    await bench.service.chat(request("a", "mood"), LOCAL_CALLER)
    await bench.service.background.drain()
    [event] = bench.observer.events
    assert isinstance(event, ComparisonMade) and not event.judged


async def test_a_shadow_that_fails_or_a_call_that_a_specialist_answered_makes_no_comparison(
    bench: Bench,
) -> None:
    bench.routes = (route("triage", SERVING, replace(SHADOW, key="t1@4")),)
    bench.specialists.functions["t1@4"] = sure
    await bench.service.chat(request("a", "triage"), LOCAL_CALLER)
    await bench.service.background.drain()
    assert [key for key, _ in bench.specialists.asked] == ["t1@3"]
    bench.specialists.error = SpecialistUnavailable("away")
    await bench.service.chat(request("a", "triage"), LOCAL_CALLER)
    await bench.service.background.drain()
    assert bench.observer.events == []


@pytest.mark.parametrize(
    ("serving_says", "drawn"), [(sure, True), (sure, False), (unsure, True), (unsure, False)]
)
async def test_a_shadow_beside_another_version_is_compared_on_a_draw_whether_that_version_was_sure_or_not(
    bench: Bench, serving_says: Callable[[ChatRequest], SpecialistAnswer], drawn: bool
) -> None:
    bench.settings = ServiceSettings(audit_share=0.5)
    bench.chance = lambda: 0.0 if drawn else 0.999
    bench.routes = (route("triage", SERVING, replace(SHADOW, key="t1@4")),)
    bench.specialists.functions |= {"t1@3": serving_says, "t1@4": sure}
    await bench.service.chat(request("a", "triage"), LOCAL_CALLER)
    await bench.service.background.drain()
    await bench.service.background.drain()
    shadows = [e for e in bench.observer.events if getattr(e, "source", "") == "shadow"]
    assert [e.version_key for e in shadows] == (["t1@4"] if drawn else [])


async def test_comparisons_over_the_bound_are_dropped_not_queued(bench: Bench) -> None:
    bench.background_limit = 2
    for _ in range(5):
        await bench.service.chat(request("a", "mood"), LOCAL_CALLER)
    # nothing has run yet: the calls above never gave way to it
    assert (len(bench.service.background), bench.service.background.dropped) == (2, 3)
    await bench.service.background.drain()
    assert len(bench.observer.events) == 2


@pytest.mark.parametrize(
    ("share", "state", "privacy", "audits"),
    [
        (1.0, VersionState.SERVING, "internal", 1),
        (0.0, VersionState.SERVING, "internal", 0),
        (1.0, VersionState.SERVING, "local-only", 0),
        (0.0, VersionState.CANARY, "internal", 1),
    ],
)
async def test_answers_of_specialists_are_audited_by_their_share_and_a_canarys_always(
    bench: Bench, share: float, state: VersionState, privacy: Any, audits: int
) -> None:
    bench.settings = ServiceSettings(audit_share=share)
    bench.routes = (route("triage", replace(SERVING, state=state)),)
    bench.generalist = FunctionGeneralist(lambda r: f"small: {r.last_user_text}")
    await bench.service.chat(request("a", "triage"), LOCAL_CALLER, CallContext(privacy=privacy))
    await bench.service.background.drain()
    assert len(bench.observer.events) == audits
    assert len(bench.generalist.requests) == audits
    assert len(bench.record.traces) == 1
    if audits:
        [event] = bench.observer.events
        assert isinstance(event, ComparisonMade)
        assert (event.source, event.agrees, event.accepted) == ("audit", True, True)


async def test_an_answer_that_was_cut_short_is_compared_with_nothing(bench: Bench) -> None:
    class Short(FunctionGeneralist):
        async def chat(self, request: ChatRequest, *, deadline_s: float) -> Answer:
            return Answer(content="Ca", model="m", finish_reason="length")

    bench.generalist = Short(lambda r: "")
    await bench.service.chat(request("a", "mood"), LOCAL_CALLER)
    await bench.service.background.drain()
    assert bench.observer.events == []


async def test_the_service_decides_over_the_real_router() -> None:
    router: Routing = Router(Snapshot(epoch=3))
    record = ListRecord()
    service = ChatService(
        router=lambda: router,
        generalist=FunctionGeneralist(lambda r: "ok", model="big"),
        specialists=FunctionSpecialists(),
        record=record,
        observe=ListObserver(),
        clock=FakeClock(),
        ids=lambda: "t",
        node="n",
        tier="local",
    )
    for model in ("auto", "big", "generalist"):
        assert (await service.chat(request("a", model=model), LOCAL_CALLER)).served_by == "generalist/big"
    for model in ("gpt-9", "specialist/none", "agent/none"):
        with pytest.raises(NotFound):
            await service.chat(request("a", model=model), LOCAL_CALLER)
    assert [model["id"] for model in await service.models()] == ["auto", "generalist", "big"]
    assert record.traces[0].tags["epoch"] == 3
