"""Log formats of other programs, turned into plain calls. Pure: parsed JSON in, calls or pieces of calls out; reads no files.

`shoal` is the project's own (docs: INTERFACE, traces import). The others follow what their programs write: OpenAI's stored
completions, batch files and chat fine-tuning lines; LiteLLM's standard logging payload and spend logs; Langfuse's observations;
OpenTelemetry's OTLP JSON with the GenAI attributes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

Json: TypeAlias = Any
Side: TypeAlias = Literal["request", "response", "both"]

FORMATS = ("shoal", "openai", "litellm", "langfuse", "otel")


class BadRecord(ValueError):
    """A record that is no call; the text says why, for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call as a log tells it, not yet checked. `timestamp` as it stands there; None for what it does not say.

    Attributes:
        side: `both`, or the half of a batch pair; the halves have the same `id`.
    """

    request: Json
    response: Json
    id: Json = None
    timestamp: Json = None
    client_id: Json = None
    tags: Json = None
    served_by: Json = None
    latency_ms: Json = None
    privacy: Json = None
    side: Side = "both"


def detect(record: Json) -> str | None:
    """The format that a record has, by its fields; None where it has none of them."""
    if isinstance(record, list):
        record = record[0] if record else None
    if not isinstance(record, Mapping):
        return None
    if "resourceSpans" in record or "resource_spans" in record:
        return "otel"
    if "observations" in record or (
        "traceId" in record and ("input" in record or record.get("type") == "GENERATION")
    ):
        return "langfuse"
    if "custom_id" in record or "choices" in record:
        return "openai"
    if (
        "standard_logging_object" in record
        or "call_type" in record
        or ("messages" in record and "response" in record)
    ):
        return "litellm"
    if "messages" in record:
        return "openai"
    if "request" in record and "response" in record:
        return "shoal"
    return None


def calls_in(record: Json, format_name: str) -> Iterator[Call]:
    """The calls that one record (a line, or a whole document) holds: none, one or several. Raises BadRecord."""
    for item in record if isinstance(record, list) else (record,):
        if not isinstance(item, Mapping):
            raise BadRecord(f"it must be a JSON object, not {type(item).__name__}")
        yield from _READERS[format_name](item)


# -- Shoal's own


def _shoal(record: Mapping[str, Json]) -> Iterator[Call]:
    for name in ("request", "response"):
        if name not in record:
            raise BadRecord(f"it has no `{name}`")
    yield Call(
        request=record["request"],
        response=record["response"],
        **{name: record.get(name) for name in _SHOAL_FIELDS},
    )


_SHOAL_FIELDS = ("id", "timestamp", "client_id", "tags", "served_by", "latency_ms", "privacy")


# -- OpenAI


def _openai(record: Mapping[str, Json]) -> Iterator[Call]:
    if "custom_id" in record:
        yield _batch_half(record)
    elif "request" in record and "response" in record:
        yield from _shoal(record)
    elif "choices" in record:
        yield _stored_completion(record)
    elif "messages" in record:
        yield _fine_tuning_line(record)
    else:
        raise BadRecord("it has neither `request` and `response`, `choices`, `messages` nor `custom_id`")


def _batch_half(record: Mapping[str, Json]) -> Call:
    """A line of a batch's input file (`body`) or of its output file (`response.body`)."""
    if "body" in record:
        return Call(request=record["body"], response=None, id=record["custom_id"], side="request")
    response = record.get("response")
    if record.get("error") or not isinstance(response, Mapping) or response.get("status_code", 200) != 200:
        raise BadRecord(f"the batch had no answer for {record['custom_id']!r}")
    return Call(request=None, response=response.get("body"), id=record["custom_id"], side="response")


_COMPLETION_FIELDS = (
    "id",
    "object",
    "created",
    "model",
    "choices",
    "usage",
    "service_tier",
    "system_fingerprint",
)


