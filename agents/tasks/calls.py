"""Calls as the finder sees them: the request's features and the coarse shape of the answer. Knows nothing of tasks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shoal.agents.contract.loss import canonical_tool_calls
from shoal.agents.tasks.families import Outputs
from shoal.agents.tasks.features import Features, PromptMemo, features_of
from shoal.agents.tasks.shapes import AnswerShape, could_be_label, json_answer_keys, label_style
from shoal.agents.tasks.template import tokens_of
from shoal.agents.traces.trace import Trace, TraceId
from shoal.errors import ShoalError

#: an answer must come so often in the log to count as a label
_RECURS = 3
_READ_CHARS = 2000


@dataclass(slots=True)
class Call:
    """One logged call.

    Attributes:
        shape: `tool_call`, `json`, `label:<style>`, `text`, or `none` where the record has no answer.
        content: the answer's text, stripped; function calls without one in their canonical form.
        keys: top-level keys of an answer that is JSON.
        settings: the request's fields besides model, messages and tools.
    """

    id: TraceId
    features: Features
    shape: str
    content: str
    keys: tuple[str, ...]
    settings: Mapping[str, Any]
    last_role: str


#: fields that say nothing about how the answer is to be made
_NO_SETTINGS = frozenset(
    {
        "model",
        "messages",
        "tools",
        "metadata",
        "user",
        "stream",
        "stream_options",
        "seed",
        "store",
        "response_format",
    }
)


def read_calls(traces: Iterable[Trace]) -> list[Call]:
    """Read traces in their order. An answer counts as a label if it recurs in the log, whatever its call-site."""
    memo = PromptMemo()
    calls = [_read(trace, memo) for trace in traces]
    recurring = Counter(call.content for call in calls if call.shape == AnswerShape.LABEL)
    for call in calls:
        if call.shape == AnswerShape.LABEL:
            recurs = recurring[call.content] >= _RECURS
            call.shape = f"{AnswerShape.LABEL}:{label_style(call.content)}" if recurs else AnswerShape.TEXT
    return calls


def _read(trace: Trace, memo: PromptMemo) -> Call:
    request = trace.chat
    shape, content, keys = _answer(trace)
    return Call(
        id=trace.id,
        features=features_of(request, memo),
        shape=shape,
        content=content,
        keys=keys,
        settings={k: v for k, v in request.body.items() if k not in _NO_SETTINGS and v is not None},
        last_role=str(request.messages[-1]["role"]),
    )


def _answer(trace: Trace) -> tuple[str, str, tuple[str, ...]]:
    try:
        answer = trace.answer
    except ShoalError:
        return AnswerShape.NONE, "", ()
    content = (answer.content or "").strip()
    if answer.tool_calls:
        return AnswerShape.TOOL_CALL, content or canonical_tool_calls(answer.tool_calls), ()
    if not content:
        return AnswerShape.NONE, "", ()
    keys = json_answer_keys(content)
    if keys is not None:
        return AnswerShape.JSON, content, keys
    return (AnswerShape.LABEL if could_be_label(content) else AnswerShape.TEXT), content, ()


def outputs_of(calls: Sequence[Call]) -> Outputs:
    """What the answers of some calls look like together."""
    outputs = Outputs()
    for call in calls:
        outputs.calls += 1
        outputs.shapes[call.shape] += 1
        if call.shape.startswith(AnswerShape.LABEL):
            outputs.labels[call.content] += 1
        elif call.shape == AnswerShape.JSON:
            outputs.keys.update(call.keys)
        elif call.shape == AnswerShape.TEXT:
            outputs.chars += len(call.content)
            outputs.words.update(token.lower() for token in tokens_of(call.content[:_READ_CHARS]))
    return outputs
