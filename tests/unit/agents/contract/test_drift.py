from __future__ import annotations

import json
import random

import pytest

from shoal.agents.contract.drift import (
    BINS,
    EDGES,
    FEWEST_CALLS,
    InputWatch,
    bin_of,
    calibration_of,
    histogram,
)

CALIBRATION = histogram([random.Random(i).betavariate(8, 2) for i in range(500)])


def bins(rng: random.Random, a: float, b: float, count: int) -> list[int]:
    return [bin_of(rng.betavariate(a, b)) for _ in range(count)]


def seen(calls: list[int], state: InputWatch | None = None, *, start: int = 0) -> InputWatch:
    state = state or InputWatch()
    for place in range(0, len(calls), 50):
        batch = calls[place : place + 50]
        state = state.after(CALIBRATION, batch, key=f"b{start + place}", at=float(start + place))
    return state


def test_every_confidence_has_a_bin_and_surer_ones_a_higher_one() -> None:
    places = [bin_of(c) for c in (0.0, 0.0009, 0.1, 0.5, 0.9, 0.99, 0.9999, 1.0)]
    assert places == sorted(places)
    assert places[0] == 0 and places[-1] == BINS - 1 == len(EDGES)
    assert sum(histogram([0.0, 0.3, 1.0])) == 3


def test_calls_like_those_of_calibration_are_not_called_drifted() -> None:
    rng = random.Random(1)
    states = [seen(bins(rng, 8, 2, 400)) for _ in range(40)]
    assert sum(state.drifted_at is not None for state in states) <= 2


@pytest.mark.parametrize(("a", "b"), [(4, 4), (30, 1)])
def test_confidences_that_fall_or_rise_are_seen_also_after_a_long_calm(a: float, b: float) -> None:
    rng = random.Random(2)
    calm = seen(bins(rng, 8, 2, 2000))
    assert calm.drifted_at is None
    then = seen(bins(rng, a, b, 500), calm, start=2000)
    assert then.drifted_at is not None and 2000 <= then.drifted_at <= 2400
    assert then.distance(CALIBRATION) > calm.distance(CALIBRATION)


def test_a_state_that_was_written_and_a_batch_that_comes_again_lead_to_the_same() -> None:
    calls = bins(random.Random(3), 6, 3, 200)
    once = seen(calls)
    half = InputWatch.from_dict(json.loads(json.dumps(seen(calls[:100]).to_dict())))
    assert seen(calls[100:], half, start=100) == once
    assert once.count == 200


def test_where_drift_was_first_seen_is_remembered() -> None:
    state = seen([0] * 300)
    assert state.drifted_at is not None
    assert seen([0] * 100, state, start=300).drifted_at == state.drifted_at


def test_versions_without_a_histogram_or_with_too_few_calls_have_no_watch() -> None:
    assert calibration_of({}) is None
    assert calibration_of({"calibration": {"confidences": [1] * 3}}) is None
    few = histogram([0.5] * (FEWEST_CALLS - 1))
    assert calibration_of({"calibration": {"confidences": few}}) is None
    assert calibration_of({"calibration": {"confidences": CALIBRATION}}) == CALIBRATION


def test_a_state_with_other_bins_begins_anew() -> None:
    assert InputWatch.from_dict({"seen": [1, 2], "wager": None, "drifted_at": None}) == InputWatch()


def test_nothing_seen_is_no_distance() -> None:
    assert InputWatch().distance(CALIBRATION) == 0
