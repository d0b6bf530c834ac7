"""The threshold of a specialist, such that at most alpha of its answers are wrong, with confidence 1 - delta.

Learn-then-Test (Angelopoulos, Bates, Candes, Jordan, Lei 2021, arXiv 2110.01052): each threshold is the null hypothesis
"among the calls that it lets through more than alpha are wrong", tested with the exact binomial tail, which is the
Clopper-Pearson upper bound. The thresholds are tested in a fixed sequence, the most confident first, each at level delta,
until one is not rejected (fixed-sequence testing, there); the lowest one rejected is the answer. What is tested, and in which
order, never depends on which of the calibration calls came out right.

Pure. Knows neither models nor tasks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta, binom

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
            "reason": self.reason,
            "confidences": list(self.confidences),
            "curve": [[p.threshold, p.coverage, p.risk, p.upper_bound] for p in self.curve],
        }


def upper_bound(wrong: int, answered: int, delta: float) -> float:
    """Clopper-Pearson: the share wrong is below this with confidence 1 - delta."""
    if answered == 0 or wrong >= answered:
        return 1.0
    return float(beta.ppf(1.0 - delta, wrong + 1, answered - wrong))


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
) -> Calibration:
    """The lowest threshold for which the contract is shown to hold.

    Args:
        confidences: in [0, 1], one for each calibration call.
        wrong: whether the specialist's answer to that call is wrong.
        alpha: the share of answers that may be wrong, in (0, 1).
        delta: the chance that the statement is false, in (0, 1).
        start_share: the first threshold lets through at least this share of the calls, if it can; decided without these
            verdicts. Lower finds smaller coverages, higher is less easily ended by one unlucky call.
        thresholds: in the order of testing, decided without these verdicts. Where None: quantiles of the confidences,
            downwards, in steps that each can bear one wrong answer more.

    Raises:
        ValueError: lengths differ, or alpha or delta is out of range.
    """
    _check(confidences, wrong, alpha, delta)
    conf = np.asarray(confidences, dtype=np.float64)
    bad = np.asarray(wrong, dtype=bool)
    needed = fewest_calls(alpha, delta)
    if conf.size < needed:
        return _infeasible(
            conf.size,
            alpha,
            delta,
            (),
            f"{conf.size} calibration calls are too few: it takes {needed} to show that at most {alpha:.1%} are wrong.",
        )
    if thresholds is None:
        thresholds = _sequence(conf, alpha, delta, start_share)
    curve: list[Point] = []
    best: Point | None = None
    for threshold in thresholds:
        point = _point(conf, bad, threshold, delta)
        curve.append(point)
        if point.upper_bound > alpha:
            break
        if best is None or point.threshold < best.threshold:
            best = point
    if best is None:
        return _infeasible(
            conf.size, alpha, delta, curve, f"no threshold keeps wrong answers at or below {alpha:.1%}."
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


def _point(conf: NDArray[np.float64], bad: NDArray[np.bool_], threshold: float, delta: float) -> Point:
    through = conf >= threshold
    answered, wrong = int(through.sum()), int(bad[through].sum())
    return Point(
        threshold=float(threshold),
        coverage=answered / conf.size,
        answered=answered,
        wrong=wrong,
        upper_bound=upper_bound(wrong, answered, delta),
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
    answered = np.arange(1, ordered.size + 1)
    # the exact test rejects where the chance of so few wrong ones is at most delta: the quantile is the first that is too many
    bearable = binom.ppf(delta, answered, alpha) - 1
    counts = answered[np.flatnonzero(np.diff(bearable, prepend=-1.0) > 0)].tolist()
    if len(counts) > 1:
        counts = [c for c in counts[1:] if c >= start_share * ordered.size] or counts[-1:]
    if counts and counts[-1] != ordered.size:
        counts.append(int(ordered.size))
    return list(dict.fromkeys(float(ordered[c - 1]) for c in counts))


def _relaxed(threshold: float, conf: NDArray[np.float64]) -> float:
    """Where even the least sure calibration answer may be given, an answer a little less sure than that one may be, too.

    On the calibration calls it lets through the same answers, so the test says the same of it; it looks at no verdict.
    """
    return threshold if (conf[conf > 0] < threshold).any() else threshold * _SLACK


def _check(confidences: Sequence[float], wrong: Sequence[bool], alpha: float, delta: float) -> None:
    if len(confidences) != len(wrong):
        raise ValueError(f"One verdict for each confidence: got {len(confidences)} and {len(wrong)}.")
    for name, value in (("alpha", alpha), ("delta", delta)):
        if not 0 < value < 1:
            raise ValueError(f"`{name}` must lie in (0, 1), got {value}; write 0.05 for five per cent.")


def _infeasible(count: int, alpha: float, delta: float, curve: Sequence[Point], reason: str) -> Calibration:
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
        reason=reason,
    )
