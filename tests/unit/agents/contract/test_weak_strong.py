from __future__ import annotations

import numpy as np
import pytest

from shoal.agents.contract.weak_strong import Outcomes, apgr_gain, curve, oracle_curve, random_curve

# weak is right on a and c, strong on all but c: the gap is one prompt of four
WEAK = (True, False, True, False)
STRONG = (True, True, False, True)
OUTCOMES = Outcomes.of(WEAK, STRONG)


def test_the_curve_is_as_counted_by_hand() -> None:
    # b first (+1), then c (-1), then d (+1), then a (0); the whole gap is +1
    found = curve(OUTCOMES, np.array([0.1, 0.9, 0.8, 0.5]))
    assert found.strong.tolist() == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert found.pgr.tolist() == [0.0, 1.0, 0.0, 1.0, 1.0]
    # trapezia: .125 + .125 + .125 + .25
    assert found.apgr == pytest.approx(0.625)
    assert found.cpt(0.5) == pytest.approx(0.125)
    assert found.cpt(1.0) == pytest.approx(0.25)


def test_equal_scores_give_the_expectation_over_their_orders() -> None:
    assert curve(OUTCOMES, np.zeros(4)).apgr == pytest.approx(0.5)
    # b and c tie (together 0), then d and a tie (together +1)
    tied = curve(OUTCOMES, np.array([0.1, 0.9, 0.9, 0.1]))
    assert tied.strong.tolist() == [0.0, 0.5, 1.0]
    assert tied.pgr.tolist() == [0.0, 0.0, 1.0]
    assert (tied.apgr, tied.cpt(0.5)) == (pytest.approx(0.25), pytest.approx(0.75))


def test_lots_recover_what_they_cost_and_an_oracle_more_than_all() -> None:
    assert (random_curve().apgr, random_curve().cpt(0.8)) == (0.5, pytest.approx(0.8))
    # b and d at once, then a, then c
    best = oracle_curve(OUTCOMES)
    assert best.strong.tolist() == [0.0, 0.5, 0.75, 1.0]
    assert best.pgr.tolist() == [0.0, 2.0, 2.0, 1.0]
    assert best.cpt(0.5) == pytest.approx(0.125)


def test_no_order_of_scores_beats_the_oracle() -> None:
    draw = np.random.default_rng(3)
    weak, strong = draw.random(200) < 0.5, draw.random(200) < 0.8
    outcomes = Outcomes.of(weak.tolist(), strong.tolist())
    best = oracle_curve(outcomes).apgr
    assert all(curve(outcomes, draw.random(200)).apgr < best for _ in range(50))


def test_a_gain_has_an_interval_around_it_that_shrinks_to_nothing_against_itself() -> None:
    draw = np.random.default_rng(5)
    weak, strong = draw.random(400) < 0.5, draw.random(400) < 0.9
    outcomes = Outcomes.of(weak.tolist(), strong.tolist())
    noise = draw.random(400)
    knows = outcomes.gain + 0.5 * draw.random(400)
    gain = apgr_gain(outcomes, knows, noise, resamples=200)
    assert 0 < gain.low < gain.value < gain.high
    assert gain == apgr_gain(outcomes, knows, noise, resamples=200), "seeded"
    itself = apgr_gain(outcomes, noise, noise, resamples=50)
    assert (itself.low, itself.value, itself.high) == (0, 0, 0)


def test_without_a_gap_there_is_nothing_to_recover() -> None:
    with pytest.raises(ValueError, match="more often than the weak one"):
        Outcomes.of(STRONG, WEAK)
    with pytest.raises(ValueError, match="one shape"):
        Outcomes.of(WEAK, STRONG[:3])
    with pytest.raises(ValueError, match="at least one"):
        Outcomes.of((), ())
    with pytest.raises(ValueError, match=r"write 0\.5 for 50%"):
        curve(OUTCOMES, np.zeros(4)).cpt(50)
