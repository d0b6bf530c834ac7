"""Reads a version's evidence for the report: figures with intervals, comparisons, curves, candidates, confusions, ids of calls.

Evidence is whatever learning wrote: what is not there, or not as expected, is left out. Pure.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shoal.agents.contract.figures import share
from shoal.agents.learning.model_card import FIGURES
from shoal.serve.report_svg import CurvePoint

_MOST_CHARS = 6000
_SECTIONS = ("gate", "verdict", "measures", "judge", "calibration")
#: figures that are no shares and are shown as plain numbers
_SCORES = frozenset({"likeness", "floor", "above_floor", "bleu", "chrf", "macro_f1"})
_RIVALS = {
    "floor": "looking up the most similar logged call",
    "generalist_again": "the generalist, asked a second time",
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
        """Between 0 and 1, so that it can be drawn."""
        return 0 <= self.value <= 1 and self.key != "above_floor"

    @property
    def is_score(self) -> bool:
        """A number rather than a percentage."""
        return self.key in _SCORES or not self.is_share


@dataclass(frozen=True, slots=True, kw_only=True)
class PairView:
    """The specialist against a rival on the same calls."""

    rival: str
    value: float
    low: float
    high: float
    count: int
    wins: int
    losses: int
    p: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateView:
    """A kind of specialist that was tried for a task, or passed over (`skipped` says why)."""

    kind: str
    chosen: bool
    right: float | None = None
    low: float | None = None
    high: float | None = None
    could_answer: float | None = None
    answer_ms: float | None = None
    size_mb: float | None = None
    seconds: float | None = None
    skipped: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallRef:
    """A call that evidence points to, by its trace's id."""

    id: str
    confidence: float | None


def read_figures(evidence: Mapping[str, Any]) -> list[FigureView]:
    """The figures of a version's evidence, known ones first. Both `{"value", "low", "high", "count"}` and bare numbers count."""
    found: dict[str, FigureView] = {}
    for place in (evidence, *_sections(evidence)):
        for source in (place.get("figures"), place):
            if not isinstance(source, Mapping):
                continue
            for key, data in source.items():
                is_named = source is not place or key in FIGURES
                if is_named and (view := _figure(str(key), data)) is not None:
                    found.setdefault(view.key, view)
    order = list(FIGURES)
    return sorted(found.values(), key=lambda f: order.index(f.key) if f.key in order else len(order))


def read_fields(evidence: Mapping[str, Any]) -> list[FigureView]:
    """JSON fields, or functions, each with the share that is right; the worst first."""
    measures = _mapping(evidence.get("measures"))
    rows = {str(k): v for k, v in _mapping(measures.get("fields")).items()}
    for name, own in _mapping(measures.get("functions")).items():
        rows.setdefault(str(name), _mapping(own).get("exact"))
    views = [replace_label(view, key) for key, data in rows.items() if (view := _figure(key, data))]
    return sorted(views, key=lambda f: (f.value, f.key))


def replace_label(view: FigureView, label: str) -> FigureView:
    return FigureView(
        key=view.key, label=label, value=view.value, low=view.low, high=view.high, count=view.count
    )


def read_against(evidence: Mapping[str, Any]) -> list[PairView]:
    """Comparisons in pairs, of the gate."""
    out = []
    for place in _sections(evidence):
        for rival, data in _mapping(place.get("against")).items():
            data = _mapping(data)
            numbers = [_number(data.get(k)) for k in ("value", "low", "high", "count", "wins", "losses", "p")]
            if not any(n is None for n in numbers):
                value, low, high, count, wins, losses, p = (n or 0.0 for n in numbers)
                out.append(
                    PairView(
                        rival=_RIVALS.get(str(rival), str(rival)),
                        value=value,
                        low=low,
                        high=high,
                        count=int(count),
                        wins=int(wins),
                        losses=int(losses),
                        p=p,
                    )
                )
    return out


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


def read_by_alpha(evidence: Mapping[str, Any]) -> list[tuple[float, float]]:
    """(alpha, coverage) in order; empty where the evidence has none, or where nothing could be answered at any alpha."""
    rows = [_numbers(row, 2) for row in _list(evidence.get("coverage_by_alpha"))]
    points = sorted((row[0], row[1]) for row in rows if row)
    return points if any(coverage > 0 for _, coverage in points) else []


def read_candidates(evidence: Mapping[str, Any], chosen: str) -> list[CandidateView]:
    """What was tried for the task, cheapest first."""
    out = []
    for row in _list(evidence.get("candidates")):
        row = _mapping(row)
        kind = str(row.get("kind") or "")
        if not kind:
            continue
        if row.get("skipped"):
            out.append(CandidateView(kind=kind, chosen=False, skipped=str(row["skipped"])))
            continue
        right, count = _number(row.get("right_on_choose")), row.get("calls_on_choose")
        low = high = None
        if right is not None and isinstance(count, int) and count > 0:
            interval = share(round(right * count), count)
            low, high = interval.low, interval.high
        out.append(
            CandidateView(
                kind=kind,
                chosen=kind == chosen,
                right=right,
                low=low,
                high=high,
                could_answer=_number(row.get("coverage_on_choose")),
                answer_ms=_number(row.get("answer_ms")),
                size_mb=_number(row.get("size_mb")),
                seconds=_number(row.get("seconds")),
            )
        )
    return out


def read_confusions(evidence: Mapping[str, Any]) -> list[tuple[str, str, int]]:
    """(expected, given, how often), commonest first."""
    rows = _list(_mapping(evidence.get("measures")).get("confusions"))
    return [(str(r[0]), str(r[1]), int(r[2])) for r in rows if isinstance(r, list | tuple) and len(r) == 3]


def read_calls(evidence: Mapping[str, Any]) -> dict[str, list[CallRef]]:
    """Ids of held-out calls to look at: `wrong`, `unsure`, `right`."""
    shown = _mapping(evidence.get("calls_to_show"))
    return {
        kind: [
            CallRef(id=str(row["id"]), confidence=_number(row.get("confidence")))
            for row in _list(shown.get(kind))
            if isinstance(row, Mapping) and "id" in row
        ]
        for kind in ("wrong", "unsure", "right")
    }


def read_reason(evidence: Mapping[str, Any]) -> str:
    """The gate's reasons in one text; empty where the evidence has none."""
    for place in (evidence, *_sections(evidence)):
        reasons = place.get("reasons")
        if isinstance(reasons, list | tuple) and reasons:
            return " ".join(str(reason) for reason in reasons)
    return ""


def _sections(evidence: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    return [value for name in _SECTIONS if isinstance(value := evidence.get(name), Mapping)]


def _figure(key: str, data: Any) -> FigureView | None:
    label = FIGURES.get(key, key.replace("_", " "))
    if label[:2].islower():  # but not chrF
        label = label if label.startswith("chrF") else label[:1].upper() + label[1:]
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


def as_text(value: Any) -> str:
    """A text as it is, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def clip(text: str, most: int = _MOST_CHARS) -> str:
    """The text, cut to what a page can show."""
    return text if len(text) <= most else f"{text[:most]} … ({len(text):,} characters in all)"


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else ()


def _numbers(row: Any, length: int) -> list[float]:
    numbers = [_number(n) for n in _list(row)]
    return [n for n in numbers if n is not None] if len(numbers) == length and None not in numbers else []


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)
