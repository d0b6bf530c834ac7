from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from shoal.agents.traces.formats import detect
from shoal.agents.traces.importing import ImportReport, import_files
from shoal.agents.traces.store import ParquetTraceStore
from shoal.agents.traces.trace import Trace
from shoal.home import Home

MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}]
COMPLETION = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1735689817,
    "model": "gpt-x",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "yes"}, "finish_reason": "stop"}],
}
TOOL_CALL = {"id": "c1", "type": "function", "function": {"name": "find", "arguments": '{"city": "Oslo"}'}}


@pytest.fixture
def store(tmp_path: Path) -> ParquetTraceStore:
    return ParquetTraceStore(Home(tmp_path / "home").create())


def imported(
    store: ParquetTraceStore, tmp_path: Path, *records: Any, **options: Any
) -> tuple[ImportReport, list[Trace]]:
    log = tmp_path / "log.jsonl"
    log.write_text("\n".join(json.dumps(record) for record in records))
    report = import_files([log], store=store, **options)
    return report, list(store.scan())


def test_openai_request_and_response_pairs(store: ParquetTraceStore, tmp_path: Path) -> None:
    _, (trace,) = imported(
        store,
        tmp_path,
        {"request": {"model": "gpt-x", "messages": MESSAGES}, "response": COMPLETION},
        format="openai",
    )
    assert trace.timestamp == 1735689817
    assert trace.answer.content == "yes"


def test_openai_stored_completions_with_their_messages(store: ParquetTraceStore, tmp_path: Path) -> None:
    record = {
        **COMPLETION,
        "messages": MESSAGES,
        "temperature": 0.5,
        "tools": None,
        "metadata": {"conversation_id": "7"},
    }
    report, (trace,) = imported(store, tmp_path, record)
    assert list(report.formats.values()) == ["openai"]
    assert trace.id == "chatcmpl-1"
    assert trace.request == {
        "model": "gpt-x",
        "messages": MESSAGES,
        "temperature": 0.5,
        "metadata": {"conversation_id": "7"},
    }
    assert trace.conversation_id == "7"
    assert trace.response == COMPLETION


def test_openai_completions_without_messages_say_what_is_missing(
    store: ParquetTraceStore, tmp_path: Path
) -> None:
    report, found = imported(store, tmp_path, COMPLETION)
    assert found == []
    assert "export the stored completion with its messages" in report.skipped[0][2]


def test_openai_fine_tuning_lines_end_with_the_answer(store: ParquetTraceStore, tmp_path: Path) -> None:
    answer = {"role": "assistant", "tool_calls": [TOOL_CALL]}
    tools = [{"type": "function", "function": {"name": "find"}}]
    report, (trace,) = imported(
        store, tmp_path, {"messages": [*MESSAGES, answer], "tools": tools}, {"messages": MESSAGES}
    )
    assert trace.chat.messages == MESSAGES
    assert trace.chat.tools == tools
    assert trace.answer.tool_calls == (TOOL_CALL,)
    assert trace.answer.finish_reason == "tool_calls"
    assert report.skipped[0][1:] == (2, "its last message must be the assistant's, after at least one other")


def test_the_two_files_of_an_openai_batch_are_joined(store: ParquetTraceStore, tmp_path: Path) -> None:
    sent, got = tmp_path / "input.jsonl", tmp_path / "output.jsonl"
    body = {"model": "gpt-x", "messages": MESSAGES}
    sent.write_text(
        "\n".join(
            json.dumps({"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": body})
            for name in ("one", "two", "three")
        )
    )
    outputs = [
        {
            "id": "b1",
            "custom_id": "two",
            "response": {"status_code": 200, "body": {**COMPLETION, "id": "x2"}},
            "error": None,
        },
        {
            "id": "b2",
            "custom_id": "one",
            "response": {"status_code": 200, "body": {**COMPLETION, "id": "x1"}},
            "error": None,
        },
        {"id": "b3", "custom_id": "three", "response": {"status_code": 500, "body": {}}, "error": None},
        {
            "id": "b4",
            "custom_id": "four",
            "response": {"status_code": 200, "body": COMPLETION},
            "error": None,
        },
    ]
    got.write_text("\n".join(map(json.dumps, outputs)))
    report = import_files([got, sent], store=store)
    assert sorted(t.id for t in store.scan()) == ["x1", "x2"]
    assert report.kept == 2
    reasons = [(Path(file).name, line, reason) for file, line, reason in report.skipped]
    assert reasons == [
        ("output.jsonl", 3, "the batch had no answer for 'three'"),
        (
            "input.jsonl",
            3,
            "the batch call 'three' has no answer: import the batch's output file together with this one",
        ),
        (
            "output.jsonl",
            4,
            "the batch call 'four' has no request: import the batch's input file together with this one",
        ),
    ]


