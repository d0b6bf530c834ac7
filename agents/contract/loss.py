"""What counts as a wrong answer, by kind of output. Pure; knows neither models nor how an answer came about."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from shoal.agents.registry.records import OutputKind
from shoal.agents.traces.chat import ChatRequest

_FENCE = re.compile(r"\A\s*```[A-Za-z]*\s*\n(.*?)\n?\s*```\s*\Z", re.DOTALL)
NO_LOSS = "no loss defined"


class SlotChecker(Protocol):
    """Says what a text fails to carry over from its prompt. Implemented by `agents/learning/slots.py`."""

    def errors(self, request: ChatRequest, answer: str) -> list[str]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """Whether an answer is wrong, and what is wrong with it. `defined` is False where there is no way to tell."""

    wrong: bool
    reasons: Sequence[str] = ()
    defined: bool = True


def normal_label(text: str) -> str:
    """A label without differences of case and white space."""
    return " ".join(text.split()).casefold()


def unfenced(text: str) -> str:
    """The text inside a Markdown code fence, if all of it is one."""
    match = _FENCE.match(text)
    return (match[1] if match else text).strip()


def canonical_json(text: str) -> str | None:
    """JSON with sorted keys, no white space and whole numbers without a point; None where `text` is no JSON."""
    try:
        value = json.loads(unfenced(text))
    except (ValueError, RecursionError):
        return None
    return json.dumps(_plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def canonical_tool_calls(calls: Sequence[Mapping[str, Any]]) -> str:
    """The functions called, each with its arguments as canonical JSON, in order; ids are left out."""
    out = []
    for call in calls:
        function = call.get("function") or {}
        arguments = function.get("arguments")
        if isinstance(arguments, Mapping):
            arguments = json.dumps(arguments)
        text = str(arguments) if arguments else "{}"
        out.append([str(function.get("name", "")), canonical_json(text) or text.strip()])
    return json.dumps(out, ensure_ascii=False)


def canonical(kind: OutputKind, content: str | None, tool_calls: Sequence[Mapping[str, Any]] = ()) -> str:
    """A string that is the same for equal answers and differs for others. A tool call never equals a text."""
    if tool_calls:
        return "call " + canonical_tool_calls(tool_calls)
    text = content or ""
    if kind == OutputKind.JSON:
        as_json = canonical_json(text)
        if as_json is not None:
            return "json " + as_json
    if kind == OutputKind.TEXT:
        return "text " + " ".join(text.split())
    return "label " + normal_label(text)


def judge(
    kind: OutputKind,
    request: ChatRequest,
    given: str,
    expected: str,
    *,
    expected_tool_calls: Sequence[Mapping[str, Any]] = (),
    given_tool_calls: Sequence[Mapping[str, Any]] = (),
    slots: SlotChecker | None = None,
) -> Judgement:
    """Compare a specialist's answer with the generalist's.

    Labels, JSON and tool calls must be the same in canonical form. Many texts are right, so a text is wrong where
    `slots` finds that it drops or invents a value of its prompt; without `slots` no loss is defined for it.
    """
    if bool(expected_tool_calls) != bool(given_tool_calls):
        reason = (
            "calls a function where none is asked for" if given_tool_calls else "a function should be called"
        )
        return Judgement(wrong=True, reasons=(reason,))
    if kind == OutputKind.TEXT and not expected_tool_calls:
        if slots is None:
            return Judgement(wrong=False, reasons=(NO_LOSS,), defined=False)
        errors = slots.errors(request, given)
        return Judgement(wrong=bool(errors), reasons=tuple(errors))
    want = canonical(kind, expected, expected_tool_calls)
    got = canonical(kind, given, given_tool_calls)
    if want == got:
        return Judgement(wrong=False)
    return Judgement(wrong=True, reasons=(f"expected {_short(want)}, got {_short(got)}",))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _short(text: str) -> str:
    return text if len(text) <= 80 else text[:77] + "..."
