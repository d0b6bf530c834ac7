"""What the Python client hands out. Plain values over OpenAI's JSON; knows nothing of transport."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens of a call; a specialist's are estimates."""

    prompt_tokens: int = 0
    completion_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens

    @classmethod
    def from_openai(cls, usage: Mapping[str, Any] | None) -> Usage:
        usage = usage or {}
        return cls(
            prompt_tokens=int(usage.get("prompt_tokens") or 0),
            completion_tokens=int(usage.get("completion_tokens") or 0),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatAnswer:
    """An answer and who gave it.

    Attributes:
        text: the first choice's text; empty where it only calls tools.
        message: the first choice's message, as OpenAI's JSON.
        served_by: `specialist/<task>@<version>` or `generalist/<model>`.
        trace_id: names the call's record; for `feedback`.
        cost: USD; None where the site has no price configured.
        node, tier: where the gateway that answered runs.
        completion: OpenAI's whole chat completion.
    """

    text: str
    message: dict[str, Any]
    finish_reason: str
    served_by: str
    trace_id: str
    usage: Usage
    cost: float | None
    node: str
    tier: str
    completion: Mapping[str, Any] = field(repr=False)

    @classmethod
    def from_completion(
        cls,
        completion: Mapping[str, Any],
        *,
        served_by: str,
        trace_id: str,
        node: str,
        tier: str,
        cost: float | None,
    ) -> ChatAnswer:
        choices = completion.get("choices") or [{}]
        message = dict(choices[0].get("message") or {})
        return cls(
            text=message.get("content") or "",
            message=message,
            finish_reason=choices[0].get("finish_reason") or "",
            served_by=served_by or str(completion.get("model", "")),
            trace_id=trace_id,
            usage=Usage.from_openai(completion.get("usage")),
            cost=cost,
            node=node,
            tier=tier,
            completion=completion,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatPiece:
    """A piece of a streamed answer.

    Attributes:
        text: what the first choice says further; may be empty.
        finish_reason: set in the choice's last piece.
        usage: set in the stream's last piece.
        chunk: OpenAI's chunk.
    """

    text: str
    finish_reason: str | None
    usage: Usage | None
    served_by: str
    trace_id: str
    chunk: Mapping[str, Any] = field(repr=False)

    @classmethod
    def from_chunk(cls, chunk: Mapping[str, Any], *, served_by: str, trace_id: str) -> ChatPiece:
        choices: Sequence[Mapping[str, Any]] = chunk.get("choices") or [{}]
        choice = choices[0]
        return cls(
            text=(choice.get("delta") or {}).get("content") or "",
            finish_reason=choice.get("finish_reason"),
            usage=Usage.from_openai(chunk["usage"]) if chunk.get("usage") else None,
            served_by=served_by or str(chunk.get("model", "")),
            trace_id=trace_id,
            chunk=chunk,
        )
