"""A streamed answer put together again: deltas in, the completion that the client would have got unstreamed out.

Pure; knows nothing of transport or storage.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from shoal.agents.traces.chat import Delta, Usage

#: fields of a delta whose pieces are joined
_JOINED = ("content", "refusal", "reasoning_content", "reasoning")


@dataclass(slots=True)
class _Choice:
    text: dict[str, str] = field(default_factory=dict)
    other: dict[str, Any] = field(default_factory=dict)
    tool_calls: dict[int, dict[str, Any]] = field(default_factory=dict)
    logprobs: list[Any] = field(default_factory=list)
    finish_reason: str | None = None

    def add(self, delta: Mapping[str, Any]) -> None:
        for name, value in delta.items():
            if value is None or name == "role":
                continue
            if name in _JOINED and isinstance(value, str):
                self.text[name] = self.text.get(name, "") + value
            elif name == "tool_calls" and isinstance(value, list):
                for position, piece in enumerate(value):
                    if isinstance(piece, Mapping):
                        self._add_tool_call(int(piece.get("index", position)), piece)
            else:
                self.other[name] = value

    def _add_tool_call(self, index: int, piece: Mapping[str, Any]) -> None:
        call = self.tool_calls.setdefault(
            index, {"type": "function", "function": {"name": "", "arguments": ""}}
        )
        for name in ("id", "type"):
            if piece.get(name):
                call[name] = piece[name]
        function = piece.get("function")
        if isinstance(function, Mapping):
            for name in ("name", "arguments"):
                if isinstance(function.get(name), str):
                    call["function"][name] += function[name]

    def message(self) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": None, **self.other, **self.text}
        if self.tool_calls:
            message["tool_calls"] = [call for _, call in sorted(self.tool_calls.items())]
        return message


@dataclass(slots=True)
class Collector:
    """Collects the deltas of one answer, also of several choices at once."""

    choices: dict[int, _Choice] = field(default_factory=dict)
    usage: Usage | None = None

    def add(self, delta: Delta) -> None:
        if delta.usage is not None:
            self.usage = delta.usage
        if delta.chunk is None:
            choice = self.choices.setdefault(0, _Choice())
            if delta.content is not None:
                choice.add({"content": delta.content})
            if delta.tool_calls:
                choice.add({"tool_calls": list(delta.tool_calls)})
            choice.finish_reason = delta.finish_reason or choice.finish_reason
            return
        for part in delta.chunk.get("choices") or ():
            choice = self.choices.setdefault(int(part.get("index") or 0), _Choice())
            choice.add(part.get("delta") or {})
            choice.finish_reason = part.get("finish_reason") or choice.finish_reason
            logprobs = part.get("logprobs")
            if isinstance(logprobs, Mapping) and isinstance(logprobs.get("content"), list):
                choice.logprobs.extend(logprobs["content"])

    @property
    def finished(self) -> bool:
        """Every choice that was begun has its finish reason."""
        return bool(self.choices) and all(c.finish_reason is not None for c in self.choices.values())

    @property
    def text(self) -> str:
        """The first choice's text so far."""
        return self.choices[0].text.get("content", "") if 0 in self.choices else ""

    def completion(self, *, completion_id: str, created: int, model: str, usage: Usage) -> dict[str, Any]:
        """OpenAI's chat completion object, as far as it came."""
        return {
            "id": completion_id,
            "object": "chat.completion",
            "created": created,
            "model": model,
            "choices": [
                {
                    "index": index,
                    "message": choice.message(),
                    "finish_reason": choice.finish_reason,
                    "logprobs": {"content": choice.logprobs} if choice.logprobs else None,
                }
                for index, choice in sorted((self.choices or {0: _Choice()}).items())
            ],
            "usage": usage.to_openai(),
        }


def chunk_of_completion(completion: Mapping[str, Any]) -> dict[str, Any]:
    """A whole completion as one chunk: for a generalist that was asked for a stream and did not stream."""
    choices = []
    for position, choice in enumerate(completion.get("choices") or ()):
        message = dict(choice.get("message") or {})
        if message.get("tool_calls"):
            message["tool_calls"] = [{"index": i, **c} for i, c in enumerate(message["tool_calls"])]
        choices.append(
            {
                "index": choice.get("index", position),
                "delta": message,
                "finish_reason": choice.get("finish_reason") or "stop",
                "logprobs": choice.get("logprobs"),
            }
        )
    return {"object": "chat.completion.chunk", "created": completion.get("created"), "choices": choices}


def call_pieces(index: int, call: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A function call as OpenAI streams one: first its id and name, then its arguments piece by piece."""
    function = call["function"]
    yield {
        "index": index,
        "id": call["id"],
        "type": "function",
        "function": {"name": function["name"], "arguments": ""},
    }
    for piece in text_pieces(function["arguments"]):
        yield {"index": index, "function": {"arguments": piece}}


def text_pieces(text: str, *, most: int = 32) -> Iterator[str]:
    """A text in at most `most` pieces that end between words; joined they are the text."""
    size = max(1, -(-len(text) // most))
    start = 0
    while start < len(text):
        end = min(len(text), start + size)
        while end < len(text) and not text[end].isspace():
            end += 1
        yield text[start:end]
        start = end
