"""The threshold of a specialist, such that at most alpha of its answers are wrong, with confidence 1 - delta.

Learn-then-Test (Angelopoulos, Bates, Candes, Jordan, Lei 2021, arXiv 2110.01052): each threshold is the null hypothesis
"among the calls that it lets through more than alpha are wrong", tested with the exact binomial tail, which is the
Clopper-Pearson upper bound. The thresholds are tested in a fixed sequence, the most confident first, each at level delta,
until one is not rejected (fixed-sequence testing, there); the lowest one rejected is the answer. What is tested, and in which
order, never depends on which of the calibration calls came out right. A threshold lies just above the confidence of the surest call
that it keeps out: given that one, the calls above it are independent draws of what the threshold lets through.

Calls of one conversation are often right or wrong together, and so prove less than as many calls that are independent. Where the
calls' groups are given, the bound takes the effective numbers of Korn and Graubard (1998, "Confidence intervals for proportions
with small expected number of positive counts estimated from survey data"): calls and wrong ones, both divided by the design effect
1 + (mean group size - 1) * correlation inside groups (Kish 1965). That is an approximation; without groups the bound is exact.

Pure. Knows neither models nor tasks.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv
from scipy.stats import binom

from shoal.agents.contract.drift import histogram

#: a threshold that no confidence reaches: the specialist never answers
NEVER = 2.0
#: how far below the least sure calibration answer the threshold lies where all of them may be given
_SLACK = 0.75
_MOST_STEPS = 100
#: share of the calls that the first threshold lets through
START_SHARE = 0.4


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One threshold on the calibration calls: the share that it lets through and how many of those are wrong."""

    threshold: float
    coverage: float
    answered: int
    wrong: int
    upper_bound: float

    @property
    def risk(self) -> float:
        return self.wrong / self.answered if self.answered else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """The threshold found, or why there is none.

    Attributes:
        threshold: confidences of at least this may be answered; `NEVER` where no threshold keeps the contract.
        feasible: whether there is one.
        coverage, risk, upper_bound: on the calibration calls at this threshold: share answered, share of those that
            are wrong, and the bound that this share has with confidence 1 - delta.
        correlation: in [0, 1], of wrong answers inside a group; 0 where groups are single calls.
        curve: every threshold that was tested, in the order of testing.
        confidences: how many calibration calls have a confidence in each bin of `drift.py`: what inputs are to look like later.
    """

    threshold: float
    feasible: bool
    coverage: float
    risk: float
    upper_bound: float
    count: int
    alpha: float
    delta: float
    curve: Sequence[Point]
    correlation: float = 0.0
    reason: str = ""
    confidences: Sequence[int] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain data for the registry's evidence."""
        return {
            "threshold": self.threshold,
            "feasible": self.feasible,
            "coverage": self.coverage,
            "risk": self.risk,
            "upper_bound": self.upper_bound,
            "count": self.count,
            "alpha": self.alpha,
            "delta": self.delta,
            "correlation": self.correlation,
            "reason": self.reason,
            "confidences": list(self.confidences),
            "curve": [[p.threshold, p.coverage, p.risk, p.upper_bound] for p in self.curve],
        }


def upper_bound(wrong: float, answered: float, delta: float) -> float:
    """Clopper-Pearson: the share wrong is below this with confidence 1 - delta. Takes effective numbers, too, which may be broken."""
    if answered <= 0 or wrong >= answered:
        return 1.0
    return float(betaincinv(wrong + 1, answered - wrong, 1.0 - delta))


def lower_bound(wrong: int, answered: int, delta: float) -> float:
    """Clopper-Pearson: the share wrong is above this with confidence 1 - delta."""
    return float(betaincinv(wrong, answered - wrong + 1, delta)) if wrong else 0.0


def fewest_calls(alpha: float, delta: float) -> int:
    """How many calls, all right, it takes to show that at most alpha are wrong (59 for 0.05 and 0.05)."""
    return math.ceil(math.log(delta) / math.log1p(-alpha))


