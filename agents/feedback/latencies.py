"""Quantiles of waiting times that can be added up: a histogram with buckets of equal ratio.

As DDSketch does it (Masson, Rim, Lee 2019, arXiv 1908.10693, section 2.1): a quantile is within 1% of the true one, however many
times are added and in whatever order sums are merged. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

#: neighbouring bounds of buckets have this ratio; the middle of a bucket is within 1% of all that is in it
_RATIO = 1.02
_LOG_RATIO = math.log(_RATIO)
#: what is shorter counts as this long, milliseconds
_SHORTEST_MS = 0.001


@dataclass(slots=True)
class Latencies:
    """Waiting times in milliseconds. `buckets`: number of the bucket -> how many."""

    buckets: dict[int, int] = field(default_factory=dict)

    def add(self, ms: float) -> None:
        bucket = math.ceil(math.log(max(ms, _SHORTEST_MS)) / _LOG_RATIO)
        self.buckets[bucket] = self.buckets.get(bucket, 0) + 1

    def merge(self, other: Latencies) -> None:
        for bucket, count in other.buckets.items():
            self.buckets[bucket] = self.buckets.get(bucket, 0) + count

    @property
    def count(self) -> int:
        return sum(self.buckets.values())

    def quantile(self, share: float) -> float | None:
        """The time within which `share` of them stay, in milliseconds; None where there are none."""
        left = max(1, math.ceil(share * self.count))
        for bucket in sorted(self.buckets):
            left -= self.buckets[bucket]
            if left <= 0:
                return float(2 * _RATIO**bucket / (1 + _RATIO))
        return None

    def to_dict(self) -> dict[str, int]:
        return {str(bucket): count for bucket, count in self.buckets.items()}

    @classmethod
    def from_dict(cls, data: Mapping[str, int]) -> Latencies:
        return cls({int(bucket): int(count) for bucket, count in data.items()})
