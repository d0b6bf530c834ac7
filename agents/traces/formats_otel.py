"""OpenTelemetry's OTLP JSON with the GenAI attributes, and OpenLLMetry's numbered ones, turned into calls. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from shoal.agents.traces.calls import (
    BadRecord,
    Call,
    Json,
    as_text,
    completion_of,
    first_number,
    objects_in,
    parsed_json,
    with_usage,
)

#: what providers say for OpenAI's finish reasons
_FINISHED = {
    "max_tokens": "length",
    "end_turn": "stop",
    "stop_sequence": "stop",
    "tool_call": "tool_calls",
    "tool_use": "tool_calls",
}


def read_otel(record: Mapping[str, Json]) -> Iterator[Call]:
    for resource in record.get("resourceSpans", record.get("resource_spans")) or ():
        for scope in resource.get("scopeSpans", resource.get("scope_spans")) or ():
            for span in scope.get("spans") or ():
                attributes = {a.get("key"): _otel_value(a.get("value")) for a in span.get("attributes") or ()}
                if attributes.get("gen_ai.operation.name", "chat") == "chat" and _has_content(attributes):
                    yield _otel_call(span, attributes)


def _has_content(attributes: Mapping[str, Json]) -> bool:
    return "gen_ai.input.messages" in attributes or "gen_ai.prompt.0.role" in attributes


def _otel_call(span: Mapping[str, Json], attributes: Mapping[str, Json]) -> Call:
    if "gen_ai.input.messages" in attributes:
        messages = [
            m for part in objects_in(attributes["gen_ai.input.messages"]) for m in _otel_messages(part)
        ]
        system = parsed_json(attributes.get("gen_ai.system_instructions"))
        if system:
            messages.insert(0, {"role": "system", "content": _otel_text(objects_in(system))})
        answers = objects_in(attributes.get("gen_ai.output.messages"))
        answer = _otel_messages(answers[0])[0] if answers else None
        finish = answers[0].get("finish_reason") if answers else None
    else:
        messages = _numbered(attributes, "gen_ai.prompt")
        answer = next(iter(_numbered(attributes, "gen_ai.completion")), None)
        finish = attributes.get("gen_ai.completion.0.finish_reason")
    if answer is None:
        raise BadRecord("the span has no `gen_ai.output.messages`: record message content to learn from it")
    model = attributes.get("gen_ai.request.model") or "auto"
    request: dict[str, Json] = {"model": str(model), "messages": messages}
    for name in ("temperature", "top_p", "max_tokens", "seed"):
        if f"gen_ai.request.{name}" in attributes:
            request[name] = attributes[f"gen_ai.request.{name}"]
    tools = parsed_json(attributes.get("gen_ai.tool.definitions"))
    if isinstance(tools, list) and tools:
        request["tools"] = [t if "function" in t else {"type": "function", "function": t} for t in tools]
    if attributes.get("gen_ai.conversation.id"):
        request["metadata"] = {"conversation_id": str(attributes["gen_ai.conversation.id"])}
    start, end = _nanoseconds(span, "start"), _nanoseconds(span, "end")
    completion = completion_of(
        answer,
        attributes.get("gen_ai.response.model") or model,
        finish_reason=_finish_reason(finish, attributes.get("gen_ai.response.finish_reasons")),
    )
    first_token_s = first_number(
        attributes.get("gen_ai.response.time_to_first_chunk"),
        attributes.get("gen_ai.server.time_to_first_token"),
    )
    return Call(
        request=request,
        response=with_usage(
            completion,
            *(
                first_number(attributes.get(f"gen_ai.usage.{new}"), attributes.get(f"gen_ai.usage.{old}"))
                for new, old in (("input_tokens", "prompt_tokens"), ("output_tokens", "completion_tokens"))
            ),
        ),
        id=attributes.get("gen_ai.response.id") or f"{span.get('traceId', '')}-{span.get('spanId', '')}",
        timestamp=start,
        latency_ms=(end - start) / 1e6 if start is not None and end is not None else None,
        first_token_ms=None if first_token_s is None else round(first_token_s * 1000, 3),
        cost_usd=first_number(attributes.get("gen_ai.usage.cost"), attributes.get("gen_ai.usage.total_cost")),
        client_id=attributes.get("user.id"),
    )


def _finish_reason(own: Json, all_of_them: Json) -> str | None:
    """OpenAI's word for why the answer ended; None where the span does not say."""
    given = own or (all_of_them[0] if isinstance(all_of_them, list) and all_of_them else None)
    return _FINISHED.get(str(given), str(given)) if given else None


