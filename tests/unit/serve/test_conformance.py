"""The same cases over HTTP and over gRPC, through the client: both ways in must say the same."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from shoal import errors
from shoal.agents.fakes import FunctionGeneralist
from shoal.agents.ports import SpecialistAnswer
from shoal.agents.traces.chat import Answer
from shoal.errors import GeneralistRefused, ShoalError
from shoal.serve.client import AsyncClient, ChatAnswer
from shoal.serve.ports import FeedbackGiven
from shoal.serve.settings import ServiceSettings

from .conftest import Bench, Way, ask, unsure


async def send(client: AsyncClient, body: dict[str, Any], **beside: str) -> ChatAnswer:
    params = {k: v for k, v in body.items() if k not in ("model", "messages")}
    return await client.chat(body["messages"], body["model"], **beside, **params)


async def test_a_sure_specialist_answers_and_is_named(way: Way, bench: Bench) -> None:
    answer = await send(await way.client(bench), ask("hello", "triage"))
    assert answer.text == "small: hello"
    assert answer.served_by == "specialist/triage@3"
    assert answer.completion["model"] == "specialist/triage@3"
    assert (answer.trace_id, answer.node, answer.tier) == ("trace-1", "node-a", "local")
    assert answer.finish_reason == "stop"
    assert answer.cost == 0.0
    assert answer.usage.completion_tokens > 0
    assert isinstance(bench.generalist, FunctionGeneralist)
    assert bench.generalist.requests == []


async def test_an_unsure_specialist_leaves_the_call_to_the_generalist(way: Way, bench: Bench) -> None:
    bench.specialists.functions["t1@3"] = unsure
    answer = await send(await way.client(bench), ask("hello", "triage"))
    assert (answer.text, answer.served_by) == ("large: hello", "generalist/fake-generalist")
    assert bench.record.traces[0].tags["fallback"] == "unsure"


@pytest.mark.parametrize("model", ["auto", "fake-generalist"])
async def test_an_agent_that_names_the_generalists_model_is_served_by_specialists(
    way: Way, bench: Bench, model: str
) -> None:
    answer = await send(await way.client(bench), ask("hello", "triage", model=model))
    assert answer.served_by == "specialist/triage@3"


async def test_the_model_generalist_always_means_the_large_one(way: Way, bench: Bench) -> None:
    answer = await send(await way.client(bench), ask("hello", "triage", model="generalist"))
    assert answer.served_by == "generalist/fake-generalist"
    assert bench.specialists.asked == []


@pytest.mark.parametrize("mark", ["triage", ""])
async def test_a_stream_has_the_same_words_as_a_whole_answer(way: Way, bench: Bench, mark: str) -> None:
    client = await way.client(bench)
    body = ask("one two three", mark)
    whole = await send(client, body)
    pieces = [piece async for piece in client.chat_stream(body["messages"])]
    assert "".join(piece.text for piece in pieces).strip() == whole.text
    assert {piece.served_by for piece in pieces} == {whole.served_by}
    assert {piece.trace_id for piece in pieces} == {"trace-2"}
    assert [piece.finish_reason for piece in pieces if piece.finish_reason] == ["stop"]
    assert pieces[-1].usage is not None and pieces[-1].usage.completion_tokens > 0
    assert pieces[0].chunk["choices"][0]["delta"]["role"] == "assistant"


async def test_an_unsure_specialist_says_nothing_in_a_stream(way: Way, bench: Bench) -> None:
    bench.specialists.functions["t1@3"] = unsure
    client = await way.client(bench)
    pieces = [p async for p in client.chat_stream(ask("hello", "triage")["messages"])]
    assert "".join(p.text for p in pieces).strip() == "large: hello"
    assert {p.served_by for p in pieces} == {"generalist/fake-generalist"}


async def test_what_is_recorded_is_what_the_client_got(way: Way, bench: Bench) -> None:
    client = await way.client(bench)
    answer = await send(client, ask("hello", "triage"), privacy="public", conversation="c-9")
    [trace] = bench.record.traces
    assert trace.response["choices"] == answer.completion["choices"]
    assert trace.id == answer.trace_id
    assert trace.privacy == "public"
    assert trace.conversation_id == "c-9"
    assert trace.served_by == "specialist/triage@3"
    assert trace.tags["task"] == "triage"
    assert trace.tags["epoch"] == 7


async def test_every_field_of_a_request_arrives(way: Way, bench: Bench) -> None:
    tool = {
        "type": "function",
        "function": {
            "name": "f",
            "parameters": {"type": "object", "properties": {"b": {"maximum": 5}, "a": {}}},
        },
    }
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"b": 1}'}}
    body = ask("hello") | {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "look"}], "name": "ann"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "content": "7", "tool_call_id": "c1"},
        ],
        "tools": [tool],
        "tool_choice": "required",
        "response_format": {"type": "json_object"},
        "temperature": 0.5,
        "top_p": 0.9,
        "max_tokens": 12,
        "n": 2,
        "stop": ["x"],
        "seed": 2**40,
        "user": "u",
        "metadata": {"k": "v"},
        "reasoning_effort": "low",
        "vendor": {"z": 1, "a": [1.5, None]},
    }
    await send(await way.client(bench), body)
    got = dict(bench.record.traces[0].request)
    for message in got["messages"]:
        message.setdefault("content", None)
    assert got == body
    assert list(got["tools"][0]["function"]["parameters"]["properties"]) == ["b", "a"]


async def test_what_a_generalist_adds_to_its_answer_is_passed_on(way: Way, bench: Bench) -> None:
    completion = {
        "id": "upstream",
        "created": 5,
        "system_fingerprint": "fp",
        "choices": [
            {
                "index": i,
                "message": {
                    "role": "assistant",
                    "content": None,
                    "refusal": "no",
                    "tool_calls": [
                        {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
                    ],
                },
                "finish_reason": "tool_calls",
                "logprobs": None,
            }
            for i in range(2)
        ],
        "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7},
    }

    class Rich(FunctionGeneralist):
        async def chat(self, request: Any, *, deadline_s: float) -> Answer:
            return Answer.from_openai(completion, model=self.model)

    bench.generalist = Rich(lambda request: "")
    answer = await send(await way.client(bench), ask("hello"))
    assert answer.completion["choices"] == completion["choices"]
    assert answer.completion["system_fingerprint"] == "fp"
    assert answer.completion["id"] == "chatcmpl-trace-1"
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (3, 4)


async def test_tokens_of_the_generalist_cost_what_is_configured(way: Way, bench: Bench) -> None:
    bench.settings = ServiceSettings(price_in=1e6, price_out=2e6)
    answer = await send(await way.client(bench), ask("hello"))
    assert answer.cost == pytest.approx(answer.usage.prompt_tokens + 2 * answer.usage.completion_tokens)


def refused() -> GeneralistRefused:
    error = GeneralistRefused("This model's maximum context length is 8 tokens.", param="messages")
    error.status, error.upstream_code = 422, "context_length_exceeded"
    return error


@pytest.mark.parametrize(
    "error",
    [
        errors.GeneralistUnavailable("It is down.", remedy="Wait — a bit."),
        errors.DeadlineExceeded("Too slow."),
        refused(),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("streamed", [False, True])
async def test_errors_of_the_generalist_arrive_as_what_they_were(
    way: Way, bench: Bench, error: ShoalError, streamed: bool
) -> None:
    bench.generalist = FunctionGeneralist(lambda request: "", error=error)
    client = await way.client(bench)
    with pytest.raises(type(error)) as caught:
        if streamed:
            [piece async for piece in client.chat_stream(ask("hello")["messages"])]
        else:
            await send(client, ask("hello"))
    assert str(caught.value) == str(error)
    assert caught.value.param == error.param
    if isinstance(caught.value, GeneralistRefused):
        assert caught.value.upstream_code == "context_length_exceeded"
    assert bench.record.traces == []


async def test_no_generalist_and_no_sure_specialist_is_a_clear_error(way: Way, bench: Bench) -> None:
    bench.generalist = None
    bench.specialists.functions["t1@3"] = unsure
    client = await way.client(bench)
    with pytest.raises(errors.NoPerformer, match=r"t1@3 is not sure enough: 0.300 of 0.800, never seen"):
        await send(client, ask("hello", "triage"))


async def test_local_only_data_never_reaches_a_generalist_elsewhere(way: Way, bench: Bench) -> None:
    client = await way.client(bench)
    with pytest.raises(errors.PrivacyViolation):
        await send(client, ask("hello"), privacy="local-only")
    assert isinstance(bench.generalist, FunctionGeneralist)
    assert bench.generalist.requests == []
    answer = await send(client, ask("hello", "triage"), privacy="local-only")
    assert answer.served_by == "specialist/triage@3"
    assert bench.record.traces[-1].privacy == "local-only"


async def test_a_full_disk_refuses_the_call_and_withholds_the_answer(way: Way, bench: Bench) -> None:
    bench.record.error = errors.StorageFull("The disk has 3 MB left.", remedy="Make room.")
    client = await way.client(bench)
    with pytest.raises(errors.StorageFull, match="Make room"):
        await send(client, ask("hello", "triage"))
    texts = []
    with pytest.raises(errors.StorageFull):
        async for piece in client.chat_stream(ask("hello", "triage")["messages"]):
            texts.append(piece.finish_reason)
    assert "stop" not in texts


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"messages": []}, "messages"),
        ({"temperature": 9}, "temperature"),
        ({"messages": [{"role": "nobody", "content": "x"}]}, "messages.0.role"),
    ],
)
async def test_bad_requests_are_refused_with_the_path_to_the_field(
    way: Way, bench: Bench, change: dict[str, Any], param: str
) -> None:
    client = await way.client(bench)
    with pytest.raises(errors.InvalidRequest) as caught:
        await send(client, ask("hello") | change)
    assert caught.value.param == param


async def test_an_unknown_privacy_label_is_refused(way: Way, bench: Bench) -> None:
    with pytest.raises(errors.InvalidRequest, match="local-only"):
        await send(await way.client(bench), ask("hello"), privacy="secret")


@pytest.mark.parametrize("model", ["gpt-9", "specialist/none"])
async def test_a_model_that_is_not_there_is_not_found(way: Way, bench: Bench, model: str) -> None:
    with pytest.raises(errors.NotFound):
        await send(await way.client(bench), ask("hello", model=model))


async def test_models_list_what_may_be_asked_now(way: Way, bench: Bench) -> None:
    client = await way.client(bench)
    # the shadow of `mood` answers nobody yet
    assert await client.models() == [
        "auto",
        "generalist",
        "fake-generalist",
        "specialist/triage",
        "agent/report",
    ]


async def test_feedback_reaches_the_observer(way: Way, bench: Bench) -> None:
    client = await way.client(bench)
    await client.feedback("trace-1", score=-0.5, correction="better", comment="no")
    [event] = bench.observer.events
    assert dataclasses.asdict(event) == dataclasses.asdict(
        FeedbackGiven(
            trace_id="trace-1",
            client_id="local",
            score=-0.5,
            correction={"role": "assistant", "content": "better"},
            comment="no",
            at=bench.clock.now(),
        )
    )


@pytest.mark.parametrize("said", [{"score": 2.0}, {}])
async def test_feedback_that_says_nothing_sensible_is_refused(
    way: Way, bench: Bench, said: dict[str, float]
) -> None:
    client = await way.client(bench)
    with pytest.raises(errors.InvalidRequest) as caught:
        await client.feedback("trace-1", score=said.get("score"))
    assert caught.value.param == "score"
    assert bench.observer.events == []


async def test_without_a_key_a_site_beyond_loopback_lets_nobody_in(way: Way, bench: Bench) -> None:
    bench.beyond_loopback = True
    client = await way.client(bench)
    with pytest.raises(errors.Unauthenticated):
        await send(client, ask("hello"))
    with pytest.raises(errors.Unauthenticated):
        await client.models()


async def test_a_fault_shows_nothing_of_the_inside(way: Way, bench: Bench) -> None:
    def broken(request: Any) -> str:
        raise RuntimeError("secret detail")

    bench.generalist = FunctionGeneralist(broken)
    with pytest.raises(ShoalError) as caught:
        await send(await way.client(bench), ask("hello"))
    assert type(caught.value) is ShoalError
    assert "secret" not in str(caught.value)


def calls_two(request: Any) -> SpecialistAnswer:
    calls = [
        {"type": "function", "function": {"name": "find", "arguments": json.dumps({"where": "Bodø " * 20})}},
        {"type": "function", "function": {"name": "stop", "arguments": "{}"}},
    ]
    return SpecialistAnswer(content=None, confidence=0.95, tool_calls=calls)


async def test_a_specialists_function_calls_have_openais_form(way: Way, bench: Bench) -> None:
    bench.specialists.functions["t1@3"] = calls_two
    answer = await send(await way.client(bench), ask("hello", "triage"))
    [choice] = answer.completion["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    calls = choice["message"]["tool_calls"]
    assert [c["function"]["name"] for c in calls] == ["find", "stop"]
    assert [c["type"] for c in calls] == ["function", "function"]
    assert len({c["id"] for c in calls} - {""}) == 2
    assert answer.served_by == "specialist/triage@3"
    assert bench.record.traces[0].answer.tool_calls[0]["function"]["name"] == "find"
    assert answer.usage.completion_tokens > 20


async def test_streamed_function_calls_come_in_pieces_that_make_the_whole(way: Way, bench: Bench) -> None:
    bench.specialists.functions["t1@3"] = calls_two
    client = await way.client(bench)
    pieces = [p async for p in client.chat_stream(ask("hello", "triage")["messages"])]
    deltas = [p.chunk["choices"][0]["delta"] for p in pieces if p.chunk["choices"]]
    assert deltas[0]["role"] == "assistant"
    parts = [part for delta in deltas for part in delta.get("tool_calls") or ()]
    assert [(p["index"], p["function"]["name"]) for p in parts if p.get("id")] == [(0, "find"), (1, "stop")]
    text = "".join(p["function"].get("arguments") or "" for p in parts if p["index"] == 0)
    assert json.loads(text) == {"where": "Bodø " * 20}
    assert len(parts) > 3
    assert [p.finish_reason for p in pieces if p.finish_reason] == ["tool_calls"]
    [trace] = bench.record.traces
    assert [c["function"]["arguments"] for c in trace.answer.tool_calls] == [text, "{}"]
    assert all(c["id"] for c in trace.answer.tool_calls)
    assert trace.answer.finish_reason == "tool_calls"
