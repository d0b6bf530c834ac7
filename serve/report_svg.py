"""The report's small pictures, as inline SVG: numbers in, markup out. Colours are CSS variables of the page.

Pure; knows neither registry nor page.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup, escape

#: (coverage, risk, upper bound of the risk), each in [0, 1]
CurvePoint = tuple[float, float, float]

_WIDTH, _HEIGHT = 360, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 20, 12, 34
_MAX_POINTS = 200


def bar(share: float, *, label: str, low: float | None = None, high: float | None = None) -> Markup:
    """A horizontal bar of a share in [0, 1], with the interval as a whisker where one is given."""
    share = min(1.0, max(0.0, share))
    parts = [
        f'<svg class="bar" viewBox="0 0 120 12" width="120" height="12" role="img" aria-label="{escape(label)}">',
        '<rect class="track" x="0" y="3" width="120" height="6" rx="3"/>',
    ]
    if share > 0:
        parts.append(
            f'<rect class="fill" x="0" y="3" width="{_n(max(2.0, 120 * share))}" height="6" rx="3"/>'
        )
    if low is not None and high is not None and math.isfinite(low) and math.isfinite(high):
        a, b = 120 * min(1.0, max(0.0, low)), 120 * min(1.0, max(0.0, high))
        parts.append(
            f'<path class="whisker" d="M{_n(a)} 6H{_n(b)}M{_n(a)} 2V10M{_n(b)} 2V10"/>',
        )
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

    def x(coverage: float) -> str:
        return _n(_LEFT + coverage * (_WIDTH - _LEFT - _RIGHT))

    def y(risk: float) -> str:
        return _n(_TOP + (1 - min(risk, top) / top) * (_HEIGHT - _TOP - _BOTTOM))

    parts = [
        f'<svg class="curve" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="Share wrong against share answered; the contract allows {alpha:.1%}">',
    ]
    for step in range(5):
        share = step / 4
        parts.append(
            f'<text class="tick" x="{x(share)}" y="{_HEIGHT - 18}" text-anchor="middle">{share:.0%}</text>'
        )
        parts.append(f'<path class="grid" d="M{_LEFT} {y(top * share)}H{_WIDTH - _RIGHT}"/>')
        parts.append(
            f'<text class="tick" x="{_LEFT - 6}" y="{y(top * share)}" dy="3.5" text-anchor="end">{_percent(top * share)}</text>'
        )
    parts.append(
        f'<text class="tick" x="{_n((_LEFT + _WIDTH - _RIGHT) / 2)}" y="{_HEIGHT - 4}" text-anchor="middle">share answered</text>'
    )
    for name, column in (("upper", 2), ("risk", 1)):
        line = "L".join(f"{x(p[0])} {y(p[column])}" for p in ordered)
        parts.append(f'<path class="{name}" d="M{line}"/>')
    parts.append(f'<path class="alpha" d="M{_LEFT} {y(alpha)}H{_WIDTH - _RIGHT}"/>')
    if chosen is not None:
        nearest = min(ordered, key=lambda p: abs(p[0] - chosen))
        parts.append(f'<circle class="chosen" cx="{x(nearest[0])}" cy="{y(nearest[2])}" r="4"/>')
    return Markup("".join([*parts, "</svg>"]))


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