def _stored_completion(record: Mapping[str, Json]) -> Call:
    """A completion that was exported with its messages beside it."""
    messages = record.get("messages", record.get("input"))
    if messages is None:
        raise BadRecord("it has `choices` but no `messages`: export the stored completion with its messages")
    request = {
        name: value
        for name, value in record.items()
        if name
        not in {*_COMPLETION_FIELDS, "messages", "input", "request_id", "tool_choice", "response_format"}
        or (name in ("tool_choice", "response_format") and value is not None)
    }
    request = {
        "model": record.get("model") or "auto",
        "messages": messages,
        **{k: v for k, v in request.items() if v is not None},
    }
    return Call(
        request=request,
        response={name: record[name] for name in _COMPLETION_FIELDS if name in record},
        id=record.get("id"),
        timestamp=record.get("created"),
    )


def _fine_tuning_line(record: Mapping[str, Json]) -> Call:
    """`{"messages": [..., {"role": "assistant", ...}]}`: the last message is the answer."""
    messages = record["messages"]
    if not isinstance(messages, list) or len(messages) < 2 or not _is_assistant(messages[-1]):
        raise BadRecord("its last message must be the assistant's, after at least one other")
    request = {name: value for name, value in record.items() if name not in ("messages", "id")}
    request = {"model": record.get("model") or "auto", **request, "messages": messages[:-1]}
    return Call(request=request, response=_completion(messages[-1], request["model"]), id=record.get("id"))


def _is_assistant(message: Json) -> bool:
    return isinstance(message, Mapping) and message.get("role") == "assistant"


def _completion(message: Json, model: Json, *, finish_reason: str | None = None) -> dict[str, Json]:
    """A chat completion around one message (or a bare text)."""
    if not isinstance(message, Mapping):
        message = {
            "role": "assistant",
            "content": message if isinstance(message, str) else json.dumps(message),
        }
    message = {"role": "assistant", "content": None, **message}
    reason = finish_reason or ("tool_calls" if message.get("tool_calls") else "stop")
    return {
        "object": "chat.completion",
        "model": str(model or ""),
        "choices": [{"index": 0, "message": message, "finish_reason": reason}],
    }


# -- LiteLLM


def _litellm(record: Mapping[str, Json]) -> Iterator[Call]:
    payload = record.get("standard_logging_object", record)
    if not isinstance(payload, Mapping):
        raise BadRecord("its `standard_logging_object` is no object")
    if payload.get("status") == "failure":
        raise BadRecord("the call failed, so it has no answer")
    call_type = str(payload.get("call_type") or "completion")
    if "completion" not in call_type or call_type in ("text_completion", "atext_completion"):
        raise BadRecord(f"`{call_type}` is no chat call")
    messages, response = _parsed(payload.get("messages")), _parsed(payload.get("response"))
    body = _proxy_body(payload)
    if not messages and body:
        messages = body.get("messages")
    if isinstance(messages, Mapping):
        messages = messages.get("messages")
    if not messages:
        raise BadRecord(
            "it has no `messages`: LiteLLM leaves them out unless store_prompts_in_spend_logs is on"
        )
    model = payload.get("model_group") or payload.get("model") or "auto"
    parameters = _parsed(payload.get("model_parameters")) or {}
    own = (
        {k: v for k, v in parameters.items() if k in _CHAT_PARAMETERS}
        if isinstance(parameters, Mapping)
        else {}
    )
    own = {**{k: v for k, v in body.items() if k in _CHAT_PARAMETERS}, **own}
    metadata = _parsed(payload.get("metadata"))
    session = payload.get("session_id") or _get(metadata, "session_id")
    if session and "metadata" not in own:
        own["metadata"] = {"conversation_id": str(session)}
    if not isinstance(response, Mapping) or "choices" not in response:
        if not response:
            raise BadRecord("it has no `response`")
        response = _completion(response, payload.get("model"))
    start, end = payload.get("startTime"), payload.get("endTime")
    yield Call(
        request={**own, "model": str(model), "messages": messages},
        response=response,
        id=payload.get("id") or payload.get("request_id"),
        timestamp=start,
        client_id=payload.get("end_user")
        or _get(metadata, "user_api_key_alias")
        or _get(metadata, "user_api_key_user_id"),
        latency_ms=(end - start) * 1000 if _is_number(start) and _is_number(end) else None,
    )


