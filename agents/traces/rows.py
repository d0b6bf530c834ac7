"""One trace as one Parquet row, and back. Owns the columns; knows nothing of files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
from pydantic_core import PydanticSerializationError, from_json, to_json

from shoal.agents.traces.trace import Trace

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("timestamp", pa.float64(), nullable=False),
        pa.field("client_id", pa.string(), nullable=False),
        pa.field("tags", pa.string(), nullable=False),
        pa.field("served_by", pa.string(), nullable=False),
        pa.field("latency_ms", pa.float64()),
        pa.field("first_token_ms", pa.float64()),
        pa.field("cost_usd", pa.float64()),
        pa.field("privacy", pa.string(), nullable=False),
        pa.field("conversation_id", pa.string()),
        pa.field("model", pa.string(), nullable=False),
        pa.field("request", pa.string(), nullable=False),
        pa.field("response", pa.string(), nullable=False),
    ],
    metadata={"shoal.format": "1"},
)

Row = dict[str, Any]


def row_of(trace: Trace) -> Row:
    """The columns of a trace; `tags`, `request` and `response` as JSON text."""
    conversation_id = trace.conversation_id
    return {
        "id": _text(trace.id),
        "timestamp": trace.timestamp,
        "client_id": _text(trace.client_id),
        "tags": _json(trace.tags),
        "served_by": _text(trace.served_by),
        "latency_ms": trace.latency_ms,
        "first_token_ms": trace.first_token_ms,
        "cost_usd": trace.cost_usd,
        "privacy": _text(trace.privacy),
        "conversation_id": None if conversation_id is None else _text(conversation_id),
        "model": _text(trace.chat.model),
        "request": _json(trace.request),
        "response": _json(trace.response),
    }


def trace_of(row: Mapping[str, Any]) -> Trace:
    """The trace of a row. Raises ValueError where the JSON in it is broken."""
    return Trace.from_dict(
        {
            **row,
            "tags": _parsed(row["tags"]),
            "request": _parsed(row["request"]),
            "response": _parsed(row["response"]),
        }
    )


def _parsed(text: str) -> Any:
    try:
        # twice as fast as the standard library's
        return from_json(text)
    except ValueError:
        # half of a surrogate pair, or what nests very deeply
        return json.loads(text)


_ASCII = json.JSONEncoder(separators=(",", ":"), default=dict)


def _json(value: Mapping[str, Any]) -> str:
    try:
        # four times as fast as the standard library's
        return to_json(value, inf_nan_mode="constants", fallback=dict).decode("utf-8")
    except (PydanticSerializationError, UnicodeError):
        # half of a surrogate pair is legal in JSON's escapes, but no UTF-8
        return _ASCII.encode(value)


def _text(value: str) -> str:
    return value if _is_utf8(value) else value.encode("utf-8", "backslashreplace").decode("utf-8")


def _is_utf8(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
