"""Figures with 95% intervals: shares (exact), means and other statistics (bootstrap), and two answerers on the same calls (paired).

Pure: every resampling is seeded, so the same values give the same interval. Knows neither models nor tasks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta, binomtest

RESAMPLES = 1000
_SEED = 20260
#: rows of a block of resamples, so that memory stays small with many values
_BLOCK_CELLS = 4_000_000


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


def share_of(hits: Sequence[bool]) -> Figure:
    """`share` of the true ones."""
    return share(sum(hits), len(hits))


def mean(values: Sequence[float]) -> Figure:
    """A mean with its 95% bootstrap interval; unbounded where one value, or none, says nothing of the spread."""
    if len(values) < 2:
        value = float(values[0]) if values else 0.0
        return Figure(value=value, low=-math.inf, high=math.inf, count=len(values))
    numbers = np.asarray(values, dtype=np.float64)
    return ratio(numbers, np.ones_like(numbers))


def ratio(over: Sequence[float] | NDArray[Any], under: Sequence[float] | NDArray[Any]) -> Figure:
    """Sum of `over` by sum of `under`, one entry a call, with its 95% interval from resampling whole calls.

    For counts of things of which a call has several (fields, arguments): those of one call are right or wrong together, so
    the call is what is drawn. 0 with an unbounded interval where there is nothing to divide by; `count` is of calls.
    """
    a, b = np.asarray(over, dtype=np.float64), np.asarray(under, dtype=np.float64)
    total = float(b.sum())
    if not total:
        return Figure(value=0.0, low=-math.inf, high=math.inf, count=0)
    if a.size < 2:
        return Figure(value=float(a.sum()) / total, low=-math.inf, high=math.inf, count=int(a.size))
    drawn = []
    rng = np.random.default_rng(_SEED)
    block = max(1, _BLOCK_CELLS // a.size)
    for start in range(0, RESAMPLES, block):
        at = rng.integers(0, a.size, size=(min(block, RESAMPLES - start), a.size))
        below = b[at].sum(axis=1)
        drawn.append(np.divide(a[at].sum(axis=1), below, out=np.full(below.shape, np.nan), where=below > 0))
    low, high = np.nanquantile(np.concatenate(drawn), (0.025, 0.975))
    return Figure(value=float(a.sum()) / total, low=float(low), high=float(high), count=int(a.size))


def resampled(count: int, statistic: Callable[[NDArray[np.int64]], float]) -> Figure:
    """Any statistic of `count` calls with its 95% bootstrap (percentile) interval. `statistic` takes the places of the drawn calls."""
    value = statistic(np.arange(count)) if count else 0.0
    if count < 2:
        return Figure(value=value, low=-math.inf, high=math.inf, count=count)
    rng = np.random.default_rng(_SEED)
    drawn = [statistic(rng.integers(0, count, size=count)) for _ in range(RESAMPLES)]
    low, high = np.quantile(drawn, (0.025, 0.975))
    return Figure(value=value, low=float(low), high=float(high), count=count)


@dataclass(frozen=True, slots=True, kw_only=True)
class Paired:
    """Two answerers on the same calls.

    Attributes:
        difference: share that only the first gets right less share that only the second does, with its interval.
        wins, losses: how many calls those are.
        p: McNemar's exact test that neither is better.
    """

    difference: Figure
    wins: int
    losses: int
    p: float

    @property
    def is_worse(self) -> bool:
        """The first is worse, and not by chance (5%)."""
        return self.losses > self.wins and self.p < 0.05

    def to_dict(self) -> dict[str, float | int]:
        return {**self.difference.to_dict(), "wins": self.wins, "losses": self.losses, "p": self.p}


def paired(first: Sequence[bool], second: Sequence[bool]) -> Paired:
    """Compare what two answerers got right, call by call.

    Raises:
        ValueError: the lengths differ.
    """
    if len(first) != len(second):
        raise ValueError(
            f"A paired comparison takes the same calls twice, got {len(first)} and {len(second)}."
        )
    wins = sum(a and not b for a, b in zip(first, second, strict=True))
    losses = sum(b and not a for a, b in zip(first, second, strict=True))
    p = float(binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0
    difference = mean([float(a) - float(b) for a, b in zip(first, second, strict=True)])
    return Paired(difference=difference, wins=wins, losses=losses, p=p)