def _nanoseconds(span: Mapping[str, Json], which: str) -> int | None:
    value = span.get(f"{which}TimeUnixNano", span.get(f"{which}_time_unix_nano"))
    return int(value) if isinstance(value, (int, str)) and str(value).isdecimal() else None


def _otel_value(value: Json) -> Json:
    """OTLP's AnyValue as plain JSON."""
    if not isinstance(value, Mapping):
        return value
    for name, plain in value.items():
        if name == "intValue":
            return int(plain)
        if name == "arrayValue":
            return [_otel_value(item) for item in plain.get("values") or ()]
        if name == "kvlistValue":
            return {item.get("key"): _otel_value(item.get("value")) for item in plain.get("values") or ()}
        return plain
    return None


def _otel_messages(message: Json) -> list[dict[str, Json]]:
    """OpenAI's messages for one GenAI message; each tool result is a message of its own."""
    if not isinstance(message, Mapping):
        raise BadRecord("a GenAI message is no object")
    parts = objects_in(message.get("parts"))
    results = [p for p in parts if p.get("type") == "tool_call_response"]
    if results:
        return [
            {
                "role": "tool",
                "tool_call_id": str(p.get("id") or ""),
                "content": as_text(p.get("response", p.get("result"))),
            }
            for p in results
        ]
    out: dict[str, Json] = {"role": message.get("role", "assistant"), "content": _otel_text(parts)}
    reasoning = _otel_text(parts, kind="reasoning")
    if reasoning:
        out["reasoning_content"] = reasoning
    calls = [p for p in parts if p.get("type") == "tool_call"]
    if calls:
        out["content"] = out["content"] or None
        out["tool_calls"] = [
            {
                "id": str(p.get("id") or ""),
                "type": "function",
                "function": {"name": str(p.get("name") or ""), "arguments": as_text(p.get("arguments"))},
            }
            for p in calls
        ]
    return [out]


def _otel_text(parts: Sequence[Mapping[str, Json]], *, kind: str = "text") -> str:
    return "\n".join(str(p.get("content", "")) for p in parts if p.get("type", "text") == kind)


def _numbered(attributes: Mapping[str, Json], prefix: str) -> list[dict[str, Json]]:
    """Messages spread over attributes such as `gen_ai.prompt.0.content`, as OpenLLMetry writes them."""
    messages: list[dict[str, Json]] = []
    while f"{prefix}.{len(messages)}.role" in attributes:
        number = len(messages)
        message = {
            "role": attributes[f"{prefix}.{number}.role"],
            "content": attributes.get(f"{prefix}.{number}.content"),
        }
        for name in ("reasoning_content", "reasoning", "tool_call_id"):
            if f"{prefix}.{number}.{name}" in attributes:
                message[name] = attributes[f"{prefix}.{number}.{name}"]
        calls: list[Json] = []
        while f"{prefix}.{number}.tool_calls.{len(calls)}.name" in attributes:
            path = f"{prefix}.{number}.tool_calls.{len(calls)}"
            function = {
                "name": attributes[f"{path}.name"],
                "arguments": as_text(attributes.get(f"{path}.arguments")),
            }
            calls.append(
                {"id": str(attributes.get(f"{path}.id") or ""), "type": "function", "function": function}
            )
        if calls:
            message["tool_calls"] = calls
        messages.append(message)
    return messages