#: what LiteLLM calls model parameters and OpenAI's request has as fields
_CHAT_PARAMETERS = frozenset(
    ["temperature", "top_p", "n", "stop", "seed", "max_tokens", "max_completion_tokens", "tools", "tool_choice", "response_format", "logprobs", "top_logprobs", "presence_penalty", "frequency_penalty", "parallel_tool_calls", "metadata", "user", "reasoning_effort"]
)


def _proxy_body(payload: Mapping[str, Json]) -> Mapping[str, Json]:
    """The request as a spend log keeps it."""
    sent = _parsed(payload.get("proxy_server_request"))
    body = sent.get("body", sent) if isinstance(sent, Mapping) else {}
    return body if isinstance(body, Mapping) else {}


# -- Langfuse


def _langfuse(record: Mapping[str, Json]) -> Iterator[Call]:
    if isinstance(record.get("observations"), list):  # a whole trace, as its page downloads it
        outer = record.get("trace") if isinstance(record.get("trace"), Mapping) else record
        shared = {
            name: outer[name]
            for name in ("sessionId", "userId")
            if isinstance(outer, Mapping) and outer.get(name)
        }
        for observation in record["observations"]:
            if isinstance(observation, Mapping):
                yield from _langfuse({**shared, **observation})
        return
    if record.get("type", "GENERATION") != "GENERATION":
        return  # spans and events are no calls
    sent, output = _parsed(record.get("input")), _parsed(record.get("output"))
    fields = dict(sent) if isinstance(sent, Mapping) else {}
    messages = fields.get("messages") if fields else sent
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    if not messages:
        raise BadRecord("its `input` has no messages")
    if output is None:
        raise BadRecord("it has no `output`")
    parameters = _parsed(record.get("modelParameters")) or {}
    request = {
        **{
            k: v
            for k, v in (parameters if isinstance(parameters, Mapping) else {}).items()
            if k in _CHAT_PARAMETERS
        },
        **{k: v for k, v in fields.items() if k in _CHAT_PARAMETERS},
        "model": str(record.get("model") or record.get("providedModelName") or "auto"),
        "messages": messages,
    }
    if record.get("sessionId"):
        request["metadata"] = {"conversation_id": str(record["sessionId"])}
    if isinstance(output, list) and len(output) == 1:
        output = output[0]
    is_completion = isinstance(output, Mapping) and "choices" in output
    yield Call(
        request=request,
        response=output if is_completion else _completion(output, record.get("model")),
        id=record.get("id"),
        timestamp=record.get("startTime"),
        client_id=record.get("userId"),
        latency_ms=record["latency"] * 1000 if _is_number(record.get("latency")) else None,
        tags={"name": record["name"]} if isinstance(record.get("name"), str) else None,
    )


# -- OpenTelemetry


