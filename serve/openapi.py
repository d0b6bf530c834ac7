"""What `/openapi.json` says of the bodies that the gateway checks by itself."""

from __future__ import annotations

from typing import Any, Final

from shoal.serve.feedback import FeedbackBody

_HEADERS: Final[list[dict[str, Any]]] = [
    {
        "name": "X-Shoal-Privacy",
        "in": "header",
        "schema": {"type": "string", "enum": ["public", "internal", "local-only"]},
        "description": "How far the call's data may travel.",
    },
    {
        "name": "X-Shoal-Conversation",
        "in": "header",
        "schema": {"type": "string"},
        "description": "Names the conversation that the call belongs to.",
    },
    {
        "name": "traceparent",
        "in": "header",
        "schema": {"type": "string"},
        "description": "W3C Trace Context.",
    },
]

_CHAT_BODY: Final[dict[str, Any]] = {
    "type": "object",
    "description": "OpenAI's chat completion request; fields that are not named here are passed on to the generalist.",
    "required": ["messages"],
    "additionalProperties": True,
    "properties": {
        "model": {
            "type": "string",
            "default": "auto",
            "description": "`auto` or the generalist's own name: Shoal decides. `generalist`: the large model. "
            "`specialist/<task>`: that specialist.",
        },
        "messages": {"type": "array", "minItems": 1, "items": {"type": "object", "required": ["role"]}},
        "stream": {"type": "boolean", "default": False},
        "stream_options": {"type": "object", "properties": {"include_usage": {"type": "boolean"}}},
        "tools": {"type": "array", "items": {"type": "object"}},
        "response_format": {"type": "object"},
        "temperature": {"type": "number", "minimum": 0, "maximum": 2},
        "max_tokens": {"type": "integer", "minimum": 1},
        "n": {"type": "integer", "minimum": 1},
        "metadata": {"type": "object"},
    },
}

CHAT: Final[dict[str, Any]] = {
    "parameters": _HEADERS,
    "requestBody": {"required": True, "content": {"application/json": {"schema": _CHAT_BODY}}},
}

FEEDBACK: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": FeedbackBody.model_json_schema()}},
    }
}
