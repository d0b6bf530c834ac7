"""Calls as the finder sees them: the request's features and the coarse shape of the answer. Knows nothing of tasks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shoal.agents.contract.loss import canonical_tool_calls
from shoal.agents.tasks.families import Outputs
from shoal.agents.tasks.features import Features, PromptMemo, digest, features_of
from shoal.agents.tasks.shapes import AnswerShape, could_be_label, json_answer_keys, label_style
from shoal.agents.tasks.template import tokens_of
from shoal.agents.traces.chat import ChatRequest, text_of
from shoal.agents.traces.trace import Trace, TraceId
from shoal.errors import ShoalError

#: an answer must come so often in the log to count as a label
_RECURS = 3
_READ_CHARS = 2000
_CHARS_PER_TOKEN = 4


@dataclass(slots=True)
class Call:
    """One logged call.

    Attributes:
        shape: `tool_call`, `json`, `label:<style>`, `text`, or `none` where the record has no answer.
        content: the answer's text, stripped; function calls without one in their canonical form.
        keys: top-level keys of an answer that is JSON.
        settings: the request's fields besides model, messages and tools.
        action: the functions called, joined by `+`; empty where none was.
        conversation: calls with the same one are turns of the same conversation.
        tokens_in, tokens_out: as the answer's usage says; `tokens_guessed`: it does not, and four characters are a token.
    """

    id: TraceId
    features: Features
    shape: str
    content: str
    keys: tuple[str, ...]
    settings: Mapping[str, Any]
    last_role: str
    action: str = ""
    conversation: str = ""
    tokens_in: int = 0
    tokens_out: int = 0
    tokens_guessed: bool = False


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


def recurring_labels(calls: Iterable[Call]) -> frozenset[str]:
    """Answers that look like labels and come often enough to be some, whatever their call-site."""
    counts = Counter(call.content for call in calls if call.shape == AnswerShape.LABEL)
    return frozenset(content for content, count in counts.items() if count >= _RECURS)


def settle(call: Call, labels: frozenset[str]) -> None:
    """Decide whether an answer that looks like a label is one."""
    if call.shape == AnswerShape.LABEL:
        call.shape = (
            f"{AnswerShape.LABEL}:{label_style(call.content)}" if call.content in labels else AnswerShape.TEXT
        )


def read_call(trace: Trace, memo: PromptMemo) -> Call:
    """Read a trace; whether a label-like answer is a label, `settle` decides when the log is known."""
    request = trace.chat
    tokens_in, tokens_out, guessed = _tokens(trace)
    shape, content, keys, action = _answer(trace)
    return Call(
        id=trace.id,
        features=features_of(request, memo),
        shape=shape,
        content=content,
        keys=keys,
        settings={k: v for k, v in request.body.items() if k not in _NO_SETTINGS and v is not None},
        last_role=str(request.messages[-1]["role"]),
        action=action,
        conversation=_conversation(request),
        tokens_in=tokens_in,
        tokens_out=tokens_out,
        tokens_guessed=guessed,
    )


def _answer(trace: Trace) -> tuple[str, str, tuple[str, ...], str]:
    """(shape, text, keys of JSON, functions called)."""
    try:
        answer = trace.answer
    except ShoalError:
        return AnswerShape.NONE, "", (), ""
    content = (answer.content or "").strip()
    if answer.tool_calls:
        called = {str((call.get("function") or {}).get("name")) for call in answer.tool_calls}
        return (
            AnswerShape.TOOL_CALL,
            content or canonical_tool_calls(answer.tool_calls),
            (),
            "+".join(sorted(called)),
        )
    if not content:
        return AnswerShape.NONE, "", (), ""
    keys = json_answer_keys(content)
    if keys is not None:
        return AnswerShape.JSON, content, keys, ""
    return (AnswerShape.LABEL if could_be_label(content) else AnswerShape.TEXT), content, (), ""


def _tokens(trace: Trace) -> tuple[int, int, bool]:
    """(in, out, guessed from the number of characters)."""
    usage = trace.response.get("usage") or {}
    if usage.get("prompt_tokens") or usage.get("completion_tokens"):
        return int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0), False
    choices = trace.response.get("choices")
    said = str(choices[0].get("message") or "") if choices and isinstance(choices[0], Mapping) else ""
    asked = sum(len(text_of(message)) for message in trace.chat.messages)
    return max(1, asked // _CHARS_PER_TOKEN), max(1, len(said) // _CHARS_PER_TOKEN), True


def _conversation(request: ChatRequest) -> str:
    """Its id, else a digest of how the conversation began."""
    if request.conversation_id is not None:
        return request.conversation_id
    opening = next((text_of(m) for m in request.messages if m["role"] == "user"), "")
    return digest(opening)


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