def litellm(**fields: Any) -> dict[str, Any]:
    return {
        "id": "chatcmpl-9",
        "call_type": "acompletion",
        "status": "success",
        "startTime": 1735689817.0,
        "endTime": 1735689817.25,
        "model": "gpt-x-2025",
        "model_group": "gpt-x",
        "messages": MESSAGES,
        "response": COMPLETION,
        "model_parameters": {"temperature": 0, "stream": True, "api_base": "https://secret", "tools": []},
        "metadata": {"user_api_key_alias": "team-a"},
        **fields,
    }


def test_litellm_standard_logging_payload(store: ParquetTraceStore, tmp_path: Path) -> None:
    report, (trace,) = imported(store, tmp_path, litellm())
    assert list(report.formats.values()) == ["litellm"]
    assert trace.request == {"model": "gpt-x", "messages": MESSAGES, "temperature": 0, "tools": []}
    assert (trace.id, trace.client_id, trace.timestamp, trace.latency_ms) == (
        "chatcmpl-9",
        "team-a",
        1735689817.0,
        250.0,
    )
    assert trace.answer.content == "yes"


def test_litellm_payload_inside_callback_arguments(store: ParquetTraceStore, tmp_path: Path) -> None:
    _, (trace,) = imported(store, tmp_path, {"standard_logging_object": litellm()})
    assert trace.id == "chatcmpl-9"


def test_litellm_spend_logs_with_json_as_text(store: ParquetTraceStore, tmp_path: Path) -> None:
    record = {
        "request_id": "r1",
        "call_type": "acompletion",
        "startTime": "2025-01-01T00:03:37Z",
        "endTime": "2025-01-01T00:03:38Z",
        "model": "gpt-x",
        "messages": "{}",
        "response": json.dumps(COMPLETION),
        "proxy_server_request": json.dumps({"model": "gpt-x", "messages": MESSAGES, "temperature": 0.1}),
        "end_user": "eve",
        "session_id": "s1",
    }
    _, (trace,) = imported(store, tmp_path, record)
    assert trace.request == {
        "model": "gpt-x",
        "messages": MESSAGES,
        "temperature": 0.1,
        "metadata": {"conversation_id": "s1"},
    }
    assert (trace.id, trace.client_id, trace.timestamp) == ("r1", "eve", 1735689817.0)


def test_litellm_calls_that_are_no_answered_chats_are_skipped_with_the_reason(
    store: ParquetTraceStore, tmp_path: Path
) -> None:
    report, found = imported(
        store,
        tmp_path,
        litellm(status="failure"),
        litellm(call_type="aembedding"),
        litellm(messages="redacted-by-litellm"),
        litellm(messages=None),
        litellm(response=None),
    )
    assert found == []
    reasons = [reason for _, _, reason in report.skipped]
    assert reasons[0] == "the call failed, so it has no answer"
    assert reasons[1] == "`aembedding` is no chat call"
    assert "messages" in reasons[2]
    assert "store_prompts_in_spend_logs" in reasons[3]
    assert reasons[4] == "it has no `response`"


def generation(**fields: Any) -> dict[str, Any]:
    return {
        "id": "g1",
        "traceId": "t1",
        "type": "GENERATION",
        "name": "answer",
        "startTime": "2025-01-01T00:03:37.000Z",
        "latency": 1.5,
        "model": "gpt-x",
        "modelParameters": {"temperature": 0.2, "weird": 1},
        "input": MESSAGES,
        "output": {"role": "assistant", "content": "yes"},
        "sessionId": "s1",
        "userId": "u1",
        **fields,
    }


