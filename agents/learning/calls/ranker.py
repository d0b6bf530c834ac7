"""A linear model that chooses one of a few candidates: conditional logit over hashed features, fitted by L-BFGS.

Candidates may differ from choice to choice; what they share is their features. Weights are one array, found by hash, so no
vocabulary is kept. Deterministic.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shoal.errors import DataError

#: length of the weights, as a power of two
BITS = 20

Ints = NDArray[np.uint32]
Floats = NDArray[np.float64]


def hashed(text: str) -> int:
    """A feature's name as a number of 32 bits; the same on every machine."""
    return zlib.crc32(text.encode("utf-8", "surrogatepass"))


def mixed(base: Ints, key: int) -> Ints:
    """Features joined with a key (an argument, say), as places in the weights."""
    joined = (base ^ np.uint32(key)) * np.uint32(0x9E3779B1)
    joined ^= joined >> np.uint32(15)
    joined *= np.uint32(0x85EBCA6B)
    return joined >> np.uint32(32 - BITS)


@dataclass(frozen=True, slots=True)
class Options:
    """The candidates of one choice: `places[k]` is a feature (place in the weights) of candidate `rows[k]`."""

    count: int
    rows: NDArray[np.int32]
    places: Ints

    @classmethod
    def of(cls, features: Sequence[Ints]) -> Options:
        rows = np.repeat(np.arange(len(features), dtype=np.int32), [len(f) for f in features])
        return cls(len(features), rows, np.concatenate(features) if features else np.zeros(0, np.uint32))

    def scores(self, weights: NDArray[np.float32]) -> Floats:
        sums = np.bincount(self.rows, weights=weights[self.places], minlength=self.count)
        return sums.astype(np.float64)


def shares(scores: Floats) -> Floats:
    """Softmax."""
    odds: Floats = np.exp(scores - scores.max())
    return odds / float(odds.sum())


def fit(
    choices: Sequence[Options],
    right: Sequence[int],
    *,
    strength: float,
    steps: int,
    stopped: Callable[[], bool] = lambda: False,
    weigh: Sequence[float] | None = None,
) -> NDArray[np.float32]:
    """Weights under which the right candidates are likeliest.

    Args:
        right: the place of each choice's right candidate.
        strength: inverse of the L2 penalty, for all choices together.

    Raises:
        DataError: there is nothing to choose.
        KeyboardInterrupt: `stopped` said so.
    """
    from scipy.optimize import minimize
    from scipy.sparse import csr_matrix

    if not choices:
        raise DataError("There is no choice to learn from.")
    counts = np.array([c.count for c in choices])
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    rows = np.concatenate([c.rows + np.int32(s) for c, s in zip(choices, starts, strict=True)])
    places = np.concatenate([c.places for c in choices])
    used = np.flatnonzero(np.bincount(places, minlength=1 << BITS))
    column = np.zeros(1 << BITS, dtype=np.int32)
    column[used] = np.arange(len(used), dtype=np.int32)
    matrix = csr_matrix(
        (np.ones(len(rows), np.float32), (rows, column[places])), shape=(int(counts.sum()), len(used))
    )
    del rows, places
    across = matrix.T
    gold = starts + np.asarray(right)
    importance = np.ones(len(choices)) if weigh is None else np.asarray(weigh, dtype=np.float64)
    spread = np.repeat(importance, counts)

    def loss(weights: Floats) -> tuple[float, Floats]:
        if stopped():
            raise KeyboardInterrupt
        scores = np.asarray(matrix @ weights.astype(np.float32), dtype=np.float64)
        top = np.repeat(np.maximum.reduceat(scores, starts), counts)
        odds = np.exp(scores - top)
        totals = np.add.reduceat(odds, starts)
        likely = odds / np.repeat(totals, counts)
        surprise = -float((importance * np.log(np.maximum(likely[gold], 1e-12))).sum())
        slope = likely * spread
        slope[gold] -= importance
        gradient = np.asarray(across @ slope.astype(np.float32), dtype=np.float64)
        penalty = 0.5 / strength * float(weights @ weights)
        return surprise + penalty, gradient + weights / strength

    found = minimize(
        loss, np.zeros(len(used)), jac=True, method="L-BFGS-B", options={"maxiter": steps, "maxcor": 8}
    )
    weights = np.zeros(1 << BITS, dtype=np.float32)
    weights[used] = found.x
    return weights
