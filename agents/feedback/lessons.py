"""What feedback teaches: traces in, traces as they should have been out. Pure; knows neither storage nor tasks nor models.

A correction is the owner's word. It takes the answer's place, also where a specialist had answered, and in all other calls that asked
word for word the same. An answer that was only called bad is left out: it is known to be wrong, and not what would be right.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from shoal.agents.contract.loss import canonical_json, canonical_tool_calls
from shoal.agents.curation.recognition import Recognition
from shoal.agents.curation.scrub import RECOGNISERS, scrub
from shoal.agents.learning.splits import request_key
from shoal.agents.traces.chat import Answer
from shoal.agents.traces.trace import Trace
from shoal.errors import InvalidRequest

#: `served_by` of a trace whose answer is the owner's
OWNER: Final = "owner"
#: a plan's answer is put together from those of its steps; it is these that can be learnt
_PLANS = "agent/"


@dataclass(slots=True)
class _Words:
    """The newest of each kind that was said. Feedback of one moment counts in the order in which it came."""

    #: trace id -> (when, message)
    corrections: dict[str, tuple[float, Mapping[str, Any]]] = field(default_factory=dict)
    scores: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lessons:
    """What is to be thought of traces; of the log it keeps digests of the requests that were corrected, and no more.

    Attributes:
        right: the newest correction of each request that has one, by `request_key`.
        corrected: ids of the traces that were corrected themselves.
        scores: the newest score of each trace that has one.
        recognisers: kinds of personal data that are replaced in corrections, as in the traces themselves.
    """

    right: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    corrected: Container[str] = ()
    scores: Mapping[str, float] = field(default_factory=dict)
    recognisers: Sequence[str] | Recognition = RECOGNISERS

    def taught(self, trace: Trace) -> Trace | None:
        """The trace with what was said of it; None where its answer was only called bad."""
        message = self.right.get(request_key(trace.chat)) if self.right else None
        own = trace.id in self.corrected
        if message is not None and not trace.served_by.startswith(_PLANS):
            return _corrected(trace, message, own=own, recognisers=self.recognisers)
        return trace if own or self.scores.get(trace.id, 0.0) >= 0 else None


NO_LESSONS: Final = Lessons()


def lessons_of(
    feedback: Sequence[Mapping[str, Any]],
    *,
    pick: Callable[[Collection[str]], Iterable[Trace]],
    recognisers: Sequence[str] | Recognition = RECOGNISERS,
) -> Lessons:
    """What feedback teaches.

    Args:
        feedback: as `SqlRegistry.feedback` gives it, oldest first.
        pick: gives the traces of some ids, as `TraceStore.pick`; asked for those that were corrected.
    """
    words = _heard(feedback)
    right: dict[str, tuple[float, Mapping[str, Any]]] = {}
    given = pick(words.corrections) if words.corrections else ()
    for trace in sorted(given, key=lambda t: (t.timestamp, t.id)):
        if not trace.served_by.startswith(_PLANS):
            said, key = words.corrections[trace.id], request_key(trace.chat)
            right[key] = max(said, right.get(key, said), key=lambda word: word[0])
    return Lessons(
        right={key: message for key, (_, message) in right.items()},
        corrected=frozenset(words.corrections),
        scores=words.scores,
        recognisers=recognisers,
    )


def contradicts(trace: Trace, said: Mapping[str, Any]) -> bool:
    """Whether one piece of feedback says that the trace's answer was wrong."""
    if said["correction"] is not None:
        return not _same(trace, said["correction"])
    return said["score"] is not None and said["score"] < 0


def _heard(feedback: Sequence[Mapping[str, Any]]) -> _Words:
    words = _Words()
    for said in feedback:
        if said["correction"] is not None:
            words.corrections[said["trace_id"]] = (said["at"], said["correction"])
        if said["score"] is not None:
            words.scores[said["trace_id"]] = said["score"]
    return words


def _corrected(
    trace: Trace, message: Mapping[str, Any], *, own: bool, recognisers: Sequence[str] | Recognition
) -> Trace:
    """The trace with the message for its answer. `own`: it is this very trace that was corrected."""
    if not own and _same(trace, message):
        return trace
    served_by = OWNER if own else trace.served_by
    if _same(trace, message):
        return replace(trace, served_by=served_by)
    answer = {**message, "role": "assistant"}
    finish = "tool_calls" if message.get("tool_calls") else "stop"
    corrected = replace(
        trace,
        response={
            "model": OWNER,
            "choices": [{"index": 0, "message": answer, "finish_reason": finish}],
        },
        served_by=served_by,
        tags={name: value for name, value in trace.tags.items() if name != "incomplete"},
    )
    return scrub(corrected, recognisers)[0]


def _same(trace: Trace, message: Mapping[str, Any]) -> bool:
    try:
        given = trace.answer
        right = Answer.from_openai({"choices": [{"message": message}]})
    except InvalidRequest:
        return False
    if trace.tags.get("incomplete"):
        return False
    return _plain(given) == _plain(right)


def _plain(answer: Answer) -> str:
    """The same for answers that say the same."""
    if answer.tool_calls:
        return canonical_tool_calls(answer.tool_calls)
    text = answer.content or ""
    return canonical_json(text) or " ".join(text.split())
