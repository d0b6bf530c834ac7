"""OpenAI's JSON to gRPC messages and back. Shared by the gRPC server and the clients; knows nothing of either.

A request or completion that goes through both ways is the same, but that `stop` becomes a list and unset fields are left out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from shoal.errors import InvalidRequest
from shoal.serve.proto.shoal.v1 import shoal_pb2 as pb

#: fields of a request that are plain on both sides
_PLAIN = (
    "temperature",
    "top_p",
    "max_tokens",
    "max_completion_tokens",
    "n",
    "seed",
    "logprobs",
    "top_logprobs",
    "user",
)
_NAMED = frozenset(
    {*_PLAIN, "model", "messages", "tools", "tool_choice", "response_format", "stop", "metadata"}
)
_MESSAGE = frozenset({"role", "content", "tool_calls", "tool_call_id", "name"})
_CHOICE = frozenset({"index", "message", "delta", "finish_reason", "logprobs"})
_COMPLETION = frozenset({"id", "object", "created", "model", "choices", "usage"})


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _load(text: str, field: str, read: Callable[[str], Any] = json.loads) -> Any:
    try:
        return read(text)
    except ValueError as error:
        raise InvalidRequest(
            f"`{field}` must be JSON text: {error}.", remedy="Mend the field.", param=field
        ) from None


def _load_object(text: str, field: str, read: Callable[[str], Any] = json.loads) -> dict[str, Any]:
    value = _load(text, field, read)
    if not isinstance(value, dict):
        raise InvalidRequest(
            f"`{field}` must be a JSON object, got {type(value).__name__}.",
            remedy="Mend the field.",
            param=field,
        )
    return value


# -- requests --------------------------------------------------------------------------------------------------------


def request_to_pb(body: Mapping[str, Any], *, privacy: str = "", conversation: str = "") -> pb.ChatRequest:
    """What a client sends. A field of the wrong type raises InvalidRequest."""
    try:
        out = pb.ChatRequest(
            model=body.get("model", ""),
            messages=[message_to_pb(message) for message in body.get("messages", ())],
            tools_json=[_dump(tool) for tool in body.get("tools") or ()],
            privacy=privacy,
            conversation=conversation,
            **{name: body[name] for name in _PLAIN if body.get(name) is not None},
        )
        for name in ("tool_choice", "response_format"):
            if body.get(name) is not None:
                setattr(out, f"{name}_json", _dump(body[name]))
        stop = body.get("stop")
        out.stop.extend([stop] if isinstance(stop, str) else stop or ())
        extra = {k: v for k, v in body.items() if k not in _NAMED and k not in ("stream", "stream_options")}
        metadata = body.get("metadata") or {}
        if all(isinstance(value, str) for value in metadata.values()):
            out.metadata.update(metadata)
        else:
            extra["metadata"] = metadata
        if extra:
            out.extra_json = _dump(extra)
        return out
    except (TypeError, ValueError, AttributeError) as error:
        raise InvalidRequest(
            f"The request does not fit the gRPC message: {error}.", remedy="See shoal.proto."
        ) from None


def request_from_pb(request: pb.ChatRequest, read: Callable[[str], Any] = json.loads) -> dict[str, Any]:
    """OpenAI's request body. `read` reads the JSON texts inside. Raises InvalidRequest where one is none."""
    body: dict[str, Any] = {}
    if request.HasField("extra_json"):
        body.update(_load_object(request.extra_json, "extra_json", read))
    body["model"] = request.model or "auto"
    body["messages"] = [
        message_from_pb(message, f"messages.{i}", read) for i, message in enumerate(request.messages)
    ]
    if request.tools_json:
        body["tools"] = [_load(text, f"tools_json.{i}", read) for i, text in enumerate(request.tools_json)]
    for name in ("tool_choice", "response_format"):
        if request.HasField(f"{name}_json"):
            body[name] = _load(getattr(request, f"{name}_json"), f"{name}_json", read)
    for name in _PLAIN:
        if request.HasField(name):
            body[name] = getattr(request, name)
    if request.stop:
        body["stop"] = list(request.stop)
    if request.metadata:
        body["metadata"] = {**body.get("metadata", {}), **request.metadata}
    return body


def message_to_pb(message: Mapping[str, Any]) -> pb.Message:
    content = message.get("content")
    out = pb.Message(role=message.get("role") or "")
    if isinstance(content, str):
        out.content = content
    elif content is not None:
        out.content_parts_json.extend(_dump(part) for part in content)
    for call in message.get("tool_calls") or ():
        function = call.get("function") or {}
        added = out.tool_calls.add(
            id=call.get("id") or "",
            type=call.get("type") or "",
            function=pb.FunctionCall(
                name=function.get("name") or "", arguments=function.get("arguments") or ""
            ),
        )
        if call.get("index") is not None:
            added.index = call["index"]
    for name in ("tool_call_id", "name"):
        if message.get(name) is not None:
            setattr(out, name, message[name])
    if extra := {k: v for k, v in message.items() if k not in _MESSAGE and v is not None}:
        out.extra_json = _dump(extra)
    return out


