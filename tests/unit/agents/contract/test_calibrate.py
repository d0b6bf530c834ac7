import math

import numpy as np
import pytest

from shoal.agents.contract.calibrate import (
    NEVER,
    calibrate,
    coverage_at_risk,
    fewest_calls,
    upper_bound,
)


def _world(rng: np.random.Generator, count: int, risk: float, power: float) -> tuple[list[float], list[bool]]:
    """Confidence 1 - u; an answer at u is wrong with chance risk * (power + 1) * u ** power."""
    u = rng.random(count)
    wrong = rng.random(count) < np.minimum(1.0, risk * (power + 1) * u**power)
    return (1 - u).tolist(), wrong.tolist()


def test_fifty_nine_right_answers_are_the_fewest_that_show_five_per_cent() -> None:
    assert fewest_calls(0.05, 0.05) == 59
    assert upper_bound(0, 59, 0.05) <= 0.05 < upper_bound(0, 58, 0.05)


def test_the_upper_bound_is_clopper_pearson() -> None:
    # 3 wrong of 100: the classic one-sided 95% bound
    assert upper_bound(3, 100, 0.05) == pytest.approx(0.0757, abs=1e-4)
    assert upper_bound(0, 0, 0.05) == 1.0
    assert upper_bound(7, 7, 0.05) == 1.0


def test_all_right_answers_are_all_let_through() -> None:
    confidences = np.linspace(0.3, 1.0, 200).tolist()
    found = calibrate(confidences, [False] * 200, 0.05, 0.05)
    assert found.feasible
    # a little below the least sure of them: it lets through the same calls
    assert 0.2 < found.threshold <= 0.3
    assert (found.coverage, found.risk) == (1.0, 0.0)
    assert found.upper_bound <= 0.05


def test_wrong_answers_of_low_confidence_are_kept_out() -> None:
    confidences = np.linspace(0.0, 1.0, 1001).tolist()
    found = calibrate(confidences, [c < 0.3 for c in confidences], 0.05, 0.05)
    assert found.feasible
    # at 0.27 some four per cent of those let through are wrong
    assert 0.25 < found.threshold < 0.32
    assert found.risk <= found.upper_bound <= 0.05


def test_too_few_calls_are_infeasible_and_the_reason_says_how_many_it_takes() -> None:
    found = calibrate([0.9] * 58, [False] * 58, 0.05, 0.05)
    assert not found.feasible
    assert found.threshold == NEVER
    assert "58" in found.reason and "59" in found.reason


def test_a_specialist_that_guesses_is_infeasible() -> None:
    rng = np.random.default_rng(1)
    found = calibrate(rng.random(500).tolist(), (rng.random(500) < 0.5).tolist(), 0.05, 0.05)
    assert not found.feasible
    assert found.coverage == 0.0
    assert "5.0%" in found.reason


def test_confidence_zero_is_never_let_through() -> None:
    found = calibrate([0.0] * 100 + [0.8] * 100, [False] * 200, 0.05, 0.05)
    assert 0.5 < found.threshold <= 0.8
    assert found.coverage == 0.5


def test_testing_stops_at_the_first_threshold_that_is_not_rejected() -> None:
    # the second hundred is bad, the third good: going on would look fine and prove nothing
    confidences = np.linspace(1.0, 0.01, 600).tolist()
    wrong = [100 <= i < 130 for i in range(600)]
    found = calibrate(confidences, wrong, 0.05, 0.05)
    assert found.coverage * 600 < 130
    assert found.curve[-1].upper_bound > 0.05


def test_equal_confidences_are_let_through_together() -> None:
    found = calibrate([0.7] * 150, [True] + [False] * 149, 0.05, 0.05)
    assert 0.5 < found.threshold <= 0.7
    assert found.coverage == 1.0


@pytest.mark.parametrize(("risk", "power", "count"), [(0.1, 4.0, 400), (0.06, 4.0, 200), (0.2, 2.0, 400)])
def test_the_contract_is_broken_no_more_often_than_delta(risk: float, power: float, count: int) -> None:
    rng = np.random.default_rng(7)
    broken = 0
    trials = 400
    for _ in range(trials):
        found = calibrate(*_world(rng, count, risk, power), 0.05, 0.05)
        if found.feasible:
            # true share wrong among those let through is risk * t ** power
            broken += risk * (1 - found.threshold) ** power > 0.05
    # 0.05 plus three standard errors
    assert broken / trials <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / trials)


def test_a_tighter_delta_never_lowers_the_threshold() -> None:
    confidences, wrong = _world(np.random.default_rng(3), 1000, 0.1, 4.0)
    thresholds = [calibrate(confidences, wrong, 0.05, delta).threshold for delta in (0.2, 0.05, 0.01)]
    assert thresholds == sorted(thresholds)


def test_given_thresholds_are_tested_in_their_order() -> None:
    confidences = np.linspace(0.01, 1.0, 300).tolist()
    found = calibrate(confidences, [False] * 300, 0.05, 0.05, thresholds=[0.7, 0.5])
    assert [p.threshold for p in found.curve] == [0.7, 0.5]
    assert found.coverage == pytest.approx(0.51, abs=0.01)


@pytest.mark.parametrize(("alpha", "delta"), [(0.0, 0.05), (5.0, 0.05), (0.05, 1.0)])
def test_alpha_and_delta_must_lie_between_zero_and_one(alpha: float, delta: float) -> None:
    with pytest.raises(ValueError, match=r"must lie in \(0, 1\)"):
        calibrate([0.5], [False], alpha, delta)


