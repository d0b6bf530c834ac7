"""The gate: may a specialist take calls? `pass`, `fail` or `insufficient`, with reasons in plain words and figures with intervals.

Also owns the two statistics that evidence is stated with: exact intervals for shares, and chrF for the likeness of texts.
Pure; knows neither models nor how answers came about.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from scipy.stats import beta

from shoal.agents.contract.calibrate import Calibration, fewest_calls
from shoal.agents.registry.records import OutputKind

Outcome: TypeAlias = Literal["pass", "fail", "insufficient"]

_CHRF_ORDER = 6
_CHRF_BETA = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A measured share or mean with its 95% interval, and over how many calls."""

    value: float
    low: float
    high: float
    count: int

    def to_dict(self) -> dict[str, float | int]:
        return {"value": self.value, "low": self.low, "high": self.high, "count": self.count}

    def __str__(self) -> str:
        return f"{self.value:.1%} (95% interval {self.low:.1%} to {self.high:.1%}, {self.count} calls)"


def share(hits: int, count: int) -> Figure:
    """A share with its exact (Clopper-Pearson) 95% interval; (0, 1) where nothing was counted."""
    if count == 0:
        return Figure(value=0.0, low=0.0, high=1.0, count=0)
    low = 0.0 if hits == 0 else float(beta.ppf(0.025, hits, count - hits + 1))
    high = 1.0 if hits == count else float(beta.ppf(0.975, hits + 1, count - hits))
    return Figure(value=hits / count, low=low, high=high, count=count)


def mean(values: Sequence[float]) -> Figure:
    """A mean with its 95% interval by the normal approximation."""
    count = len(values)
    if count == 0:
        return Figure(value=0.0, low=-math.inf, high=math.inf, count=0)
    centre = sum(values) / count
    if count == 1:
        return Figure(value=centre, low=-math.inf, high=math.inf, count=1)
    variance = sum((v - centre) ** 2 for v in values) / (count - 1)
    half = 1.96 * math.sqrt(variance / count)
    return Figure(value=centre, low=centre - half, high=centre + half, count=count)


def chrf(given: str, wanted: str) -> float:
    """Likeness of two texts in [0, 1]: F2 over character n-grams of order 1 to 6, white space left out.

    Source: Popovic 2015, "chrF: character n-gram F-score for automatic MT evaluation".
    """
    a, b = "".join(given.split()), "".join(wanted.split())
    if not a or not b:
        return 1.0 if a == b else 0.0
    precisions, recalls = [], []
    for n in range(1, _CHRF_ORDER + 1):
        if len(a) < n and len(b) < n:
            break
        left = Counter(a[i : i + n] for i in range(len(a) - n + 1))
        right = Counter(b[i : i + n] for i in range(len(b) - n + 1))
        common = sum((left & right).values())
        precisions.append(common / max(1, left.total()))
        recalls.append(common / max(1, right.total()))
    precision, recall = sum(precisions) / len(precisions), sum(recalls) / len(recalls)
    if precision + recall == 0:
        return 0.0
    weight = _CHRF_BETA**2
    return (1 + weight) * precision * recall / (weight * precision + recall)


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """A specialist's answer to one held-out call that it did not train on.

    Attributes:
        wrong: by the task's loss.
        likeness: chrF between its text and the generalist's; texts only.
        floor: the same for the answer of the most similar training call; texts only.
    """

    confidence: float
    wrong: bool
    likeness: float | None = None
    floor: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GateRules:
    """What a specialist must reach.

    Attributes:
        min_calls: fewer held-out calls than this prove nothing.
        min_coverage: a specialist that answers less than this share is not worth its place.
    """

    min_calls: int = 20
    min_coverage: float = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    outcome: Outcome
    reasons: Sequence[str]
    figures: dict[str, Figure] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        return self.outcome == "pass"

    @property
    def reason(self) -> str:
        return " ".join(self.reasons)

    def to_dict(self) -> dict[str, Any]:
        return {
            "outcome": self.outcome,
            "reasons": list(self.reasons),
            "figures": {name: figure.to_dict() for name, figure in self.figures.items()},
        }