@pytest.mark.parametrize(
    "given",
    [MESSAGES, {"messages": MESSAGES}, json.dumps(MESSAGES), json.dumps({"messages": MESSAGES})],
    ids=["list", "object", "list as text", "object as text"],
)
def test_langfuse_generations(store: ParquetTraceStore, tmp_path: Path, given: Any) -> None:
    report, (trace,) = imported(
        store, tmp_path, {"traceId": "t1", "type": "SPAN", "input": 1}, generation(input=given)
    )
    assert list(report.formats.values()) == ["langfuse"]
    assert report.skipped_count == 0
    assert trace.request == {
        "temperature": 0.2,
        "model": "gpt-x",
        "messages": MESSAGES,
        "metadata": {"conversation_id": "s1"},
    }
    assert (trace.id, trace.client_id, trace.latency_ms, trace.tags) == (
        "g1",
        "u1",
        1500.0,
        {"name": "answer"},
    )
    assert trace.answer.content == "yes"


@pytest.mark.parametrize(
    "output", ["yes", {"content": "yes"}, [{"role": "assistant", "content": "yes"}], COMPLETION]
)
def test_langfuse_outputs_in_their_forms(store: ParquetTraceStore, tmp_path: Path, output: Any) -> None:
    _, (trace,) = imported(store, tmp_path, generation(output=output))
    assert trace.answer.content == "yes"


def test_a_whole_langfuse_trace_over_many_lines(store: ParquetTraceStore, tmp_path: Path) -> None:
    log = tmp_path / "trace.json"
    document = {"id": "t1", "sessionId": "s9", "observations": [generation(sessionId=None), {"type": "SPAN"}]}
    document["observations"][0].pop("sessionId")  # type: ignore[index, attr-defined]
    log.write_text(json.dumps(document, indent=2))
    assert import_files([log], store=store).kept == 1
    assert next(store.scan()).conversation_id == "s9"


def test_a_json_list_of_records_is_read_like_lines(store: ParquetTraceStore, tmp_path: Path) -> None:
    log = tmp_path / "list.json"
    log.write_text(json.dumps([generation(), generation(id="g2", output=None)], indent=1))
    report = import_files([log], store=store)
    assert (report.kept, report.skipped[0][1:]) == (1, (2, "it has no `output`"))


def otlp(attributes: dict[str, Any], **span: Any) -> dict[str, Any]:
    def value(plain: Any) -> dict[str, Any]:
        if isinstance(plain, str):
            return {"stringValue": plain}
        if isinstance(plain, bool):
            return {"boolValue": plain}
        if isinstance(plain, int):
            return {"intValue": str(plain)}
        if isinstance(plain, float):
            return {"doubleValue": plain}
        if isinstance(plain, list):
            return {"arrayValue": {"values": [value(item) for item in plain]}}
        return {"kvlistValue": {"values": [{"key": k, "value": value(v)} for k, v in plain.items()]}}

    spans = [
        {
            "traceId": "t",
            "spanId": "s",
            "startTimeUnixNano": "1735689817000000000",
            "endTimeUnixNano": "1735689817250000000",
            "attributes": [{"key": name, "value": value(plain)} for name, plain in attributes.items()],
            **span,
        },
        {
            "traceId": "t",
            "spanId": "other",
            "attributes": [{"key": "http.method", "value": {"stringValue": "GET"}}],
        },
    ]
    return {"resourceSpans": [{"scopeSpans": [{"spans": spans}]}]}


