"""The report's pictures, as inline SVG: numbers in, markup out. Colours are CSS classes of the page.

Texts inside a picture are few and short, so that none covers another; names stand beside it, in HTML. Pure; knows neither
registry nor page.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from markupsafe import Markup, escape

from shoal.agents.registry.records import TaskId
from shoal.serve.report_map import HEIGHT, WIDTH, MapView

#: (coverage, risk, upper bound of the risk), each in [0, 1]
CurvePoint = tuple[float, float, float]

_WIDTH, _HEIGHT = 360, 200
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 20, 12, 36
_MAX_POINTS = 200
_BAR = 120


def interval(value: float, *, label: str, low: float | None = None, high: float | None = None) -> Markup:
    """A share in [0, 1] as a dot on a line, with its interval as a band where one is given."""
    value = _unit(value)
    parts = [
        f'<svg class="interval" viewBox="0 0 {_BAR + 12} 14" width="{_BAR + 12}" height="14" role="img" '
        f'aria-label="{escape(label)}">',
        f'<path class="rail" d="M6 7H{_BAR + 6}"/>',
    ]
    if low is not None and high is not None and math.isfinite(low) and math.isfinite(high):
        a, b = 6 + _BAR * _unit(low), 6 + _BAR * _unit(high)
        parts.append(f'<path class="band" d="M{_n(a)} 7H{_n(max(b, a + 0.5))}"/>')
    parts.append(f'<circle class="dot" cx="{_n(6 + _BAR * value)}" cy="7" r="3"/>')
    return Markup("".join([*parts, "</svg>"]))


def risk_coverage(points: Sequence[CurvePoint], *, alpha: float, chosen: float | None) -> Markup:
    """Share wrong against share answered, over the thresholds tested; dashed at `alpha`, a dot at the `chosen` coverage.

    Nothing (empty markup) for fewer than two points.
    """
    ordered = sorted((p for p in points if all(map(math.isfinite, p))), key=lambda p: p[0])
    if len(ordered) < 2:
        return Markup("")
    ordered = ordered[:: max(1, len(ordered) // _MAX_POINTS)]
    top = _nice(max(2 * alpha, min(1.0, 1.1 * max(p[2] for p in ordered), 6 * alpha)))
    parts = _frame(
        f"Share wrong against share answered; the contract allows {alpha:.1%}",
        [(step / 4, f"{step / 4:.0%}") for step in range(5)],
        [(step / 4, _percent(top * step / 4)) for step in range(5)],
        "share answered",
    )
    for name, column in (("upper", 2), ("risk", 1)):
        line = "L".join(f"{_x(p[0])} {_y(p[column] / top)}" for p in ordered)
        parts.append(f'<path class="{name}" d="M{line}"/>')
    parts.append(f'<path class="alpha" d="M{_LEFT} {_y(alpha / top)}H{_WIDTH - _RIGHT}"/>')
    if chosen is not None:
        nearest = min(ordered, key=lambda p: abs(p[0] - chosen))
        parts.append(f'<circle class="chosen" cx="{_x(nearest[0])}" cy="{_y(nearest[2] / top)}" r="4.5"/>')
    return Markup("".join([*parts, "</svg>"]))


def coverage_by_alpha(points: Sequence[tuple[float, float]], *, alpha: float) -> Markup:
    """Share that could be answered against the share that may be wrong; a dot at the contract's own `alpha`.

    Nothing (empty markup) for fewer than two points.
    """
    ordered = sorted(p for p in points if all(map(math.isfinite, p)))
    if len(ordered) < 2:
        return Markup("")
    widest = ordered[-1][0]
    parts = _frame(
        "Share that could be answered, against the share of answers that may be wrong",
        [(step / 4, _percent(widest * step / 4)) for step in range(5)],
        [(step / 4, f"{step / 4:.0%}") for step in range(5)],
        "share of answers that may be wrong (α)",
    )
    line = "L".join(f"{_x(a / widest)} {_y(c)}" for a, c in ordered)
    parts.append(
        f'<path class="area" d="M{_x(ordered[0][0] / widest)} {_y(0)}L{line}L{_x(1)} {_y(0)}Z"/>'
        f'<path class="upper" d="M{line}"/>'
    )
    parts += [f'<circle class="mark" cx="{_x(a / widest)}" cy="{_y(c)}" r="2.5"/>' for a, c in ordered]
    if alpha <= widest:
        nearest = min(ordered, key=lambda p: abs(p[0] - alpha))
        parts.append(f'<path class="alpha" d="M{_x(alpha / widest)} {_y(0)}V{_y(1)}"/>')
        if abs(nearest[0] - alpha) < 1e-9:
            parts.append(f'<circle class="chosen" cx="{_x(alpha / widest)}" cy="{_y(nearest[1])}" r="4.5"/>')
    return Markup("".join([*parts, "</svg>"]))


def ladder(marks: Sequence[tuple[float, float, str, bool]]) -> Markup:
    """Candidates: (milliseconds for an answer, share right, label or "", chosen). Time is logarithmic. Nothing for no marks."""
    shown = [(ms, right, label, chosen) for ms, right, label, chosen in marks if ms > 0]
    if not shown:
        return Markup("")
    first = math.floor(math.log10(min(ms for ms, *_ in shown)))
    last = max(first + 1, math.ceil(math.log10(max(ms for ms, *_ in shown))))
    # so that a quarter of the height is a round number
    lowest = min(right for _, right, *_ in shown)
    floor = max(f for f in (0.0, 0.2, 0.4, 0.6, 0.8) if f <= max(lowest, 0.0))
    parts = _frame(
        "Candidates: share right against the time of an answer",
        [((e - first) / (last - first), _ms(10.0**e)) for e in range(first, last + 1)],
        [(step / 4, f"{floor + (1 - floor) * step / 4:.0%}") for step in range(5)],
        "time of one answer (logarithmic)",
    )
    dots, texts, taken = [], [], list[tuple[float, float]]()
    for ms, right, label, chosen in sorted(shown, key=lambda m: not m[3]):
        px = float(_x((math.log10(ms) - first) / (last - first)))
        py = float(_y((right - floor) / (1 - floor)))
        dots.append(
            f'<circle class="{"picked" if chosen else "passed-over"}" cx="{_n(px)}" cy="{_n(py)}" r="5"/>'
        )
        if not label:
            continue
        tx, ty = _free(px, py, taken)
        taken.append((tx, ty))
        anchor = "start" if tx >= px else "end"
        texts.append(
            f'<text class="name" x="{_n(tx)}" y="{_n(ty)}" dy="3.5" text-anchor="{anchor}">{escape(label)}</text>'
        )
    # the chosen were placed first, so that they have the first choice of a place for their number, and are drawn last
    return Markup("".join([*parts, *reversed(dots), *texts, "</svg>"]))


def task_map(view: MapView, tones: Mapping[TaskId, str], ranks: Mapping[TaskId, int]) -> Markup:
    """Calls as dots, tasks as numbered islands, coloured by what becomes of them."""
    parts = [
        f'<svg class="map" viewBox="0 0 {WIDTH:g} {HEIGHT:g}" role="img" aria-label="Map of the log: every dot is a call, every '
        'island a task">'
    ]
    parts += [
        f'<circle class="call {tones.get(task, "none") if task else "none"}" cx="{_n(x)}" cy="{_n(y)}" r="2.6"/>'
        for x, y, task in view.points
    ]
    for island in view.islands:
        tone = tones.get(island.task_id, "idle")
        rank = ranks.get(island.task_id, 0)
        size = min(26.0, max(15.0, 0.62 * island.radius))
        parts.append(
            f'<a href="#{escape(island.task_id)}"><circle class="island {tone}" cx="{_n(island.x)}" cy="{_n(island.y)}" '
            f'r="{_n(island.radius)}"/><text class="rank" x="{_n(island.x)}" y="{_n(island.y)}" dy="{_n(0.35 * size)}" '
            f'font-size="{_n(size)}" text-anchor="middle">{rank}</text></a>'
        )
    return Markup("".join([*parts, "</svg>"]))


def _frame(
    label: str, across: Sequence[tuple[float, str]], up: Sequence[tuple[float, str]], axis: str
) -> list[str]:
    """A picture's opening, grid and ticks; places in [0, 1]."""
    parts = [
        f'<svg class="curve" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(label)}">',
    ]
    for place, text in across:
        parts.append(
            f'<text class="tick" x="{_x(place)}" y="{_HEIGHT - 20}" text-anchor="middle">{text}</text>'
        )
    for place, text in up:
        parts.append(f'<path class="grid" d="M{_LEFT} {_y(place)}H{_WIDTH - _RIGHT}"/>')
        parts.append(
            f'<text class="tick" x="{_LEFT - 6}" y="{_y(place)}" dy="3.5" text-anchor="end">{text}</text>'
        )
    middle = _n((_LEFT + _WIDTH - _RIGHT) / 2)
    parts.append(f'<text class="tick" x="{middle}" y="{_HEIGHT - 4}" text-anchor="middle">{axis}</text>')
    return parts


