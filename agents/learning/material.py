"""From traces to what a task learns from: examples, their groups, and which calls teach nothing. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass

from shoal.agents.contract.loss import canonical_tool_calls
from shoal.agents.curation.outcome import failed_outcome
from shoal.agents.learning.training import Example
from shoal.agents.traces.chat import Answer, ChatRequest, text_of
from shoal.agents.traces.trace import Trace
from shoal.errors import InvalidRequest

#: answers that were not finished teach nothing
_UNFINISHED = ("length", "content_filter")


@dataclass(frozen=True, slots=True)
class Material:
    """One task's calls, as many as are learnt from.

    Attributes:
        examples: calls with a text for an answer, in the order of the traces.
        calling: calls whose answer is a function call, its canonical form standing for the text.
        left_out: why calls were left out, with how many.
        tier: where most of the task's calls wish to be answered; empty for anywhere.
        private: some of its calls are `local-only`.
    """

    examples: Sequence[Example]
    calling: Sequence[Example]
    left_out: Mapping[str, int]
    tier: str = ""
    private: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """What one call teaches. `content`: the answer's text; of function calls their canonical form. `useless`: why nothing, if so."""

    request: ChatRequest
    answer: Answer | None
    content: str
    useless: str


def read_lesson(trace: Trace) -> Lesson:
    """A failed answer is no truth to be judged by either, so calls that teach nothing leave calibration too."""
    request = trace.chat
    try:
        answer: Answer | None = trace.answer
    except InvalidRequest:
        answer = None
    useless = _unusable(answer)
    if answer is not None and not useless:
        useless = failed_outcome(request, answer, trace.tags)
    if answer is None or useless:
        return Lesson(request=request, answer=answer, content="", useless=useless)
    content = canonical_tool_calls(answer.tool_calls) if answer.tool_calls else answer.content or ""
    return Lesson(request=request, answer=answer, content=content, useless="")


def material_of(
    traces: Iterable[Trace],
    places: Mapping[str, int],
    *,
    openings: Container[bytes],
    left_out: Mapping[str, int],
    tier: str = "",
    private: bool = False,
) -> Material:
    """A task's examples from its traces, in any order.

    Args:
        places: where each id stands in the log; what is not there is no example.
        openings: of conversations without an id, as `opening_of` names them.
    """
    examples: list[Example] = []
    calling: list[Example] = []
    for trace in sorted((t for t in traces if t.id in places), key=lambda t: places[t.id]):
        lesson = read_lesson(trace)
        if lesson.useless or lesson.answer is None:
            continue
        example = Example(
            id=trace.id,
            request=lesson.request,
            content=lesson.content,
            group=_group(trace, lesson.request, openings),
            tool_calls=tuple(lesson.answer.tool_calls),
            timestamp=trace.timestamp,
        )
        (calling if example.tool_calls else examples).append(example)
    return Material(examples, calling, left_out, tier, private)


def is_later_turn(request: ChatRequest) -> bool:
    return any(m["role"] == "assistant" for m in request.messages)


def opening_of(request: ChatRequest) -> bytes:
    """What calls of one conversation have in common where they name none: 16 bytes."""
    first = next((text_of(m) for m in request.messages if m["role"] == "user"), "")
    said = f"{request.system_text}\0{first}".encode("utf-8", "surrogatepass")
    return hashlib.blake2b(said, digest_size=16).digest()


def _unusable(answer: Answer | None) -> str:
    if answer is None:
        return "no answer"
    if answer.finish_reason in _UNFINISHED:
        return "answer cut off"
    if not answer.tool_calls and not (answer.content or "").strip():
        return "empty answer"
    return ""


def _group(trace: Trace, request: ChatRequest, openings: Container[bytes]) -> str:
    """Calls of one conversation share a group, also where only their opening tells that they do."""
    if request.conversation_id is not None:
        return f"conversation {request.conversation_id}"
    opening = opening_of(request)
    return f"opening {opening.hex()}" if opening in openings else f"call {trace.id}"