def test_every_confidence_needs_its_verdict() -> None:
    with pytest.raises(ValueError, match="got 2 and 1"):
        calibrate([0.5, 0.6], [False], 0.05, 0.05)


def test_a_threshold_lies_just_above_the_surest_call_that_it_keeps_out() -> None:
    confidences = [0.9] * 200 + [0.4] * 200
    found = calibrate(confidences, [False] * 200 + [True] * 200, 0.05, 0.05)
    assert found.coverage == 0.5
    # calls of confidence 0.41 were never kept out, and none of them was seen to be wrong
    assert 0.4 < found.threshold < 0.4 + 1e-9


def test_a_confidence_that_is_no_number_is_never_let_through() -> None:
    found = calibrate([math.nan] * 100 + [0.8] * 100, [False] * 200, 0.05, 0.05)
    assert found.coverage == 0.5 and found.threshold > 0


def test_calls_that_are_wrong_together_prove_less() -> None:
    wrong = [i // 5 % 40 == 0 for i in range(600)]
    confidences = np.random.default_rng(5).random(600).tolist()
    groups = [i // 5 for i in range(600)]
    alone = calibrate(confidences, wrong, 0.05, 0.05, start_share=1.0)
    together = calibrate(confidences, wrong, 0.05, 0.05, start_share=1.0, groups=groups)
    assert together.correlation == pytest.approx(1.0, abs=0.02) and alone.correlation == 0.0
    wrong_groups = sum(wrong) / 5
    assert together.curve[-1].upper_bound == pytest.approx(upper_bound(wrong_groups, 120, 0.05), rel=0.05)
    assert together.curve[-1].upper_bound > alone.curve[-1].upper_bound


def test_groups_of_single_calls_change_nothing() -> None:
    confidences, wrong = _world(np.random.default_rng(3), 500, 0.1, 4.0)
    alone = calibrate(confidences, wrong, 0.05, 0.05)
    assert calibrate(confidences, wrong, 0.05, 0.05, groups=[f"c{i}" for i in range(500)]) == alone


def test_calls_of_a_conversation_that_are_right_or_wrong_together_prove_less() -> None:
    # of 20 conversations of ten calls one is wrong as a whole, or ten calls of ten conversations are
    groups = [i // 10 for i in range(200)]
    together = calibrate([0.9] * 200, [g == 0 for g in groups], 0.12, 0.05, groups=groups)
    apart = calibrate([0.9] * 200, [i % 10 == 0 and i < 100 for i in range(200)], 0.12, 0.05, groups=groups)
    assert not together.feasible
    assert apart.feasible


def test_conversations_keep_the_contract_where_counting_calls_would_break_it() -> None:
    rng = np.random.default_rng(11)
    broken = {"calls": 0, "conversations": 0}
    for _ in range(300):
        # just above alpha at every threshold, so whatever is found breaks the contract
        wrong = np.repeat(rng.random(150) < 0.0505, 4)
        confidences, groups = rng.random(600).tolist(), np.repeat(np.arange(150), 4).tolist()
        broken["calls"] += calibrate(confidences, wrong.tolist(), 0.05, 0.05).feasible
        found = calibrate(confidences, wrong.tolist(), 0.05, 0.05, groups=groups)
        broken["conversations"] += found.feasible
    # 15 of 300 are delta
    assert broken["calls"] >= 30 >= broken["conversations"] + 6


def test_every_call_needs_its_group() -> None:
    with pytest.raises(ValueError, match="got 1 for 2"):
        calibrate([0.5, 0.6], [False, True], 0.05, 0.05, groups=["a"])


def test_the_result_is_plain_data() -> None:
    plain = calibrate([0.9] * 100, [False] * 100, 0.05, 0.05).to_dict()
    assert plain["feasible"] is True
    assert plain["curve"] == [[0.9, 1.0, 0.0, pytest.approx(0.0295, abs=1e-4)]]


def test_coverage_at_risk_is_the_largest_share_within_alpha() -> None:
    assert coverage_at_risk([0.9, 0.8, 0.7, 0.6], [False, False, True, True], 0.0) == 0.5
    assert coverage_at_risk([0.9, 0.8, 0.7, 0.6], [False, False, True, True], 0.4) == 0.75
    assert coverage_at_risk([], [], 0.1) == 0.0


def test_steps_are_as_wide_as_it_takes_to_bear_one_wrong_answer_more() -> None:
    found = calibrate(np.linspace(0.01, 1.0, 200).tolist(), [False] * 200, 0.05, 0.05)
    answered = [p.answered for p in found.curve]
    assert answered == [93, 124, 153, 181, 200]
    for wrong, calls in enumerate(answered[:-1], start=1):
        assert upper_bound(wrong, calls, 0.05) <= 0.05 < upper_bound(wrong, calls - 1, 0.05)


def test_a_lower_start_finds_a_small_share_that_can_be_answered() -> None:
    confidences = np.linspace(1.0, 0.001, 1000).tolist()
    wrong = [i >= 250 and i % 2 == 0 for i in range(1000)]
    assert not calibrate(confidences, wrong, 0.05, 0.05).feasible
    found = calibrate(confidences, wrong, 0.05, 0.05, start_share=0.1)
    assert 0.2 < found.coverage < 0.3