GENAI = {
    "gen_ai.operation.name": "chat",
    "gen_ai.request.model": "gpt-x",
    "gen_ai.request.temperature": 0.5,
    "gen_ai.request.max_tokens": 50,
    "gen_ai.conversation.id": "s1",
    "gen_ai.system_instructions": [{"type": "text", "content": "Be brief."}],
    "gen_ai.input.messages": [
        {"role": "user", "parts": [{"type": "text", "content": "hi"}]},
        {
            "role": "assistant",
            "parts": [{"type": "tool_call", "id": "c1", "name": "find", "arguments": {"city": "Oslo"}}],
        },
        {"role": "tool", "parts": [{"type": "tool_call_response", "id": "c1", "response": "rain"}]},
    ],
    "gen_ai.output.messages": [
        {"role": "assistant", "parts": [{"type": "text", "content": "yes"}], "finish_reason": "stop"}
    ],
}


@pytest.mark.parametrize("as_text", [False, True])
def test_opentelemetry_genai_spans(store: ParquetTraceStore, tmp_path: Path, as_text: bool) -> None:
    attributes = {k: json.dumps(v) if as_text and isinstance(v, list) else v for k, v in GENAI.items()}
    report, (trace,) = imported(store, tmp_path, otlp(attributes))
    assert list(report.formats.values()) == ["otel"]
    assert trace.request == {
        "model": "gpt-x",
        "messages": [
            *MESSAGES,
            {"role": "assistant", "content": None, "tool_calls": [TOOL_CALL]},
            {"role": "tool", "tool_call_id": "c1", "content": "rain"},
        ],
        "temperature": 0.5,
        "max_tokens": 50,
        "metadata": {"conversation_id": "s1"},
    }
    assert trace.answer.content == "yes"
    assert (trace.id, trace.timestamp, trace.latency_ms) == ("t-s", 1735689817.0, 250.0)


def test_opentelemetry_numbered_attributes(store: ParquetTraceStore, tmp_path: Path) -> None:
    attributes = {
        "gen_ai.request.model": "gpt-x",
        "gen_ai.prompt.0.role": "system",
        "gen_ai.prompt.0.content": "Be brief.",
        "gen_ai.prompt.1.role": "user",
        "gen_ai.prompt.1.content": "hi",
        "gen_ai.completion.0.role": "assistant",
        "gen_ai.completion.0.tool_calls.0.id": "c1",
        "gen_ai.completion.0.tool_calls.0.name": "find",
        "gen_ai.completion.0.tool_calls.0.arguments": '{"city": "Oslo"}',
    }
    _, (trace,) = imported(store, tmp_path, otlp(attributes))
    assert trace.chat.messages == MESSAGES
    assert trace.answer.tool_calls == (TOOL_CALL,)


def test_a_telemetry_file_without_chats_says_so(store: ParquetTraceStore, tmp_path: Path) -> None:
    report, _ = imported(store, tmp_path, otlp({"http.method": "GET"}))
    assert report.skipped[0][2] == "no chat call is in the 1 records of this file"


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"request": {}, "response": {}}, "shoal"),
        ({"custom_id": "a", "response": {}}, "openai"),
        ({"choices": []}, "openai"),
        ({"messages": []}, "openai"),
        ({"messages": [], "response": {}}, "litellm"),
        ({"observations": []}, "langfuse"),
        ({"resourceSpans": []}, "otel"),
        ({"x": 1}, None),
        ([], None),
        ("text", None),
    ],
)
def test_formats_are_told_apart_by_their_fields(record: Any, expected: str | None) -> None:
    assert detect(record) == expected


# -- what is kept with each call, whatever the format

REASONED = {"role": "assistant", "content": "It rains.", "reasoning_content": "They ask for Oslo."}
AFTER_A_TOOL = [
    *MESSAGES,
    {"role": "assistant", "content": None, "tool_calls": [TOOL_CALL]},
    {"role": "tool", "tool_call_id": "c1", "content": "rain"},
]


def _kept_shoal() -> dict[str, Any]:
    usage = {"prompt_tokens": 11, "completion_tokens": 5, "total_tokens": 16}
    completion = {"model": "gpt-x-2025", "choices": [{"message": REASONED}], "usage": usage}
    return {
        "request": {"model": "gpt-x", "messages": AFTER_A_TOOL, "metadata": {"conversation_id": "k7"}},
        "response": completion,
        "latency_ms": 900,
        "first_token_ms": 250,
        "cost_usd": 0.002,
        "served_by": "",
    }