def decide(
    kind: OutputKind,
    held_out: Sequence[HeldOut],
    calibration: Calibration,
    *,
    rules: GateRules | None = None,
    loss_defined: bool = True,
) -> Verdict:
    """The verdict on one version from its answers to held-out calls and from its calibration."""
    rules = rules or GateRules()
    figures = _figures(kind, held_out, calibration)
    if not loss_defined:
        reason = "No way is known to tell a wrong answer of this task from a right one."
        return Verdict(outcome="fail", reasons=(reason,), figures=figures)
    if short := _too_few(held_out, calibration, rules):
        return Verdict(outcome="insufficient", reasons=(short,), figures=figures)
    reasons = _failures(kind, calibration, rules, figures)
    if reasons:
        return Verdict(outcome="fail", reasons=tuple(reasons), figures=figures)
    coverage, right = figures["coverage"], figures["right_answered"]
    reason = (
        f"Answers {coverage}; {right} of those are right. At most {calibration.alpha:.1%} wrong holds with "
        f"confidence {1 - calibration.delta:.0%}."
    )
    return Verdict(outcome="pass", reasons=(reason,), figures=figures)


def _figures(kind: OutputKind, held_out: Sequence[HeldOut], calibration: Calibration) -> dict[str, Figure]:
    answered = [h for h in held_out if h.confidence >= calibration.threshold]
    figures = {
        "right_all": share(sum(not h.wrong for h in held_out), len(held_out)),
        "coverage": share(len(answered), len(held_out)),
        "right_answered": share(sum(not h.wrong for h in answered), len(answered)),
    }
    if kind == OutputKind.TEXT:
        compared = [h for h in answered if h.likeness is not None]
        figures["likeness"] = mean([h.likeness for h in compared if h.likeness is not None])
        floors = [(h.likeness, h.floor) for h in compared if h.likeness is not None and h.floor is not None]
        figures["floor"] = mean([floor for _, floor in floors])
        figures["above_floor"] = mean([likeness - floor for likeness, floor in floors])
    return figures


def _too_few(held_out: Sequence[HeldOut], calibration: Calibration, rules: GateRules) -> str:
    if len(held_out) < rules.min_calls:
        return f"Only {len(held_out)} held-out calls; it takes {rules.min_calls} to judge."
    needed = fewest_calls(calibration.alpha, calibration.delta)
    if calibration.count < needed:
        return (
            f"Only {calibration.count} calibration calls; it takes {needed}, all right, to show that at most "
            f"{calibration.alpha:.1%} are wrong."
        )
    return ""


def _failures(
    kind: OutputKind, calibration: Calibration, rules: GateRules, figures: dict[str, Figure]
) -> list[str]:
    reasons = []
    if not calibration.feasible:
        reasons.append(
            f"At no threshold can it be shown that at most {calibration.alpha:.1%} of its answers are wrong; "
            f"of all held-out calls it gets {figures['right_all']} right."
        )
        return reasons
    coverage = figures["coverage"]
    if coverage.value < rules.min_coverage:
        reasons.append(
            f"It is sure enough for too few calls: {coverage}, below the useful {rules.min_coverage:.0%}."
        )
    right = figures["right_answered"]
    if right.count and right.high < 1 - calibration.alpha:
        reasons.append(f"Of the held-out calls that it answers only {right} are right.")
    if kind == OutputKind.TEXT:
        above = figures["above_floor"]
        if above.count and above.high < 0:
            reasons.append(
                f"Its texts are less like the generalist's (chrF {figures['likeness'].value:.3f}) than those of the "
                f"most similar logged calls (chrF {figures['floor'].value:.3f})."
            )
    return reasons