def calibrate(
    confidences: Sequence[float],
    wrong: Sequence[bool],
    alpha: float,
    delta: float,
    *,
    start_share: float = START_SHARE,
    thresholds: Sequence[float] | None = None,
    groups: Sequence[Hashable] | None = None,
) -> Calibration:
    """The lowest threshold for which the contract is shown to hold.

    Args:
        confidences: in [0, 1], one for each calibration call. 0, and what is no number, is never let through.
        wrong: whether the specialist's answer to that call is wrong.
        alpha: the share of answers that may be wrong, in (0, 1).
        delta: the chance that the statement is false, in (0, 1).
        start_share: the first threshold lets through at least this share of the calls, if it can; decided without these
            verdicts. Lower finds smaller coverages, higher is less easily ended by one unlucky call.
        thresholds: in the order of testing, decided without these verdicts. Where None: quantiles of the confidences,
            downwards, in steps that each can bear one wrong answer more.
        groups: the conversation of each call; None where each call stands by itself.

    Raises:
        ValueError: lengths differ, or alpha or delta is out of range.
    """
    _check(confidences, wrong, alpha, delta, groups)
    conf = np.nan_to_num(np.asarray(confidences, dtype=np.float64), nan=0.0)
    bad = np.asarray(wrong, dtype=bool)
    together = _Groups.of(groups, bad)
    needed = fewest_calls(alpha, delta)
    if conf.size < needed:
        return _infeasible(
            conf.size,
            alpha,
            delta,
            (),
            together.correlation,
            f"{conf.size} calibration calls are too few: it takes {needed} to show that at most {alpha:.1%} are wrong.",
        )
    if thresholds is None:
        thresholds = _sequence(conf, alpha, delta, start_share)
    curve: list[Point] = []
    best: Point | None = None
    for threshold in thresholds:
        point = _point(conf, bad, threshold, delta, together)
        curve.append(point)
        if point.upper_bound > alpha:
            break
        if best is None or point.threshold < best.threshold:
            best = point
    if best is None:
        return _infeasible(
            conf.size,
            alpha,
            delta,
            curve,
            together.correlation,
            f"no threshold keeps wrong answers at or below {alpha:.1%}.",
        )
    return Calibration(
        threshold=_relaxed(best.threshold, conf),
        feasible=True,
        coverage=best.coverage,
        risk=best.risk,
        upper_bound=best.upper_bound,
        count=int(conf.size),
        alpha=alpha,
        delta=delta,
        curve=tuple(curve),
        confidences=tuple(histogram(conf.tolist())),
        correlation=together.correlation,
    )


def coverage_at_risk(confidences: Sequence[float], wrong: Sequence[bool], alpha: float) -> float:
    """The largest share that could be answered with at most alpha wrong among these calls. A figure to choose by, no proof."""
    conf = np.asarray(confidences, dtype=np.float64)
    bad = np.asarray(wrong, dtype=bool)
    best = 0.0
    for threshold in _quantiles(conf):
        through = conf >= threshold
        if bad[through].mean() <= alpha:
            best = max(best, float(through.mean()))
    return best


@dataclass(frozen=True, slots=True)
class _Groups:
    """Which calls belong together. `of_call`: the number of each call's group, shape (calls,)."""

    of_call: NDArray[np.int64]
    count: int
    correlation: float

    @classmethod
    def of(cls, groups: Sequence[Hashable] | None, bad: NDArray[np.bool_]) -> _Groups:
        if groups is None:
            return cls(np.arange(bad.size), bad.size, 0.0)
        number = {group: i for i, group in enumerate(dict.fromkeys(groups))}
        of_call = np.array([number[group] for group in groups], dtype=np.int64)
        return cls(of_call, len(number), _correlation(of_call, bad))

    def design_effect(self, through: NDArray[np.bool_]) -> float:
        """How many calls of those let through prove as much as one that stands by itself; at least 1."""
        if not self.correlation or not through.any():
            return 1.0
        sizes = np.bincount(self.of_call[through])
        return 1.0 + (float((sizes**2).sum() / sizes.sum()) - 1.0) * self.correlation


def _correlation(of_call: NDArray[np.int64], bad: NDArray[np.bool_]) -> float:
    """Of wrong answers inside groups: the mean product of two calls' deviations over the variance; in [0, 1], 0 where it says nothing."""
    risk = float(bad.mean()) if bad.size else 0.0
    sizes = np.bincount(of_call)
    pairs = float((sizes * (sizes - 1)).sum())
    if not pairs or not 0 < risk < 1:
        return 0.0
    off = bad - risk
    products = float((np.bincount(of_call, off) ** 2).sum() - (off**2).sum())
    return min(1.0, max(0.0, products / pairs / (risk * (1 - risk))))


