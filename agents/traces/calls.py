"""What all log formats share: the call that they become, and helpers to read loosely typed fields. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, TypeAlias

Json: TypeAlias = Any
Side: TypeAlias = Literal["request", "response", "both"]


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
    first_token_ms: Json = None
    cost_usd: Json = None
    privacy: Json = None
    side: Side = "both"


def completion_of(message: Json, model: Json, *, finish_reason: str | None = None) -> dict[str, Json]:
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


def with_usage(completion: Json, prompt_tokens: Json, completion_tokens: Json) -> Json:
    """The completion with the tokens that a log counted beside it, unless it counts its own."""
    if not isinstance(completion, Mapping) or completion.get("usage"):
        return completion
    if not is_number(prompt_tokens) and not is_number(completion_tokens):
        return completion
    sent = int(prompt_tokens) if is_number(prompt_tokens) else 0
    came = int(completion_tokens) if is_number(completion_tokens) else 0
    usage = {"prompt_tokens": sent, "completion_tokens": came, "total_tokens": sent + came}
    return {**completion, "usage": usage}


def milliseconds(start: Json, end: Json) -> float | None:
    """From one moment to another, each seconds since 1970 or ISO 8601; None where either is neither, or time ran backwards."""
    first, last = _seconds(start), _seconds(end)
    return (
        round((last - first) * 1000, 3) if first is not None and last is not None and last >= first else None
    )


def _seconds(moment: Json) -> float | None:
    if is_number(moment):
        return float(moment)
    if not isinstance(moment, str):
        return None
    try:
        parsed = datetime.fromisoformat(moment)
    except ValueError:
        return None
    return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp()


def first_number(*values: Json) -> Json:
    """The first of them that is a number; None where none is."""
    return next((value for value in values if is_number(value)), None)


def parsed_json(value: Json) -> Json:
    """A field that may hold JSON as text."""
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def objects_in(value: Json) -> list[Json]:
    parsed = parsed_json(value)
    if isinstance(parsed, Mapping):
        return [parsed]
    return [item for item in parsed if isinstance(item, Mapping)] if isinstance(parsed, list) else []


def as_text(value: Json) -> str:
    return value if isinstance(value, str) else json.dumps({} if value is None else value, ensure_ascii=False)


def get_field(mapping: Json, name: str) -> Json:
    return mapping.get(name) if isinstance(mapping, Mapping) else None


def is_number(value: Json) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
