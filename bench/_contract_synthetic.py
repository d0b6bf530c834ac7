"""A population whose true risk is known at every threshold: how often does calibration promise what is not true?

The promise is broken where a threshold was found and, over the whole population, more than alpha of what it lets through is
wrong. The shapes are chosen to be hard: risk that lies just above alpha at every threshold, confidences that tie, risk that
rises and falls, the surest answers being the worst, few calls, a rare kind of call that is always wrong, and calls that come in
conversations whose answers are right or wrong together.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from _bench import Bench
from numpy.typing import NDArray

from shoal.agents.contract.calibrate import calibrate, fewest_calls

ALPHAS = (0.02, 0.05, 0.10)
DELTA = 0.05
CALIBRATIONS = 2000
QUICK_CALIBRATIONS = 200
CALLS = 1000
_POINTS = 20_000
#: calls of a conversation, and the chance that one is answered as its conversation is (0: each by itself)
_TURNS = 5
_TOGETHER = 0.5

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Population:
    """Kinds of calls: confidence, share of the traffic and chance of a wrong answer of each; shapes (kinds,)."""

    confidence: Array
    mass: Array
    risk: Array
    calls: int = CALLS
    turns: int = 1

    def true_risk(self, threshold: float) -> float:
        """Share wrong among all that the threshold lets through."""
        through = self.confidence >= threshold
        return float((self.mass * self.risk)[through].sum() / max(self.mass[through].sum(), 1e-300))

    def draw(self, rng: np.random.Generator) -> tuple[Array, NDArray[np.bool_], list[int]]:
        """Confidence, verdict and conversation of each calibration call."""
        groups = -(-self.calls // self.turns)
        kind = rng.choice(len(self.mass), size=groups * self.turns, p=self.mass)
        luck = rng.random(groups * self.turns)
        of = np.arange(groups * self.turns) // self.turns
        if self.turns > 1:
            luck = np.where(rng.random(len(luck)) < _TOGETHER, rng.random(groups)[of], luck)
        return self.confidence[kind], luck < self.risk[kind], of.tolist()


def _smooth(risk_at: Callable[[Array], Array], *, calls: int = CALLS, turns: int = 1) -> Population:
    """Confidences spread evenly over (0, 1); `risk_at` takes how unsure a call is, from 0 to 1."""
    unsure = (np.arange(_POINTS) + 0.5) / _POINTS
    risk = np.clip(risk_at(unsure), 0.0, 1.0)
    return Population(1 - unsure, np.full(_POINTS, 1 / _POINTS), risk, calls, turns)


def populations(alpha: float) -> dict[str, Population]:
    """By name. Risks are multiples of alpha."""
    rising: Callable[[Array], Array] = lambda u: 10 * alpha * u**4  # noqa: E731
    few = fewest_calls(alpha, DELTA)
    return {
        "rising": _smooth(rising),
        "just above alpha": _smooth(lambda u: np.full_like(u, 1.001 * alpha)),
        "just above alpha, few calls": _smooth(lambda u: np.full_like(u, 1.001 * alpha), calls=2 * few),
        "just crossing": _smooth(lambda u: alpha * np.where(u < 0.5, 0.98, 1.06)),
        "waves": _smooth(lambda u: alpha * (1 + 0.9 * np.sin(25 * u))),
        "surest are worst": _smooth(lambda u: alpha * np.select([u < 0.1, u < 0.6], [2.0, 0.7], 3.0)),
        "few calls": _smooth(rising, calls=few + 10),
        "ties": Population(
            np.array([0.95, 0.9, 0.8, 0.5, 0.2]),
            np.array([0.3, 0.3, 0.2, 0.1, 0.1]),
            alpha * np.array([0.9, 1.0, 1.25, 2.0, 5.0]),
        ),
        "one confidence": Population(np.array([0.7]), np.array([1.0]), np.array([1.001 * alpha])),
        "rare and wrong": Population(
            np.array([0.9, 0.7]), np.array([1 - 1 / CALLS, 1 / CALLS]), np.array([alpha, 1.0])
        ),
        "conversations, rising": _smooth(rising, turns=_TURNS),
        "conversations, just above alpha": _smooth(lambda u: np.full_like(u, 1.001 * alpha), turns=_TURNS),
    }


def broken_share(population: Population, alpha: float, trials: int, *, grouped: bool = True) -> float:
    """In which share of the calibrations the promise is broken. `grouped`: calibration is told of conversations."""
    rng = np.random.default_rng(round(1e4 * alpha))
    broken = 0
    for _ in range(trials):
        confidence, wrong, groups = population.draw(rng)
        told = groups if grouped and population.turns > 1 else None
        found = calibrate(confidence.tolist(), wrong.tolist(), alpha, DELTA, groups=told)
        broken += found.feasible and population.true_risk(found.threshold) > alpha
    return broken / trials


def measure(bench: Bench, data: Path) -> None:
    """`synthetic_violations_at_02`, `_05`, `_10`: the worst population's share of broken promises."""
    trials = QUICK_CALIBRATIONS if bench.arguments.quick else CALIBRATIONS
    at_most = round(DELTA + 2 * math.sqrt(DELTA * (1 - DELTA) / trials), 4)
    for alpha in ALPHAS:
        shares = {name: broken_share(p, alpha, trials) for name, p in populations(alpha).items()}
        for name, share in shares.items():
            bench.say(f"  alpha {alpha:.0%}, {name}: broken in {share:.1%} of {trials}")
        bench.figure(
            f"synthetic_violations_at_{round(100 * alpha):02}",
            max(shares.values()),
            f"share of {trials} calibrations, worst of {len(shares)} populations",
            at_most=at_most,
            command="python bench/contract.py --only synthetic",
        )