def _point(
    conf: NDArray[np.float64], bad: NDArray[np.bool_], threshold: float, delta: float, together: _Groups
) -> Point:
    through = conf >= threshold
    answered, wrong = int(through.sum()), int(bad[through].sum())
    effect = together.design_effect(through)
    return Point(
        threshold=float(threshold),
        coverage=answered / conf.size,
        answered=answered,
        wrong=wrong,
        upper_bound=upper_bound(wrong / effect, answered / effect, delta),
    )


def _quantiles(conf: NDArray[np.float64]) -> list[float]:
    """Up to 100 thresholds that let through ever larger shares, the smallest share first. Never 0: that is no confidence."""
    ordered = np.sort(conf[conf > 0])[::-1]
    if not ordered.size:
        return []
    at = np.unique(np.linspace(0, ordered.size - 1, num=min(_MOST_STEPS, ordered.size)).astype(int))
    return [float(t) for t in dict.fromkeys(ordered[at].tolist())]


def _sequence(conf: NDArray[np.float64], alpha: float, delta: float, start_share: float) -> list[float]:
    """Thresholds that let through as many calls as it takes to afford one wrong answer more than the step before.

    How many calls that is follows from alpha and delta alone. Smaller steps would only be lost to chance: the next call may be
    wrong before there are enough others to bear it. For the same reason it starts with room for one wrong answer and with a good
    part of the calls, if it can: a few logged answers are wrong themselves, and near the top one of those would end it.
    """
    ordered = np.sort(conf[conf > 0])[::-1]
    if not ordered.size:
        return []
    counts = list(_steps(ordered.size, alpha, delta))
    if len(counts) > 1:
        counts = [c for c in counts[1:] if c >= start_share * ordered.size] or counts[-1:]
    if counts and counts[-1] != ordered.size:
        counts.append(int(ordered.size))
    return list(dict.fromkeys(_just_above_next(ordered, c) for c in counts))


@lru_cache(maxsize=512)
def _steps(most: int, alpha: float, delta: float) -> tuple[int, ...]:
    """How many calls it takes to bear 0 wrong ones, 1, 2, ... as far as `most` calls go."""
    answered = np.arange(1, most + 1)
    # the exact test rejects where the chance of so few wrong ones is at most delta: the quantile is the first that is too many
    bearable = binom.ppf(delta, answered, alpha) - 1
    return tuple(answered[np.flatnonzero(np.diff(bearable, prepend=-1.0) > 0)].tolist())


def _just_above_next(ordered: NDArray[np.float64], count: int) -> float:
    """The lowest threshold that lets through the surest `count` calls, those as sure as the last of them, and no more.

    Where that is all of them, the confidence of the least sure one.
    """
    last = float(ordered[count - 1])
    below = ordered[ordered < last]
    return float(np.nextafter(below[0], last)) if below.size else last


def _relaxed(threshold: float, conf: NDArray[np.float64]) -> float:
    """Where even the least sure calibration answer may be given, an answer a little less sure than that one may be, too.

    On the calibration calls it lets through the same answers, so the test says the same of it; it looks at no verdict.
    """
    return threshold if (conf[conf > 0] < threshold).any() else threshold * _SLACK


def _check(
    confidences: Sequence[float],
    wrong: Sequence[bool],
    alpha: float,
    delta: float,
    groups: Sequence[Hashable] | None,
) -> None:
    if len(confidences) != len(wrong):
        raise ValueError(f"One verdict for each confidence: got {len(confidences)} and {len(wrong)}.")
    if groups is not None and len(groups) != len(wrong):
        raise ValueError(f"One group for each call: got {len(groups)} for {len(wrong)} calls.")
    for name, value in (("alpha", alpha), ("delta", delta)):
        if not 0 < value < 1:
            raise ValueError(f"`{name}` must lie in (0, 1), got {value}; write 0.05 for five per cent.")


def _infeasible(
    count: int, alpha: float, delta: float, curve: Sequence[Point], correlation: float, reason: str
) -> Calibration:
    return Calibration(
        threshold=NEVER,
        feasible=False,
        coverage=0.0,
        risk=0.0,
        upper_bound=1.0,
        count=int(count),
        alpha=alpha,
        delta=delta,
        curve=tuple(curve),
        correlation=correlation,
        reason=reason,
    )
