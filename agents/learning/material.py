"""From traces to what a task learns from: examples, their groups, and whether they may be learnt from at all. Pure."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from pydantic_core import to_json

from shoal.agents.contract.loss import canonical_tool_calls
from shoal.agents.curation.outcome import failed_outcome
from shoal.agents.learning.training import Example
from shoal.agents.registry.records import TaskId
from shoal.agents.traces.chat import Answer, ChatRequest, text_of
from shoal.agents.traces.trace import Trace, TraceId
from shoal.errors import ConfigError, InvalidRequest

_CAPTURED = "generalist/"
#: what the site answered by itself: a specialist, or the plan of an agent, whose steps are calls of their own
_OWN = ("specialist/", "agent/")
#: the same call under two ids, as a log has it that was written or imported twice
_TWICE = "recorded twice"
#: answers that were not finished teach nothing
_UNFINISHED = ("length", "content_filter")


@dataclass(frozen=True, slots=True)
class Material:
    """One task's calls.

    Attributes:
        examples: calls with a text for an answer, in the order of the traces.
        calling: calls whose answer is a function call, its canonical form standing for the text.
        left_out: why calls were left out, with how many.
        tier: where most of its calls wish to be answered; empty for anywhere.
        private: some of its calls are `local-only`.
    """

    examples: Sequence[Example]
    calling: Sequence[Example]
    left_out: Mapping[str, int]
    tier: str = ""
    private: bool = False

    @property
    def calls(self) -> int:
        return len(self.examples) + len(self.calling)


def may_train(traces: Sequence[Trace], outputs_may_train: bool | None) -> list[Trace]:
    """The traces that may be learnt from. Imported logs always may; what a specialist answered, or broke off, never is.

    Raises:
        ConfigError: there is captured traffic and `generalist.outputs_may_train` does not say, or forbids it and
            nothing else is there.
    """
    captured = sum(t.served_by.startswith(_CAPTURED) for t in traces)
    usable = [t for t in traces if not t.served_by.startswith(_OWN) and not t.tags.get("incomplete")]
    if not captured or outputs_may_train:
        return usable
    if outputs_may_train is None:
        raise ConfigError(
            f"{captured} traces are answers of the generalist that this site captured, and the configuration does not say "
            "whether they may be trained on; many providers' terms restrict it.",
            remedy="Read the terms, then say so: shoal learn --outputs-may-train, or `outputs_may_train` under `generalist` "
            "in shoal.yaml.",
            param="generalist.outputs_may_train",
        )
    imported = [t for t in usable if not t.served_by.startswith(_CAPTURED)]
    if not imported:
        raise ConfigError(
            f"All {captured} traces are captured answers of the generalist, and `generalist.outputs_may_train` is false.",
            remedy="Import a log that may be learnt from, or set it to true if the terms allow it.",
            param="generalist.outputs_may_train",
        )
    return imported


def gather(
    traces: Iterable[Trace],
    assignment: Mapping[TraceId, TaskId | None],
    private: Collection[TaskId] = (),
) -> dict[TaskId, Material]:
    """Each task's examples. Calls of one conversation share a group, also where only their opening tells that they do.

    Args:
        private: tasks that have `local-only` calls among those that nothing is learnt from.
    """
    rows: list[tuple[TaskId, Trace, ChatRequest, Answer | None]] = []
    openings: Counter[str] = Counter()
    for trace in traces:
        task_id = assignment.get(trace.id)
        if task_id is None:
            continue
        request = trace.chat
        try:
            answer: Answer | None = trace.answer
        except InvalidRequest:
            answer = None
        rows.append((task_id, trace, request, answer))
        if request.conversation_id is None and _is_later_turn(request):
            openings[_opening(request)] += 1
    examples: dict[TaskId, list[Example]] = {}
    calling: dict[TaskId, list[Example]] = {}
    left_out: dict[TaskId, Counter[str]] = {}
    recorded: set[tuple[str, float, bytes]] = set()
    private = {*private, *(task_id for task_id, trace, _, _ in rows if trace.privacy == "local-only")}
    for task_id, trace, request, answer in rows:
        missing = left_out.setdefault(task_id, Counter())
        # a failed answer is no truth to be judged by either, so such calls leave calibration too
        reason = _unusable(answer) or (failed_outcome(request, answer, trace.tags) if answer else "")
        if not reason and _is_known(trace, request, recorded):
            reason = _TWICE
        if reason or answer is None:
            missing[reason] += 1
            continue
        content = canonical_tool_calls(answer.tool_calls) if answer.tool_calls else answer.content or ""
        example = Example(
            id=trace.id,
            request=request,
            content=content,
            group=_group(trace, request, openings),
            tool_calls=tuple(answer.tool_calls),
            timestamp=trace.timestamp,
        )
        (calling if answer.tool_calls else examples).setdefault(task_id, []).append(example)
    return {
        task_id: Material(
            examples.get(task_id, ()),
            calling.get(task_id, ()),
            dict(left_out[task_id]),
            tier=_usual_tier([trace for row_task, trace, _, _ in rows if row_task == task_id]),
            private=task_id in private,
        )
        for task_id in left_out
    }


def _usual_tier(traces: Sequence[Trace]) -> str:
    """The tier that more than half of the calls wish for; empty where there is none."""
    wishes = Counter(str(trace.tags.get("tier") or "") for trace in traces)
    tier, count = wishes.most_common(1)[0]
    return tier if 2 * count > len(traces) else ""


def _unusable(answer: Answer | None) -> str:
    if answer is None:
        return "no answer"
    if answer.finish_reason in _UNFINISHED:
        return "answer cut off"
    if not answer.tool_calls and not (answer.content or "").strip():
        return "empty answer"
    return ""


def _is_known(trace: Trace, request: ChatRequest, recorded: set[tuple[str, float, bytes]]) -> bool:
    """Whether this very call was recorded before: the same completion of the same request at the same moment.

    Calls that merely say the same are the traffic's own and stay.
    """
    completion = trace.response.get("id")
    if not isinstance(completion, str) or not completion:
        return False
    said = hashlib.blake2b(to_json(request.messages, fallback=dict), digest_size=16).digest()
    key = (completion, trace.timestamp, said)
    known = key in recorded
    recorded.add(key)
    return known


def _is_later_turn(request: ChatRequest) -> bool:
    return any(m["role"] == "assistant" for m in request.messages)


def _opening(request: ChatRequest) -> str:
    first = next((text_of(m) for m in request.messages if m["role"] == "user"), "")
    return hashlib.blake2b(f"{request.system_text}\0{first}".encode(), digest_size=16).hexdigest()


def _group(trace: Trace, request: ChatRequest, openings: Counter[str]) -> str:
    if request.conversation_id is not None:
        return f"conversation {request.conversation_id}"
    opening = _opening(request)
    return f"opening {opening}" if opening in openings else f"call {trace.id}"
