from __future__ import annotations

import math
import random

import pytest

from shoal.agents.feedback.latencies import Latencies


def test_quantiles_are_within_a_hundredth_of_the_true_ones() -> None:
    draw = random.Random(1)
    times = [draw.lognormvariate(3, 2) for _ in range(5000)]
    found = Latencies()
    for ms in times:
        found.add(ms)
    for share in (0.01, 0.5, 0.95, 0.999):
        true = sorted(times)[math.ceil(share * 5000) - 1]
        assert found.quantile(share) == pytest.approx(true, rel=0.011)


def test_merging_is_adding() -> None:
    whole, one, other = Latencies(), Latencies(), Latencies()
    for n, ms in enumerate((0.0, 0.2, 3.0, 40.0, 40.0, 60_000.0)):
        whole.add(ms)
        (one if n % 2 else other).add(ms)
    one.merge(Latencies.from_dict(other.to_dict()))
    assert one.buckets == whole.buckets
    assert whole.count == 6


def test_of_none_nothing_is_said() -> None:
    assert Latencies().quantile(0.5) is None