def _otel(record: Mapping[str, Json]) -> Iterator[Call]:
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
        messages = [m for part in _items(attributes["gen_ai.input.messages"]) for m in _otel_messages(part)]
        system = _parsed(attributes.get("gen_ai.system_instructions"))
        if system:
            messages.insert(0, {"role": "system", "content": _otel_text(_items(system))})
        answers = _items(attributes.get("gen_ai.output.messages"))
        answer = _otel_messages(answers[0])[0] if answers else None
    else:
        messages = _numbered(attributes, "gen_ai.prompt")
        answer = next(iter(_numbered(attributes, "gen_ai.completion")), None)
    if answer is None:
        raise BadRecord("the span has no `gen_ai.output.messages`: record message content to learn from it")
    model = attributes.get("gen_ai.request.model") or "auto"
    request: dict[str, Json] = {"model": str(model), "messages": messages}
    for name in ("temperature", "top_p", "max_tokens", "seed"):
        if f"gen_ai.request.{name}" in attributes:
            request[name] = attributes[f"gen_ai.request.{name}"]
    tools = _parsed(attributes.get("gen_ai.tool.definitions"))
    if isinstance(tools, list) and tools:
        request["tools"] = [t if "function" in t else {"type": "function", "function": t} for t in tools]
    if attributes.get("gen_ai.conversation.id"):
        request["metadata"] = {"conversation_id": str(attributes["gen_ai.conversation.id"])}
    start, end = _nanoseconds(span, "start"), _nanoseconds(span, "end")
    return Call(
        request=request,
        response=_completion(answer, attributes.get("gen_ai.response.model") or model),
        id=attributes.get("gen_ai.response.id") or f"{span.get('traceId', '')}-{span.get('spanId', '')}",
        timestamp=start,
        latency_ms=(end - start) / 1e6 if start is not None and end is not None else None,
        client_id=attributes.get("user.id"),
    )


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
    parts = _items(message.get("parts"))
    results = [p for p in parts if p.get("type") == "tool_call_response"]
    if results:
        return [
            {
                "role": "tool",
                "tool_call_id": str(p.get("id") or ""),
                "content": _as_text(p.get("response", p.get("result"))),
            }
            for p in results
        ]
    out: dict[str, Json] = {"role": message.get("role", "assistant"), "content": _otel_text(parts)}
    calls = [p for p in parts if p.get("type") == "tool_call"]
    if calls:
        out["content"] = out["content"] or None
        out["tool_calls"] = [
            {
                "id": str(p.get("id") or ""),
                "type": "function",
                "function": {"name": str(p.get("name") or ""), "arguments": _as_text(p.get("arguments"))},
            }
            for p in calls
        ]
    return [out]


def _otel_text(parts: Sequence[Mapping[str, Json]]) -> str:
    return "\n".join(str(p.get("content", "")) for p in parts if p.get("type", "text") == "text")


def _numbered(attributes: Mapping[str, Json], prefix: str) -> list[dict[str, Json]]:
    """Messages spread over attributes such as `gen_ai.prompt.0.content`, as OpenLLMetry writes them."""
    messages = []
    while f"{prefix}.{len(messages)}.role" in attributes:
        number = len(messages)
        message = {
            "role": attributes[f"{prefix}.{number}.role"],
            "content": attributes.get(f"{prefix}.{number}.content"),
        }
        calls: list[Json] = []
        while f"{prefix}.{number}.tool_calls.{len(calls)}.name" in attributes:
            path = f"{prefix}.{number}.tool_calls.{len(calls)}"
            function = {
                "name": attributes[f"{path}.name"],
                "arguments": _as_text(attributes.get(f"{path}.arguments")),
            }
            calls.append(
                {"id": str(attributes.get(f"{path}.id") or ""), "type": "function", "function": function}
            )
        if calls:
            message["tool_calls"] = calls
        messages.append(message)
    return messages


# -- shared


def _parsed(value: Json) -> Json:
    """A field that may hold JSON as text."""
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def _items(value: Json) -> list[Json]:
    parsed = _parsed(value)
    if isinstance(parsed, Mapping):
        return [parsed]
    return [item for item in parsed if isinstance(item, Mapping)] if isinstance(parsed, list) else []


def _as_text(value: Json) -> str:
    return value if isinstance(value, str) else json.dumps({} if value is None else value, ensure_ascii=False)


def _get(mapping: Json, name: str) -> Json:
    return mapping.get(name) if isinstance(mapping, Mapping) else None


def _is_number(value: Json) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


_READERS: Mapping[str, Callable[[Mapping[str, Json]], Iterator[Call]]] = {
    "shoal": _shoal,
    "openai": _openai,
    "litellm": _litellm,
    "langfuse": _langfuse,
    "otel": _otel,
}
