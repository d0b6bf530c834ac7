"""Whether a specialist still meets inputs like those it was calibrated on, told by its confidences alone. Pure; sees no text.

A conformal test martingale (Vovk, Gammerman, Shafer 2022, "Algorithmic Learning in a Random World", 2nd edition, chapter 8; Vovk et al.
2021, "Retrain or not retrain", arXiv 2102.10439). Each confidence gets its rank, as a p-value in (0, 1), among those of the calibration
calls and all that came since; ties are broken by chance. While calibration and serving are exchangeable the p-values are independent
and uniform, exactly, so bets on other shapes may be looked at after every call. The bets' capital is laid anew at each call (see
`sequential.Wager`), so that drift is also found late.

Confidences are counted in fixed bins, chosen without a look at any data, so that calibration and state are a row of counts. Equal ones
being ties, ranks of bins are as exact as ranks of numbers, only coarser.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Final

from shoal.agents.contract.sequential import Wager

#: the chance that a stationary world is ever called drifted: a false alarm costs one training
LEVEL: Final = 0.01
#: fewer calibration calls than this say too little of what to expect
FEWEST_CALLS: Final = 50
#: upper ends of the bins, even in log-odds from 0.0009 to 0.9991; what is above the last has a bin of its own
EDGES: Final = tuple(1 / (1 + math.exp(-x / 4)) for x in range(-28, 29))
BINS: Final = len(EDGES) + 1
#: densities e * p^(e - 1), bet on confidences that fall, and mirrored on such that rise
_POWERS: Final = (0.25, 0.5, 0.75)
_LEAST_P: Final = 1e-9


def bin_of(confidence: float) -> int:
    """The bin of a confidence, 0 for the least sure."""
    return bisect.bisect_left(EDGES, confidence)


def histogram(confidences: Iterable[float]) -> list[int]:
    """Counts by bin: what a version's evidence keeps of its calibration."""
    counts = [0] * BINS
    for confidence in confidences:
        counts[bin_of(confidence)] += 1
    return counts


@dataclass(frozen=True, slots=True, kw_only=True)
class InputWatch:
    """What was seen of a version's inputs since it answers.

    Attributes:
        seen: counts by bin, without the calibration's.
        wager: the bets.
        drifted_at: when they first won, seconds since the epoch; None while they have not.
    """

    seen: tuple[int, ...] = (0,) * BINS
    wager: Wager = field(default_factory=Wager)
    drifted_at: float | None = None

    @property
    def count(self) -> int:
        return sum(self.seen)

    def after(self, calibration: Sequence[int], bins: Sequence[int], *, key: str, at: float) -> InputWatch:
        """With one batch of calls more.

        Args:
            calibration: `histogram` of the version's calibration.
            bins: of the calls' confidences, in the order of the calls.
            key: of the batch; ties are broken by it, so that whoever counts the batch again comes to the same.
            at: when the batch came.
        """
        seen, wager, drifted_at = list(self.seen), self.wager, self.drifted_at
        known = [c + s for c, s in zip(calibration, seen, strict=True)]
        total = sum(known)
        for place, bin_ in enumerate(bins):
            below = sum(known[:bin_])
            p = (below + _chance(key, place) * (known[bin_] + 1)) / (total + 1)
            wager = wager.after(_factors(p))
            known[bin_] += 1
            seen[bin_] += 1
            total += 1
            if drifted_at is None and wager.e_value >= 1 / LEVEL:
                drifted_at = at
        return InputWatch(seen=tuple(seen), wager=wager, drifted_at=drifted_at)

    def distance(self, calibration: Sequence[int]) -> float:
        """Largest difference between the two distributions (Kolmogorov and Smirnov's), in [0, 1]; 0 where nothing was seen."""
        if not self.count or not sum(calibration):
            return 0.0
        worst = was = now = 0.0
        for expected, found in zip(calibration, self.seen, strict=True):
            was += expected / sum(calibration)
            now += found / self.count
            worst = max(worst, abs(was - now))
        return worst

    def to_dict(self) -> dict[str, Any]:
        return {"seen": list(self.seen), "wager": self.wager.to_dict(), "drifted_at": self.drifted_at}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any] | None) -> InputWatch:
        """Reads `to_dict`'s; a new one from None, or where the bins were others."""
        if not data or len(data["seen"]) != BINS:
            return cls()
        return cls(
            seen=tuple(int(n) for n in data["seen"]),
            wager=Wager.from_dict(data["wager"]),
            drifted_at=data["drifted_at"],
        )


def calibration_of(evidence: Mapping[str, Any]) -> list[int] | None:
    """The histogram in a version's evidence; None where there is none to go by: made before they were kept, or too few calls."""
    counts = (evidence.get("calibration") or {}).get("confidences")
    if not isinstance(counts, list) or len(counts) != BINS or sum(counts) < FEWEST_CALLS:
        return None
    return [int(n) for n in counts]


def _factors(p: float) -> tuple[float, ...]:
    low, high = max(p, _LEAST_P), max(1 - p, _LEAST_P)
    return tuple(e * x ** (e - 1) for x in (low, high) for e in _POWERS)


def _chance(key: str, place: int) -> float:
    """Uniform in [0, 1), the same for the same call of the same batch."""
    drawn = blake2b(f"{key}\x1f{place}".encode(), digest_size=7).digest()
    return int.from_bytes(drawn, "big") / 2**56