def _kept_litellm() -> dict[str, Any]:
    return litellm(
        messages=AFTER_A_TOOL,
        response={"model": "gpt-x-2025", "choices": [{"message": REASONED, "finish_reason": "stop"}]},
        startTime="2025-01-01T00:03:37+00:00",
        endTime="2025-01-01T00:03:37.900+00:00",
        completionStartTime="2025-01-01T00:03:37.250+00:00",
        prompt_tokens=11,
        completion_tokens=5,
        response_cost=0.002,
        session_id="k7",
    )


def _kept_langfuse() -> dict[str, Any]:
    return {
        "id": "o1",
        "traceId": "t1",
        "type": "GENERATION",
        "model": "gpt-x-2025",
        "input": AFTER_A_TOOL,
        "output": REASONED,
        "startTime": "2025-01-01T00:03:37Z",
        "endTime": "2025-01-01T00:03:37.900Z",
        "completionStartTime": "2025-01-01T00:03:37.250Z",
        "usageDetails": {"input": 11, "output": 5},
        "costDetails": {"total": 0.002},
        "sessionId": "k7",
    }


def _kept_otel() -> dict[str, Any]:
    def text(content: str) -> dict[str, str]:
        return {"type": "text", "content": content}

    sent = [
        {"role": "system", "parts": [text("Be brief.")]},
        {"role": "user", "parts": [text("hi")]},
        {
            "role": "assistant",
            "parts": [{"type": "tool_call", "id": "c1", "name": "find", "arguments": '{"city": "Oslo"}'}],
        },
        {"role": "tool", "parts": [{"type": "tool_call_response", "id": "c1", "response": "rain"}]},
    ]
    reasoned = {"type": "reasoning", "content": "They ask for Oslo."}
    came = [{"role": "assistant", "parts": [reasoned, text("It rains.")], "finish_reason": "max_tokens"}]
    values = {
        "gen_ai.input.messages": {"stringValue": json.dumps(sent)},
        "gen_ai.output.messages": {"stringValue": json.dumps(came)},
        "gen_ai.response.model": {"stringValue": "gpt-x-2025"},
        "gen_ai.usage.input_tokens": {"intValue": "11"},
        "gen_ai.usage.output_tokens": {"intValue": "5"},
        "gen_ai.usage.cost": {"doubleValue": 0.002},
        "gen_ai.response.time_to_first_chunk": {"doubleValue": 0.25},
        "gen_ai.conversation.id": {"stringValue": "k7"},
    }
    span = {
        "traceId": "t",
        "spanId": "s",
        "startTimeUnixNano": "1735689817000000000",
        "endTimeUnixNano": "1735689817900000000",
        "attributes": [{"key": key, "value": value} for key, value in values.items()],
    }
    return {"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]}


@pytest.mark.parametrize("record", [_kept_shoal(), _kept_litellm(), _kept_langfuse(), _kept_otel()])
def test_every_format_keeps_all_there_is_to_know_of_a_call(
    store: ParquetTraceStore, tmp_path: Path, record: Any
) -> None:
    report, (trace,) = imported(store, tmp_path, record)
    assert report.skipped == []
    answer = trace.response["choices"][0]["message"]
    assert (answer["content"], answer["reasoning_content"]) == ("It rains.", "They ask for Oslo.")
    call, result = trace.chat.messages[-2:]
    assert call["tool_calls"][0]["function"] == TOOL_CALL["function"]
    assert (result["role"], result["tool_call_id"], result["content"]) == ("tool", "c1", "rain")
    usage = trace.answer.usage
    assert (usage.prompt_tokens, usage.completion_tokens) == (11, 5)
    assert (trace.latency_ms, trace.first_token_ms, trace.cost_usd) == (900.0, 250.0, 0.002)
    assert (trace.conversation_id, trace.answer.model) == ("k7", "gpt-x-2025")


def test_an_otel_answer_that_was_cut_off_says_so(store: ParquetTraceStore, tmp_path: Path) -> None:
    _, (trace,) = imported(store, tmp_path, _kept_otel())
    assert trace.answer.finish_reason == "length"
