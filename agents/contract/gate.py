"""The gate: may a specialist take calls? `pass`, `fail` or `insufficient`, with reasons in plain words and figures with intervals.

It compares in pairs, on the same held-out calls: the specialist's answer with the generalist's; with what looking up the most
similar logged call would have answered (the floor: who is worse than that has learnt nothing); and, where the generalist was
asked twice, with the generalist's second answer. Also owns chrF, for the likeness of two texts. Pure; knows neither models nor
how answers came about.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from shoal.agents.contract.calibrate import Calibration, fewest_calls, lower_bound
from shoal.agents.contract.figures import Figure, Paired, mean, paired, share, share_of
from shoal.agents.registry.records import OutputKind

__all__ = [
    "Figure",
    "GateRules",
    "HeldOut",
    "Outcome",
    "Verdict",
    "chrf",
    "decide",
    "mean",
    "share",
]

Outcome: TypeAlias = Literal["pass", "fail", "insufficient"]

_CHRF_ORDER = 6
_CHRF_BETA = 2.0


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
        floor_wrong: whether that answer is wrong by the task's loss; None where it was not looked up.
        again_wrong: whether the generalist's second answer is wrong measured by its first; None where it was not asked twice.
    """

    confidence: float
    wrong: bool
    likeness: float | None = None
    floor: float | None = None
    floor_wrong: bool | None = None
    again_wrong: bool | None = None


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
    #: the specialist against each rival on the calls that it answers: `floor`, `generalist_again`
    against: Mapping[str, Paired] = field(default_factory=dict)

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
            "against": {name: comparison.to_dict() for name, comparison in self.against.items()},
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
    against = _against(held_out, calibration)

    def verdict(outcome: Outcome, *reasons: str) -> Verdict:
        return Verdict(outcome=outcome, reasons=reasons, figures=figures, against=against)

    if not loss_defined:
        return verdict("fail", "No way is known to tell a wrong answer of this task from a right one.")
    if short := _too_few(held_out, calibration, rules):
        return verdict("insufficient", short)
    again = [h.again_wrong for h in held_out if h.again_wrong is not None]
    if reasons := _failures(kind, calibration, rules, figures, against, again):
        return verdict("fail", *reasons)
    coverage, right = figures["coverage"], figures["right_answered"]
    return verdict(
        "pass",
        f"Answers {coverage}; {right} of those are right. That at most {calibration.alpha:.1%} are wrong was "
        f"shown on {calibration.count} other calls, with confidence {1 - calibration.delta:.0%}.",
    )


def _figures(kind: OutputKind, held_out: Sequence[HeldOut], calibration: Calibration) -> dict[str, Figure]:
    answered = _answered(held_out, calibration)
    figures = {
        "right_all": share_of([not h.wrong for h in held_out]),
        "coverage": share(len(answered), len(held_out)),
        "right_answered": share_of([not h.wrong for h in answered]),
    }
    if again := [not h.again_wrong for h in held_out if h.again_wrong is not None]:
        figures["self_agreement"] = share_of(again)
    if floor := [not h.floor_wrong for h in held_out if h.floor_wrong is not None]:
        figures["floor_right"] = share_of(floor)
    if kind == OutputKind.TEXT:
        compared = [h for h in answered if h.likeness is not None]
        figures["likeness"] = mean([h.likeness for h in compared if h.likeness is not None])
        floors = [(h.likeness, h.floor) for h in compared if h.likeness is not None and h.floor is not None]
        figures["floor"] = mean([floor for _, floor in floors])
        figures["above_floor"] = mean([likeness - floor for likeness, floor in floors])
    return figures


def _answered(held_out: Sequence[HeldOut], calibration: Calibration) -> list[HeldOut]:
    return [h for h in held_out if h.confidence >= calibration.threshold]


def _against(held_out: Sequence[HeldOut], calibration: Calibration) -> dict[str, Paired]:
    """Where no threshold was found, on all calls."""
    compared = _answered(held_out, calibration) if calibration.feasible else list(held_out)
    out = {}
    verdicts = {
        "floor": [(h.wrong, h.floor_wrong) for h in compared],
        "generalist_again": [(h.wrong, h.again_wrong) for h in compared],
    }
    for name, rows in verdicts.items():
        pairs = [(not mine, not theirs) for mine, theirs in rows if theirs is not None]
        if pairs:
            out[name] = paired([mine for mine, _ in pairs], [theirs for _, theirs in pairs])
    return out


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


def _noise(again: Sequence[bool], calibration: Calibration) -> str:
    """Why alpha lies below what the truth itself allows: the generalist's second answers contradict its first ones more often.

    Refused is an alpha below the lower Clopper-Pearson bound of that share, at delta: then it is shown. The upper bound would refuse
    0.05 after forty second answers that all agree.
    """
    differs = sum(again)
    if lower_bound(differs, len(again), calibration.delta) <= calibration.alpha:
        return ""
    return (
        f"infeasible: the generalist disagrees with itself on {share(differs, len(again))} when it is asked again, so nobody "
        f"could be shown to be wrong on at most {calibration.alpha:.1%} of them by its answers."
    )


def _failures(
    kind: OutputKind,
    calibration: Calibration,
    rules: GateRules,
    figures: Mapping[str, Figure],
    against: Mapping[str, Paired],
    again: Sequence[bool],
) -> list[str]:
    reasons = []
    if noisy := _noise(again, calibration):
        return [noisy]
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
    floor = against.get("floor")
    if floor is not None and floor.is_worse:
        reasons.append(
            f"Looking up the most similar logged call is right more often: on the calls that it answers, {floor.losses} that only "
            f"the look-up gets right against {floor.wins} that only the specialist does."
        )
    if kind == OutputKind.TEXT:
        above = figures["above_floor"]
        if above.count and above.high < 0:
            reasons.append(
                f"Its texts are less like the generalist's (chrF {figures['likeness'].value:.3f}) than those of the "
                f"most similar logged calls (chrF {figures['floor'].value:.3f})."
            )
    return reasons
