"""What a router between a weak and a strong model is worth: the curve of quality over the share of strong calls, and its figures. Pure.

Definitions after RouteLLM (Ong et al. 2024, arXiv 2406.18665, section 2.2):

    PGR(c)     performance gap recovered: (quality with a share c of the calls to the strong model - weak's) / (strong's - weak's)
    APGR       the area under PGR over c from 0 to 1; a router that draws lots has 0.5
    CPT(x)     the smallest share of strong calls at which PGR reaches x

The paper takes the area by ten steps; here it is exact: every cutoff counts, and calls of the same score go in a random order, of which the
expectation is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_RESAMPLES = 2000
_CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcomes:
    """Per prompt: whether the weak model was right, and whether the strong one was. Both of shape (prompts,), 0 or 1.

    Raises:
        ValueError: the shapes differ, there are no prompts, or the strong model is no better, so that there is no gap to recover.
    """

    weak: NDArray[np.float64]
    strong: NDArray[np.float64]

    def __post_init__(self) -> None:
        if self.weak.shape != self.strong.shape or self.weak.ndim != 1 or not len(self.weak):
            raise ValueError(
                "`weak` and `strong` must be of one shape (prompts,) with at least one prompt, "
                f"got {self.weak.shape} and {self.strong.shape}."
            )
        if self.strong.mean() <= self.weak.mean():
            raise ValueError(
                f"The strong model must be right more often than the weak one, got {self.strong.mean():.3f} and {self.weak.mean():.3f}."
            )

    @classmethod
    def of(cls, weak: Sequence[bool], strong: Sequence[bool]) -> Outcomes:
        return cls(weak=np.asarray(weak, dtype=np.float64), strong=np.asarray(strong, dtype=np.float64))

    @property
    def gain(self) -> NDArray[np.float64]:
        """Per prompt what asking the strong model changes: 1, 0 or -1."""
        return self.strong - self.weak


@dataclass(frozen=True, slots=True)
class Curve:
    """`pgr` at the shares `strong` of strong calls, from (0, 0) to (1, 1); linear in between."""

    strong: NDArray[np.float64]
    pgr: NDArray[np.float64]

    @property
    def apgr(self) -> float:
        return float(np.trapezoid(self.pgr, self.strong))

    def cpt(self, recovered: float) -> float:
        """The smallest share of strong calls at which so much of the gap is recovered.

        Args:
            recovered: in (0, 1].
        """
        if not 0 < recovered <= 1:
            raise ValueError(f"`recovered` must lie in (0, 1], got {recovered}; write 0.5 for 50%.")
        after = int(np.argmax(self.pgr >= recovered - 1e-12))
        low, high = self.pgr[after - 1], self.pgr[after]
        step = 1.0 if high == low else (recovered - low) / (high - low)
        return float(self.strong[after - 1] + min(1.0, step) * (self.strong[after] - self.strong[after - 1]))


def curve(outcomes: Outcomes, scores: NDArray[np.float64]) -> Curve:
    """Of a router that sends the calls with the highest scores to the strong model. `scores`: shape (prompts,)."""
    return _curve(outcomes.gain, scores)


def _curve(gain: NDArray[np.float64], scores: NDArray[np.float64]) -> Curve:
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    recovered = np.cumsum(gain[order]) / gain.sum()
    # a cutoff lies only between different scores: within equal ones the order is drawn, and its expectation is a straight line
    ends = np.append(np.flatnonzero(np.diff(ordered)), len(scores) - 1)
    return Curve(np.append(0.0, (ends + 1) / len(scores)), np.append(0.0, recovered[ends]))


def random_curve() -> Curve:
    """The expectation of drawing lots."""
    return Curve(np.array([0.0, 1.0]), np.array([0.0, 1.0]))


def oracle_curve(outcomes: Outcomes) -> Curve:
    """Of who knows the outcomes: first what only the strong model gets right, last what only the weak one does."""
    return curve(outcomes, outcomes.gain)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """How much one router's APGR is above another's on the same prompts, with a 95% interval."""

    value: float
    low: float
    high: float


def apgr_gain(
    outcomes: Outcomes,
    scores: NDArray[np.float64],
    rival: NDArray[np.float64],
    *,
    seed: int = 0,
    resamples: int = _RESAMPLES,
) -> Gain:
    """Paired bootstrap over prompts (Efron and Tibshirani 1993, chapter 13, percentile interval).

    Scores stay as they are, so the interval says how much depends on the prompts drawn, not on how the routers were trained. Resamples in
    which the strong model is no better are drawn again.
    """
    gain = outcomes.gain
    draw = np.random.default_rng(seed)
    found: list[float] = []
    while len(found) < resamples:
        rows = draw.integers(len(gain), size=len(gain))
        if gain[rows].sum() > 0:
            found.append(_curve(gain[rows], scores[rows]).apgr - _curve(gain[rows], rival[rows]).apgr)
    tail = (1 - _CONFIDENCE) / 2
    low, high = np.quantile(found, [tail, 1 - tail])
    return Gain(
        value=curve(outcomes, scores).apgr - curve(outcomes, rival).apgr, low=float(low), high=float(high)
    )
