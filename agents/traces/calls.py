"""What all log formats share: the call that they become, and helpers to read loosely typed fields. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
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
