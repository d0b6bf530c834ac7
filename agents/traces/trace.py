"""A trace: the durable record of one call. Owns its fields and its plain-dict form; knows nothing of files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NewType

from shoal.agents.traces.chat import Answer, ChatRequest

TraceId = NewType("TraceId", str)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """One request and its answer.

    Attributes:
        request: OpenAI's chat request, as the client sent it.
        response: OpenAI's chat completion, as the client got it.
        timestamp: seconds since the epoch at which the request came in.
        served_by: `specialist/<task>@<version>` or `generalist/<model>`; empty where an import did not say.
        latency_ms: from the request's arrival to the answer's end; None where unknown.
        first_token_ms: from the request's arrival to the answer's first token, where it was streamed; else None.
        cost_usd: what the answer cost; None where unknown. Tokens stand in the response's `usage`, reasoning in its message.
        privacy: `public`, `internal` or `local-only`.
    """

    id: TraceId
    request: Mapping[str, Any]
    response: Mapping[str, Any]
    timestamp: float
    client_id: str = ""
    tags: Mapping[str, Any] = field(default_factory=dict)
    served_by: str = ""
    latency_ms: float | None = None
    first_token_ms: float | None = None
    cost_usd: float | None = None
    privacy: str = "internal"

    @property
    def chat(self) -> ChatRequest:
        return ChatRequest(body=self.request)

    @property
    def answer(self) -> Answer:
        return Answer.from_openai(self.response)

    @property
    def reasoning(self) -> str:
        """What the model thought before it answered, as it wrote it; empty where it did not. Never served."""
        message = self.response["choices"][0]["message"]
        return str(message.get("reasoning_content") or message.get("reasoning") or "")

    @property
    def conversation_id(self) -> str | None:
        return self.chat.conversation_id

    def to_dict(self) -> dict[str, Any]:
        """Plain data: msgpack and JSON take it as it is."""
        return {
            "id": self.id,
            "timestamp": self.timestamp,
            "client_id": self.client_id,
            "tags": dict(self.tags),
            "request": dict(self.request),
            "response": dict(self.response),
            "served_by": self.served_by,
            "latency_ms": self.latency_ms,
            "first_token_ms": self.first_token_ms,
            "cost_usd": self.cost_usd,
            "privacy": self.privacy,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Trace:
        return cls(
            id=TraceId(data["id"]),
            request=data["request"],
            response=data["response"],
            timestamp=float(data["timestamp"]),
            client_id=data.get("client_id") or "",
            tags=data.get("tags") or {},
            served_by=data.get("served_by") or "",
            latency_ms=data.get("latency_ms"),
            first_token_ms=data.get("first_token_ms"),
            cost_usd=data.get("cost_usd"),
            privacy=data.get("privacy") or "internal",
        )
