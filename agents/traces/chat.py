"""A chat request and its answer, between the outside form (OpenAI's) and ours.

Owns: validation of a request body, the domain types `ChatRequest`, `Answer` and `Delta`, and the one conversion between them
and OpenAI's JSON. HTTP and gRPC are thin siblings over it. Knows nothing of transport, storage or models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shoal.errors import InvalidRequest

Json: TypeAlias = Any
Privacy: TypeAlias = Literal["public", "internal", "local-only"]


class _Message(BaseModel):
    model_config = ConfigDict(extra="allow")
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[dict[str, Any]] | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None


class _Body(BaseModel):
    """OpenAI's chat completion request, as far as Shoal must understand it. The rest is passed on untouched."""

    model_config = ConfigDict(extra="allow")
    model: str = "auto"
    messages: list[_Message] = Field(min_length=1)
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    response_format: dict[str, Any] | None = None
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None
    n: int | None = Field(default=None, ge=1, le=128)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, ge=0, le=1)
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    stop: str | list[str] | None = None
    seed: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    metadata: dict[str, Any] | None = None
    user: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """One chat request.

    `body` is the request as the client sent it (OpenAI's JSON) and is never changed; the properties read it.
    """

    body: Mapping[str, Json]

    @property
    def model(self) -> str:
        return str(self.body.get("model", "auto"))

    @property
    def messages(self) -> Sequence[Mapping[str, Json]]:
        messages: Sequence[Mapping[str, Json]] = self.body["messages"]
        return messages

    @property
    def tools(self) -> Sequence[Mapping[str, Json]]:
        return self.body.get("tools") or ()

    @property
    def response_format(self) -> Mapping[str, Json] | None:
        return self.body.get("response_format")

    @property
    def stream(self) -> bool:
        return bool(self.body.get("stream"))

    @property
    def conversation_id(self) -> str | None:
        value = (self.body.get("metadata") or {}).get("conversation_id")
        return None if value is None else str(value)

    @property
    def system_text(self) -> str:
        """All system and developer messages, joined by a blank line."""
        return "\n\n".join(text_of(m) for m in self.messages if m["role"] in ("system", "developer"))

    @property
    def last_user_text(self) -> str:
        """The newest user message; empty if there is none."""
        return next((text_of(m) for m in reversed(self.messages) if m["role"] == "user"), "")


def text_of(message: Mapping[str, Json]) -> str:
    """A message's text; the text parts of a multi-part message, joined by newlines."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "\n".join(str(part.get("text", "")) for part in content if part.get("type") == "text")
    return ""


def parse_chat_request(body: Json) -> ChatRequest:
    """Check a request body and wrap it.

    Raises:
        InvalidRequest: the body is no chat request; `param` is the path to the first bad field.
    """
    if not isinstance(body, Mapping):
        raise InvalidRequest(
            f"The request body must be a JSON object, got {type(body).__name__}.",
            remedy='Send {"model": ..., "messages": [...]}.',
        )
    try:
        _Body.model_validate(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        path = ".".join(str(part) for part in first["loc"])
        shown = repr(first.get("input"))
        raise InvalidRequest(
            f"`{path}`: {first['msg']}, got {shown if len(shown) <= 80 else shown[:77] + '...'}.",
            remedy="See OpenAI's chat completion reference for the field.",
            param=path,
        ) from None
    return ChatRequest(body=body)


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def to_openai(self) -> dict[str, Json]:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
        }

    @classmethod
    def from_openai(cls, usage: Mapping[str, Json] | None) -> Usage:
        usage = usage or {}
        return cls(
            prompt_tokens=int(usage.get("prompt_tokens") or 0),
            completion_tokens=int(usage.get("completion_tokens") or 0),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a performer said. `choices` and `extra` keep what a generalist gave beyond the first plain message."""

    content: str | None
    model: str
    tool_calls: Sequence[Mapping[str, Json]] = ()
    finish_reason: str = "stop"
    usage: Usage = field(default_factory=Usage)
    #: the whole completion as the generalist gave it, if it did: passed on field by field, but for id and model
    original: Mapping[str, Json] | None = None

    @property
    def message(self) -> dict[str, Json]:
        message: dict[str, Json] = {"role": "assistant", "content": self.content}
        if self.tool_calls:
            message["tool_calls"] = [dict(call) for call in self.tool_calls]
        return message

    def to_openai(self, *, completion_id: str, created: int) -> dict[str, Json]:
        """OpenAI's chat completion object."""
        if self.original is not None:
            return {**self.original, "id": completion_id, "object": "chat.completion", "model": self.model}
        return {
            "id": completion_id,
            "object": "chat.completion",
            "created": created,
            "model": self.model,
            "choices": [
                {"index": 0, "message": self.message, "finish_reason": self.finish_reason, "logprobs": None}
            ],
            "usage": self.usage.to_openai(),
        }

    @classmethod
    def from_openai(cls, completion: Mapping[str, Json], *, model: str | None = None) -> Answer:
        """Read a chat completion. Raises `InvalidRequest` where it has no choice with a message."""
        choices = completion.get("choices")
        if not isinstance(choices, list) or not choices or not isinstance(choices[0], Mapping):
            raise InvalidRequest("A chat completion must have at least one choice.", param="choices")
        message = choices[0].get("message")
        if not isinstance(message, Mapping):
            raise InvalidRequest("A choice must have a message.", param="choices.0.message")
        return cls(
            content=text_of(message) if message.get("content") is not None else None,
            model=model or str(completion.get("model", "")),
            tool_calls=tuple(message.get("tool_calls") or ()),
            finish_reason=str(choices[0].get("finish_reason") or "stop"),
            usage=Usage.from_openai(completion.get("usage")),
            original=completion,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """One piece of a streamed answer; `chunk` is OpenAI's chunk as a generalist sent it, if it did.

    `tool_calls`: pieces of calls in OpenAI's streamed form, each with its `index`.
    """

    content: str | None = None
    tool_calls: Sequence[Mapping[str, Json]] = ()
    finish_reason: str | None = None
    usage: Usage | None = None
    chunk: Mapping[str, Json] | None = None

    def to_openai(self, *, completion_id: str, created: int, model: str, first: bool) -> dict[str, Json]:
        """OpenAI's chat completion chunk."""
        if self.chunk is not None:
            return {**self.chunk, "id": completion_id, "object": "chat.completion.chunk", "model": model}
        delta: dict[str, Json] = {"role": "assistant"} if first else {}
        if self.content is not None:
            delta["content"] = self.content
        if self.tool_calls:
            delta["tool_calls"] = [dict(call) for call in self.tool_calls]
        out: dict[str, Json] = {
            "id": completion_id,
            "object": "chat.completion.chunk",
            "created": created,
            "model": model,
            "choices": [{"index": 0, "delta": delta, "finish_reason": self.finish_reason, "logprobs": None}],
        }
        if self.usage is not None:
            out["usage"] = self.usage.to_openai()
        return out
