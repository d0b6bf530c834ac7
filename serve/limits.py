"""How often a key may call: a token bucket. Pure; the clock is handed in."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class TokenBucket:
    """Holds up to one minute's calls and refills evenly.

    Attributes:
        rate_per_min: calls a minute in the long run, and the most at once; above 0.
        tokens: calls that may be made now.
        at: monotonic seconds at which `tokens` was right.
    """

    rate_per_min: float
    tokens: float
    at: float

    @classmethod
    def full(cls, rate_per_min: float, now: float) -> TokenBucket:
        return cls(rate_per_min=rate_per_min, tokens=rate_per_min, at=now)

    def take(self, now: float) -> float:
        """Take one call's token; 0 if there was one, else the seconds until there is."""
        per_second = self.rate_per_min / 60
        self.tokens = min(self.rate_per_min, self.tokens + max(0.0, now - self.at) * per_second)
        self.at = now
        if self.tokens >= 1:
            self.tokens -= 1
            return 0.0
        return (1 - self.tokens) / per_second