def _free(x: float, y: float, taken: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """A place for a short text beside a dot that no other text has."""
    places = [(x + dx, y + dy) for dx in (9, -9) for dy in (0, -11, 11, -22, 22, -33, 33)]
    inside = [
        (a, b)
        for a, b in places
        if (a < _WIDTH - 14 if a > x else a > _LEFT + 14) and _TOP <= b <= _HEIGHT - _BOTTOM - 4
    ]
    for place in inside:
        if all(abs(place[0] - a) > 26 or abs(place[1] - b) > 10 for a, b in taken):
            return place
    return (inside or places)[0]


def _x(place: float) -> str:
    return _n(_LEFT + _unit(place) * (_WIDTH - _LEFT - _RIGHT))


def _y(place: float) -> str:
    return _n(_TOP + (1 - _unit(place)) * (_HEIGHT - _TOP - _BOTTOM))


def _unit(value: float) -> float:
    return min(1.0, max(0.0, value))


def _ms(value: float) -> str:
    return f"{value / 1000:g} s" if value >= 1000 else f"{value:g} ms"


def _percent(share: float) -> str:
    return f"{share:.0%}" if abs(share * 100 - round(share * 100)) < 0.005 else f"{share:.1%}"


def _nice(value: float) -> float:
    """The next round share above, such that its quarters read well."""
    for step in (0.02, 0.04, 0.08, 0.1, 0.12, 0.16, 0.2, 0.24, 0.32, 0.4, 0.6, 0.8):
        if value <= step + 1e-9:
            return step
    return 1.0


def _n(value: float) -> str:
    return f"{value:.1f}".rstrip("0").rstrip(".")
