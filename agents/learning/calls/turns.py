"""Reads a request as a conversation: who said what, in which order, with functions called and what they gave. Pure.

A conversation stands in a request's messages, or as a transcript inside one of them (lines such as `user: ...`, `Agent: ...`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shoal.agents.traces.chat import ChatRequest, text_of

USER, ASSISTANT, TOOL, CALL = "user", "assistant", "tool", "call"

#: how transcripts name who speaks
_SPEAKERS = {
    **dict.fromkeys(("user", "customer", "client", "human", "caller", "guest"), USER),
    **dict.fromkeys(("assistant", "agent", "system", "bot", "ai", "operator", "model"), ASSISTANT),
}
_LINE = re.compile(rf"^\s*({'|'.join(_SPEAKERS)})\s*:[ \t]*", re.IGNORECASE | re.MULTILINE)
#: of a tool's result, at most so many values are read
_MOST_LEAVES = 400
_MOST_CHARS = 100_000
#: of a message, at most so many characters are read
_MAX_TEXT = 40_000


@dataclass(frozen=True, slots=True)
class Leaf:
    """A value in a tool's result or in the arguments of an earlier call. `key`: the name it stands under."""

    key: str
    value: Any
    order: int


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn. `text`: what was said, or a call's name; `leaves`: the values of a call or of a tool's result."""

    role: str
    text: str
    leaves: tuple[Leaf, ...] = ()
    #: the JSON that the leaves are of; None where there is none
    value: Any = None


@dataclass(frozen=True, slots=True)
class Conversation:
    """The turns, oldest first, and what the system prompt says."""

    turns: tuple[Turn, ...]
    system: str

    def newest(self, role: str) -> int:
        """Place of the newest turn of that role; -1 where there is none."""
        return next((n for n in range(len(self.turns) - 1, -1, -1) if self.turns[n].role == role), -1)


def conversation_of(request: ChatRequest) -> Conversation:
    """The request's conversation. System and developer messages are kept apart."""
    turns: list[Turn] = []
    for message in request.messages:
        role = str(message["role"])
        if role in ("system", "developer"):
            continue
        if role in ("tool", "function"):
            turns.append(_result(text_of(message)))
            continue
        text = text_of(message)[:_MAX_TEXT]
        if text:
            turns.extend(_spoken(text, role))
        for call in message.get("tool_calls") or ():
            if isinstance(call, Mapping):
                turns.append(_called(call))
    return Conversation(tuple(turns), request.system_text[:_MAX_TEXT])


def _spoken(text: str, role: str) -> Iterator[Turn]:
    """A message's turns: one, or those of the transcript that it holds."""
    marks = list(_LINE.finditer(text))
    if role != "user" or not marks or marks[0].start() > 0 or len({m[1].lower() for m in marks}) > 4:
        yield Turn(role, text)
        return
    for mark, end in zip(marks, [*(m.start() for m in marks[1:]), len(text)], strict=True):
        said = text[mark.end() : end].strip()
        if said:
            yield Turn(_SPEAKERS[mark[1].lower()], said)


def _result(text: str) -> Turn:
    value = _json(text)
    if value is None:
        return Turn(TOOL, text[:_MAX_TEXT])
    return Turn(TOOL, "", tuple(leaves_of(value)), value)


def _called(call: Mapping[str, Any]) -> Turn:
    function = call.get("function") or {}
    arguments = function.get("arguments")
    value = _json(arguments) if isinstance(arguments, str) else arguments
    return Turn(CALL, str(function.get("name", "")), tuple(leaves_of(value)), value)


def _json(text: str) -> Any:
    if text[:1] not in "[{" or len(text) > _MOST_CHARS:
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict | list) else None


def leaves_of(value: Any) -> list[Leaf]:
    """Scalars of a JSON value, in order, each with the name it stands under; keys that look like data are values too."""
    out: list[Leaf] = []
    stack: list[tuple[str, Any]] = [("", value)]
    while stack and len(out) < _MOST_LEAVES:
        key, item = stack.pop()
        if isinstance(item, Mapping):
            stack.extend((str(k), v) for k, v in reversed(list(item.items())))
        elif isinstance(item, Sequence) and not isinstance(item, str):
            stack.extend((key, v) for v in reversed(item))
        elif item is not None:
            out.append(Leaf(key, item, len(out)))
    return out
