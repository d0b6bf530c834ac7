import math
from collections.abc import Sequence
from dataclasses import replace

import pytest

from shoal.agents.contract.calibrate import calibrate
from shoal.agents.contract.gate import GateRules, HeldOut, Verdict, chrf, decide, mean, share
from shoal.agents.registry.records import OutputKind


def _held(count: int, *, wrong: int = 0, confidence: float = 0.9) -> list[HeldOut]:
    return [HeldOut(confidence=confidence, wrong=i < wrong) for i in range(count)]


def _texts(count: int, *, likeness: float, floor: float) -> list[HeldOut]:
    spread = [0.02 * (i % 5) for i in range(count)]
    return [HeldOut(confidence=0.9, wrong=False, likeness=likeness + s, floor=floor + s / 2) for s in spread]


def _decide(
    held: Sequence[HeldOut],
    *,
    calibration_calls: int = 200,
    wrong: int = 0,
    confidence: float = 0.9,
    kind: OutputKind = OutputKind.LABEL,
    loss_defined: bool = True,
) -> Verdict:
    verdicts = [i < wrong for i in range(calibration_calls)]
    calibration = calibrate([confidence] * calibration_calls, verdicts, 0.05, 0.05)
    return decide(kind, held, calibration, loss_defined=loss_defined)


def test_a_good_specialist_passes_and_every_figure_has_its_interval() -> None:
    verdict = _decide(_held(100, wrong=1))
    assert verdict.outcome == "pass"
    assert set(verdict.figures) == {"right_all", "coverage", "right_answered"}
    right = verdict.figures["right_answered"]
    assert (right.value, right.count) == (0.99, 100)
    assert right.low == pytest.approx(0.9455, abs=1e-3)
    assert right.high == pytest.approx(0.9997, abs=1e-3)
    assert "99.0%" in verdict.reason and "confidence 95%" in verdict.reason


def test_too_few_held_out_calls_are_insufficient() -> None:
    verdict = _decide(_held(GateRules().min_calls - 1))
    assert verdict.outcome == "insufficient"
    assert "Only 19 held-out calls" in verdict.reason


def test_too_few_calibration_calls_are_insufficient_and_not_a_failure() -> None:
    verdict = _decide(_held(100), calibration_calls=40)
    assert verdict.outcome == "insufficient"
    assert "Only 40 calibration calls; it takes 59" in verdict.reason


def test_a_contract_that_cannot_be_shown_fails() -> None:
    verdict = _decide(_held(100, wrong=30), wrong=60)
    assert verdict.outcome == "fail"
    assert "At no threshold" in verdict.reason
    assert "70.0%" in verdict.reason


def test_a_specialist_that_is_sure_of_too_little_fails() -> None:
    held = _held(10) + _held(90, confidence=0.1)
    verdict = _decide(held)
    assert verdict.outcome == "fail"
    assert "too few calls: 10.0%" in verdict.reason


def test_held_out_calls_that_contradict_the_calibration_fail_it() -> None:
    verdict = _decide(_held(100, wrong=25))
    assert verdict.outcome == "fail"
    assert "only 75.0%" in verdict.reason


def test_texts_less_like_the_generalists_than_the_nearest_logged_answer_fail() -> None:
    verdict = _decide(_texts(100, likeness=0.3, floor=0.5), kind=OutputKind.TEXT)
    assert verdict.outcome == "fail"
    assert "less like the generalist's" in verdict.reason


def test_texts_as_like_as_the_floor_pass() -> None:
    verdict = _decide(_texts(100, likeness=0.5, floor=0.5), kind=OutputKind.TEXT)
    assert verdict.outcome == "pass"
    assert verdict.figures["above_floor"].count == 100


def test_without_a_loss_nothing_passes() -> None:
    verdict = _decide(_held(100), kind=OutputKind.TEXT, loss_defined=False)
    assert verdict.outcome == "fail"
    assert "No way is known" in verdict.reason


def test_a_verdict_is_plain_data() -> None:
    plain = _decide(_held(100)).to_dict()
    assert plain["outcome"] == "pass"
    assert plain["figures"]["coverage"] == {
        "value": 1.0,
        "low": pytest.approx(0.9638, abs=1e-3),
        "high": 1.0,
        "count": 100,
    }


@pytest.mark.parametrize(
    ("hits", "count", "low", "high"), [(0, 0, 0, 1), (0, 10, 0, 0.3085), (10, 10, 0.6915, 1)]
)
def test_shares_have_exact_intervals_also_at_the_ends(hits: int, count: int, low: float, high: float) -> None:
    figure = share(hits, count)
    assert (figure.low, figure.high) == (pytest.approx(low, abs=1e-3), pytest.approx(high, abs=1e-3))


def test_a_mean_of_one_value_says_nothing_about_its_spread() -> None:
    assert mean([0.4]).low == -math.inf
    assert mean([]).count == 0
    assert mean([0.0, 1.0]).value == 0.5


def test_chrf_is_one_for_equal_texts_and_falls_with_their_difference() -> None:
    text = "Revenue in EMEA grew 12%."
    assert chrf(text, text) == 1.0
    near, far = chrf("Revenue in EMEA rose 12%.", text), chrf("Sales fell.", text)
    assert 1.0 > near > 0.6 > far
    assert chrf("", text) == 0.0
    assert chrf("", "") == 1.0


def _beside_floor(count: int, *, mine: int, floor: int) -> list[HeldOut]:
    """The first `mine` calls only the specialist gets right, the next `floor` only the look-up, the rest both."""
    return [
        HeldOut(confidence=0.9, wrong=mine <= i < mine + floor, floor_wrong=i < mine) for i in range(count)
    ]


def test_who_is_worse_than_looking_up_the_most_similar_call_fails_on_the_same_calls() -> None:
    worse = _decide(_beside_floor(400, mine=0, floor=15))
    assert worse.outcome == "fail"
    assert "15 that only the look-up gets right against 0" in worse.reason
    assert worse.against["floor"].difference.high < 0
    assert worse.figures["floor_right"].value == 1.0


def test_a_difference_that_may_be_chance_does_not_fail_it() -> None:
    verdict = _decide(_beside_floor(400, mine=5, floor=9))
    assert verdict.outcome == "pass"
    assert (verdict.against["floor"].wins, verdict.against["floor"].losses) == (5, 9)


@pytest.mark.parametrize("wrong", [0, 60])
def test_an_alpha_below_the_generalists_own_disagreement_is_refused(wrong: int) -> None:
    held = [replace(h, again_wrong=i % 4 == 0) for i, h in enumerate(_held(100, wrong=wrong // 2))]
    verdict = _decide(held, wrong=wrong)
    assert verdict.outcome == "fail"
    assert verdict.figures["self_agreement"].value == 0.75
    assert verdict.reason.startswith("infeasible: the generalist disagrees with itself on 25.0%")
    assert "at most 5.0%" in verdict.reason


def test_a_disagreement_that_may_be_chance_refuses_nothing() -> None:
    # 4 of 40 are 10%, but as many or more are seen in 14% of samples where 5% differ
    held = [replace(h, again_wrong=i < 4) for i, h in enumerate(_held(40))]
    assert _decide(held).passed
    assert not _decide([replace(h, again_wrong=i < 6) for i, h in enumerate(held)]).passed


def test_second_answers_are_compared_with_the_specialists() -> None:
    held = [replace(h, again_wrong=i % 4 == 0) for i, h in enumerate(_held(100, wrong=30))]
    verdict = _decide(held, wrong=60)
    plain = verdict.to_dict()["against"]["generalist_again"]
    assert plain["count"] == 100 and plain["losses"] > 0
