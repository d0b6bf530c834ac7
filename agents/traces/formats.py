"""Log formats of other programs, turned into plain calls. Pure: parsed JSON in, calls or pieces of calls out; reads no files.

`shoal` is the project's own (docs: INTERFACE, traces import). The others follow what their programs write: OpenAI's stored
completions, batch files and chat fine-tuning lines; LiteLLM's standard logging payload and spend logs; Langfuse's observations;
OpenTelemetry's OTLP JSON with the GenAI attributes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from shoal.agents.traces.calls import (
    BadRecord,
    Call,
    Json,
    completion_of,
    first_number,
    get_field,
    milliseconds,
    parsed_json,
    with_usage,
)
from shoal.agents.traces.formats_otel import read_otel

FORMATS = ("shoal", "openai", "litellm", "langfuse", "otel")


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
        id=record.get("id"),
        timestamp=record.get("timestamp"),
        client_id=record.get("client_id"),
        tags=record.get("tags"),
        served_by=record.get("served_by"),
        latency_ms=record.get("latency_ms"),
        first_token_ms=record.get("first_token_ms"),
        cost_usd=record.get("cost_usd"),
        privacy=record.get("privacy"),
    )


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
    return Call(request=request, response=completion_of(messages[-1], request["model"]), id=record.get("id"))


def _is_assistant(message: Json) -> bool:
    return isinstance(message, Mapping) and message.get("role") == "assistant"


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
    messages, response = parsed_json(payload.get("messages")), parsed_json(payload.get("response"))
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
    parameters = parsed_json(payload.get("model_parameters")) or {}
    own = (
        {k: v for k, v in parameters.items() if k in _CHAT_PARAMETERS}
        if isinstance(parameters, Mapping)
        else {}
    )
    own = {**{k: v for k, v in body.items() if k in _CHAT_PARAMETERS}, **own}
    metadata = parsed_json(payload.get("metadata"))
    session = payload.get("session_id") or get_field(metadata, "session_id")
    if session and "metadata" not in own:
        own["metadata"] = {"conversation_id": str(session)}
    if not isinstance(response, Mapping) or "choices" not in response:
        if not response:
            raise BadRecord("it has no `response`")
        response = completion_of(response, payload.get("model"))
    start, end, first = (payload.get(name) for name in ("startTime", "endTime", "completionStartTime"))
    yield Call(
        request={**own, "model": str(model), "messages": messages},
        response=with_usage(response, payload.get("prompt_tokens"), payload.get("completion_tokens")),
        id=payload.get("id") or payload.get("request_id"),
        timestamp=start,
        client_id=payload.get("end_user")
        or get_field(metadata, "user_api_key_alias")
        or get_field(metadata, "user_api_key_user_id"),
        latency_ms=milliseconds(start, end),
        # LiteLLM writes the end's time for answers that were not streamed
        first_token_ms=milliseconds(start, first) if first != end else None,
        cost_usd=first_number(payload.get("response_cost"), payload.get("spend")),
        tags=_litellm_tags(payload),
    )


def _litellm_tags(payload: Mapping[str, Json]) -> Json:
    tags = parsed_json(payload.get("request_tags"))
    return tags if isinstance(tags, list) and all(isinstance(tag, str) for tag in tags) else None


#: what LiteLLM calls model parameters and OpenAI's request has as fields
_CHAT_PARAMETERS = frozenset(
    [
        "temperature",
        "top_p",
        "n",
        "stop",
        "seed",
        "max_tokens",
        "max_completion_tokens",
        "tools",
        "tool_choice",
        "response_format",
        "logprobs",
        "top_logprobs",
        "presence_penalty",
        "frequency_penalty",
        "parallel_tool_calls",
        "metadata",
        "user",
        "reasoning_effort",
    ]
)


def _proxy_body(payload: Mapping[str, Json]) -> Mapping[str, Json]:
    """The request as a spend log keeps it."""
    sent = parsed_json(payload.get("proxy_server_request"))
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
    sent, output = parsed_json(record.get("input")), parsed_json(record.get("output"))
    fields = dict(sent) if isinstance(sent, Mapping) else {}
    messages = fields.get("messages") if fields else sent
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    if not messages:
        raise BadRecord("its `input` has no messages")
    if output is None:
        raise BadRecord("it has no `output`")
    parameters = parsed_json(record.get("modelParameters")) or {}
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
    response = output if is_completion else completion_of(output, record.get("model"))
    start, end = record.get("startTime"), record.get("endTime")
    yield Call(
        request=request,
        response=with_usage(response, *_langfuse_tokens(record)),
        id=record.get("id"),
        timestamp=record.get("startTime"),
        client_id=record.get("userId"),
        latency_ms=_in_ms(record.get("latency"), milliseconds(start, end)),
        first_token_ms=_in_ms(
            record.get("timeToFirstToken"), milliseconds(start, record.get("completionStartTime"))
        ),
        cost_usd=first_number(
            record.get("totalCost"),
            record.get("calculatedTotalCost"),
            get_field(parsed_json(record.get("costDetails")), "total"),
        ),
        tags={"name": record["name"]} if isinstance(record.get("name"), str) else None,
    )


def _in_ms(seconds: Json, otherwise: float | None) -> float | None:
    value = first_number(seconds)
    return otherwise if value is None else round(value * 1000, 3)


def _langfuse_tokens(record: Mapping[str, Json]) -> tuple[Json, Json]:
    """(prompt, completion) under the names that Langfuse's versions have had for them."""
    details, usage = parsed_json(record.get("usageDetails")), parsed_json(record.get("usage"))
    return (
        first_number(
            *(get_field(counts, name) for counts in (details, usage) for name in ("input", "promptTokens")),
            record.get("promptTokens"),
            record.get("inputUsage"),
        ),
        first_number(
            *(get_field(counts, n) for counts in (details, usage) for n in ("output", "completionTokens")),
            record.get("completionTokens"),
            record.get("outputUsage"),
        ),
    )


_READERS: Mapping[str, Callable[[Mapping[str, Json]], Iterator[Call]]] = {
    "shoal": _shoal,
    "openai": _openai,
    "litellm": _litellm,
    "langfuse": _langfuse,
    "otel": read_otel,
}
