"""Reads a version's evidence for the report: figures with intervals, the curve, the worst examples.

Evidence is whatever learning wrote: what is not there, or not as expected, is left out. Pure.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from shoal.serve.report_svg import CurvePoint

_WORST_PER_TASK = 5
_MOST_CHARS = 1200

_FIGURE_NAMES = {
    "coverage": "Answered by it",
    "right_answered": "Right, of those answered",
    "right_all": "Right, had it answered all",
    "likeness": "Likeness to the generalist's texts (chrF)",
    "floor": "Likeness of the most similar logged answer (chrF)",
    "above_floor": "Likeness above that floor (chrF)",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FigureView:
    """A figure of the evidence; `low` and `high` are its 95% interval and None where the evidence gives none."""

    key: str
    label: str
    value: float
    low: float | None = None
    high: float | None = None
    count: int | None = None

    @property
    def is_share(self) -> bool:
        return 0 <= self.value <= 1 and self.key != "above_floor"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExampleView:
    prompt: str
    answer: str
    #: who answered, or what the specialist said instead
    note: str = ""


def read_figures(evidence: Mapping[str, Any]) -> list[FigureView]:
    """The figures of a version's evidence, known ones first. Both `{"value", "low", "high", "count"}` and bare numbers count."""
    found: dict[str, FigureView] = {}
    for place in (evidence, *_sections(evidence)):
        for source in (place.get("figures"), place):
            if not isinstance(source, Mapping):
                continue
            for key, data in source.items():
                is_named = source is not place or key in _FIGURE_NAMES
                if is_named and (view := _figure(str(key), data)) is not None:
                    found.setdefault(view.key, view)
    order = list(_FIGURE_NAMES)
    return sorted(found.values(), key=lambda f: order.index(f.key) if f.key in order else len(order))


def read_curve(evidence: Mapping[str, Any]) -> list[CurvePoint]:
    """(coverage, risk, upper bound) of each threshold tested; empty where the evidence has no curve."""
    for place in (evidence, *_sections(evidence)):
        curve = place.get("curve")
        if isinstance(curve, list):
            numbers = [[_number(n) for n in point] for point in curve if isinstance(point, list | tuple)]
            return [
                (point[1], point[2], point[3])
                for point in numbers
                if len(point) == 4 and point[1] is not None and point[2] is not None and point[3] is not None
            ]
    return []


def read_reason(evidence: Mapping[str, Any]) -> str:
    """The gate's reasons in one text; empty where the evidence has none."""
    for place in (evidence, *_sections(evidence)):
        reasons = place.get("reasons")
        if isinstance(reasons, list | tuple) and reasons:
            return " ".join(str(reason) for reason in reasons)
    return ""


def read_worst(evidence: Mapping[str, Any]) -> list[ExampleView]:
    """Examples that a specialist got wrong, where the evidence keeps some."""
    for place in (evidence, *_sections(evidence)):
        for name in ("worst", "worst_examples", "examples", "errors", "wrong"):
            examples = place.get(name)
            if isinstance(examples, list):
                views = [_worst(item) for item in examples if isinstance(item, Mapping)]
                return [view for view in views if view is not None][:_WORST_PER_TASK]
    return []


def _sections(evidence: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    return (value for value in evidence.values() if isinstance(value, Mapping))


def _figure(key: str, data: Any) -> FigureView | None:
    label = _FIGURE_NAMES.get(key, key.replace("_", " ").capitalize())
    if isinstance(data, Mapping):
        value, count = _number(data.get("value")), data.get("count")
        if value is None or count == 0:
            return None
        low, high = _number(data.get("low")), _number(data.get("high"))
        return FigureView(
            key=key,
            label=label,
            value=value,
            low=low,
            high=high,
            count=count if isinstance(count, int) else None,
        )
    value = _number(data)
    return None if value is None else FigureView(key=key, label=label, value=value)


def _worst(item: Mapping[str, Any]) -> ExampleView | None:
    def first(*names: str) -> str:
        return next((clip(as_text(item[name])) for name in names if item.get(name) not in (None, "")), "")

    prompt = first("prompt", "request", "input", "user", "id", "trace_id")
    said = first("said", "given", "answer", "specialist", "got")
    wanted = first("wanted", "reference", "generalist", "expected", "content")
    if not (said or wanted):
        return None
    confidence = _number(item.get("confidence"))
    note = said if confidence is None else f"{said}\n(confidence {confidence:.3f})"
    return ExampleView(prompt=prompt, answer=wanted, note=note)


def as_text(value: Any) -> str:
    """A text as it is, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def clip(text: str) -> str:
    """The text, cut to what a page can show."""
    return text if len(text) <= _MOST_CHARS else f"{text[:_MOST_CHARS]} … ({len(text):,} characters in all)"
