"""Whether a contract is kept or broken, looked at after every answer: sequential tests that are valid at any time. Pure.

**Betting.** A test is a game against the hypothesis. A bet multiplies its capital by a factor whose mean is at most 1 while the
hypothesis holds, so the capital exceeds 1 / level with a chance of at most `level`, however often one looks (Ville 1939; Waudby-Smith and
Ramdas 2024, "Estimating means of bounded random variables by betting", JRSS B 86, arXiv 2010.09686). Of two kinds of answer, wrong and
right, the bet on "a share q is wrong" against "at most alpha" has the factors q / alpha and (1 - q) / (1 - alpha): the growth-rate
optimal one for q (Grünwald, de Heide, Koolen 2024, "Safe testing", arXiv 1906.07801). Capitals of several q are averaged.

**Starts.** After a long good run the capital of a bet that was laid at the start is all but gone, and a version that goes bad then
would be watched in vain. So a share of the capital is kept back, and a part of it laid anew before every answer: `Wager` is the
mixture sum_k w_k E_k over all starts k, with weights that sum to 1. A mixture of e-processes is one, so the bound holds for the whole
life of a version. (E-detectors, Shin, Ramdas, Rinaldo 2024, arXiv 2203.03532, weigh every start by 1: they bound how long it takes
until a false alarm, not whether one ever comes.) What it costs is a capital larger by 1 / w_k; with these weights that is
k * log2(k)^2 or so, and what came before the change costs nothing more.

Knows neither versions nor where answers come from.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

#: odds of a wrong answer that are bet on, as multiples of the odds that the contract allows
ODDS: Final = (1.5, 2.0, 4.0, 8.0, 20.0)
#: shares of the largest bet that keeps the capital positive, laid on "fewer than alpha are wrong"
_PROOF_BETS: Final = (0.1, 0.3, 0.6, 0.95)
#: of the test's capital, what is laid on what users say; the rest is laid on audits
FEEDBACK_SHARE: Final = 0.2
#: capital is not counted beyond this: the test has long ended
_MOST: Final = 1e250


def kept_back(start: int) -> float:
    """The share of the capital that is not laid yet before start number `start` (1 for the first)."""
    return 1.0 / math.log2(start + 1)


@dataclass(frozen=True, slots=True)
class Wager:
    """A mixture of bets over all starts so far. Its state is this small because bets that are alike share their capital.

    Attributes:
        rounds: how many were played.
        capitals: of each bet, laid out so far.
    """

    rounds: int = 0
    capitals: tuple[float, ...] = ()

    def after(self, factors: Sequence[float]) -> Wager:
        """One round more. `factors`: of each bet, with a mean of at most 1 under the hypothesis; decided before the round."""
        laid = kept_back(self.rounds + 1) - kept_back(self.rounds + 2)
        held = self.capitals or (0.0,) * len(factors)
        return Wager(
            self.rounds + 1,
            tuple(min((own + laid) * f, _MOST) for own, f in zip(held, factors, strict=True)),
        )

    @property
    def e_value(self) -> float:
        """The whole capital; 1 at first. Above 1 / level it refutes the hypothesis at that level."""
        laid = sum(self.capitals) / len(self.capitals) if self.capitals else 0.0
        return kept_back(self.rounds + 1) + laid

    def to_dict(self) -> dict[str, Any]:
        return {"rounds": self.rounds, "capitals": list(self.capitals)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any] | None) -> Wager:
        """Reads `to_dict`'s; a new one from None."""
        if not data:
            return cls()
        return cls(int(data["rounds"]), tuple(float(c) for c in data["capitals"]))


def risk_factors(alpha: float, wrong: bool) -> tuple[float, ...]:
    """What an answer multiplies each bet on "more than alpha are wrong" by."""
    return _FACTORS.of(alpha)[0 if wrong else 1]


class _Factors:
    """Remembered, because a site has few alphas and many answers."""

    def __init__(self) -> None:
        self._known: dict[float, tuple[tuple[float, ...], tuple[float, ...]]] = {}

    def of(self, alpha: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
        known = self._known.get(alpha)
        if known is None:
            shares = bet_shares(alpha)
            known = (
                tuple(q / alpha for q in shares),
                tuple((1 - q) / (1 - alpha) for q in shares),
            )
            self._known[alpha] = known
        return known


_FACTORS = _Factors()


def bet_shares(alpha: float) -> tuple[float, ...]:
    """The shares of wrong answers that are bet on, each above alpha."""
    if not 0 < alpha < 1:
        raise ValueError(f"`alpha` must lie in (0, 1), got {alpha}; write 0.05 for five per cent.")
    odds = alpha / (1 - alpha)
    return tuple(odds * times / (1 + odds * times) for times in ODDS)


@dataclass(frozen=True, slots=True)
class Block:
    """Answers given in one stretch of time, and how many of them somebody contradicted since."""

    given: int
    contradicted: int


def feedback_e_value(blocks: Iterable[Block], alpha: float) -> float:
    """The capital of bets that count an answer as wrong if, and only if, somebody contradicted it; silence counts as right.

    Users choose what they speak of, so their word is no sample. But a contradicted answer is a wrong one, so the contradicted are at
    most the wrong among *all* answers given, and a bet on more than alpha gains less by them than by the truth: whatever is
    spoken of, and however late, a version that keeps its contract is called broken with a chance of at most the level. Starts
    are the beginnings of blocks.

    Args:
        blocks: oldest first. A block that has more contradicted answers than given ones counts as all contradicted.
    """
    gains, losses = (np.log(np.asarray(f)) for f in _FACTORS.of(alpha))
    laid = np.full(len(ODDS), -math.inf)
    start = 0
    for block in blocks:
        wrong = min(block.contradicted, block.given)
        if not block.given:
            continue
        start += 1
        fresh = math.log(kept_back(start) - kept_back(start + 1))
        laid = np.logaddexp(laid, fresh) + wrong * gains + (block.given - wrong) * losses
    top = math.log(_MOST)
    return kept_back(start + 1) + float(np.mean(np.exp(np.minimum(laid, top))))


@dataclass(frozen=True, slots=True, kw_only=True)
class RiskTest:
    """One test of "at most alpha of the answers given are wrong", by audits and by what users say.

    Both are e-processes of that hypothesis, and so is their weighted mean: neither can be outvoted, and together they err no more often.

    Attributes:
        audits: the bets on compared answers, drawn without a look at them.
        feedback: `feedback_e_value`; 1 where there is nothing.
    """

    audits: Wager = field(default_factory=Wager)
    feedback: float = 1.0

    @property
    def e_value(self) -> float:
        return (1 - FEEDBACK_SHARE) * self.audits.e_value + FEEDBACK_SHARE * self.feedback

    def breaks(self, delta: float) -> bool:
        """Whether the contract is refuted at level delta."""
        return self.e_value >= 1 / delta


def shows_contract(wrong: int, right: int, alpha: float, delta: float) -> bool:
    """Whether counts refute "at least alpha of the answers are wrong" at level delta; may be asked after every answer."""
    largest = 1 / (1 - alpha)
    bets = np.asarray(_PROOF_BETS)
    logs = wrong * np.log1p(-bets * largest * (1 - alpha)) + right * np.log1p(bets * largest * alpha)
    return float(np.logaddexp.reduce(logs) - math.log(bets.size)) >= -math.log(delta)