def message_from_pb(
    message: pb.Message, path: str = "message", read: Callable[[str], Any] = json.loads
) -> dict[str, Any]:
    out: dict[str, Any] = {}
    if message.HasField("extra_json"):
        out.update(_load_object(message.extra_json, f"{path}.extra_json", read))
    if message.role:
        out["role"] = message.role
    if message.HasField("content"):
        out["content"] = message.content
    elif message.content_parts_json:
        out["content"] = [
            _load(text, f"{path}.content_parts_json", read) for text in message.content_parts_json
        ]
    if message.tool_calls:
        out["tool_calls"] = [_tool_call(call) for call in message.tool_calls]
    for name in ("tool_call_id", "name"):
        if message.HasField(name):
            out[name] = getattr(message, name)
    return out


def _tool_call(call: pb.ToolCall) -> dict[str, Any]:
    out: dict[str, Any] = {"index": call.index} if call.HasField("index") else {}
    if call.id:
        out["id"] = call.id
    # in a stream only the first piece of a call has a type
    if call.type or not call.HasField("index"):
        out["type"] = call.type or "function"
    out["function"] = {"arguments": call.function.arguments}
    if call.function.name:
        out["function"]["name"] = call.function.name
    return out


# -- answers ---------------------------------------------------------------------------------------------------------


def response_to_pb(
    completion: Mapping[str, Any],
    *,
    served_by: str,
    trace_id: str,
    node: str,
    tier: str,
    cost_usd: float | None,
) -> pb.ChatResponse:
    """A chat completion and who gave it."""
    out = pb.ChatResponse(
        id=completion["id"],
        created=int(completion.get("created") or 0),
        model=served_by,
        usage=usage_to_pb(completion.get("usage")),
        served_by=served_by,
        trace_id=trace_id,
        node=node,
        tier=tier,
    )
    if cost_usd is not None:
        out.cost_usd = cost_usd
    for position, choice in enumerate(completion.get("choices") or ()):
        added = out.choices.add(
            index=choice.get("index", position),
            message=message_to_pb(choice.get("message") or {}),
            finish_reason=choice.get("finish_reason") or "",
        )
        if choice.get("logprobs") is not None:
            added.logprobs_json = _dump(choice["logprobs"])
    if extra := {k: v for k, v in completion.items() if k not in _COMPLETION and v is not None}:
        out.extra_json = _dump(extra)
    return out


def response_from_pb(response: pb.ChatResponse) -> dict[str, Any]:
    """OpenAI's chat completion."""
    extra = _load_object(response.extra_json, "extra_json") if response.HasField("extra_json") else {}
    return {
        **extra,
        "id": response.id,
        "object": "chat.completion",
        "created": response.created,
        "model": response.model,
        "choices": [
            {
                "index": choice.index,
                "message": {"content": None, **message_from_pb(choice.message)},
                "finish_reason": choice.finish_reason or None,
                "logprobs": json.loads(choice.logprobs_json) if choice.HasField("logprobs_json") else None,
            }
            for choice in response.choices
        ],
        "usage": usage_from_pb(response.usage),
    }


def chunk_to_pb(
    chunk: Mapping[str, Any], *, served_by: str, trace_id: str, node: str, tier: str
) -> pb.ChatChunk:
    """One piece of a stream."""
    out = pb.ChatChunk(
        id=chunk["id"],
        created=int(chunk.get("created") or 0),
        model=served_by,
        served_by=served_by,
        trace_id=trace_id,
        node=node,
        tier=tier,
    )
    if chunk.get("usage"):
        out.usage.CopyFrom(usage_to_pb(chunk["usage"]))
    for position, choice in enumerate(chunk.get("choices") or ()):
        added = out.choices.add(
            index=choice.get("index", position), delta=message_to_pb(choice.get("delta") or {})
        )
        if choice.get("finish_reason") is not None:
            added.finish_reason = choice["finish_reason"]
        if choice.get("logprobs") is not None:
            added.logprobs_json = _dump(choice["logprobs"])
    if extra := {k: v for k, v in chunk.items() if k not in _COMPLETION and v is not None}:
        out.extra_json = _dump(extra)
    return out


def chunk_from_pb(chunk: pb.ChatChunk) -> dict[str, Any]:
    """OpenAI's chat completion chunk."""
    extra = _load_object(chunk.extra_json, "extra_json") if chunk.HasField("extra_json") else {}
    out = {
        **extra,
        "id": chunk.id,
        "object": "chat.completion.chunk",
        "created": chunk.created,
        "model": chunk.model,
        "choices": [
            {
                "index": choice.index,
                "delta": message_from_pb(choice.delta),
                "finish_reason": choice.finish_reason if choice.HasField("finish_reason") else None,
                "logprobs": json.loads(choice.logprobs_json) if choice.HasField("logprobs_json") else None,
            }
            for choice in chunk.choices
        ],
    }
    if chunk.HasField("usage"):
        out["usage"] = usage_from_pb(chunk.usage)
    return out


def usage_to_pb(usage: Mapping[str, Any] | None) -> pb.Usage:
    usage = usage or {}
    prompt, completion = int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
    return pb.Usage(prompt_tokens=prompt, completion_tokens=completion, total_tokens=prompt + completion)


def usage_from_pb(usage: pb.Usage) -> dict[str, int]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
    }
