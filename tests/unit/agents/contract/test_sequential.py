from __future__ import annotations

import random

import pytest

from shoal.agents.contract.sequential import (
    Block,
    RiskTest,
    Wager,
    bet_shares,
    feedback_e_value,
    kept_back,
    risk_factors,
    shows_contract,
)

ALPHA = DELTA = 0.05


def watched(wrong: list[bool], wager: Wager | None = None) -> Wager:
    wager = wager or Wager()
    for flag in wrong:
        wager = wager.after(risk_factors(ALPHA, flag))
    return wager


def first_alarm(wrong: list[bool]) -> int | None:
    wager = Wager()
    for place, flag in enumerate(wrong, start=1):
        wager = wager.after(risk_factors(ALPHA, flag))
        if RiskTest(audits=wager).breaks(DELTA):
            return place
    return None


def drawn(rng: random.Random, risk: float, count: int) -> list[bool]:
    return [rng.random() < risk for _ in range(count)]


@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.3])
def test_every_bet_is_fair_where_the_risk_is_alpha_and_loses_below(alpha: float) -> None:
    wrong, right = risk_factors(alpha, True), risk_factors(alpha, False)
    for up, down in zip(wrong, right, strict=True):
        assert alpha * up + (1 - alpha) * down == pytest.approx(1)
        assert 0.5 * alpha * up + (1 - 0.5 * alpha) * down < 1
    assert all(alpha < share < 1 for share in bet_shares(alpha))


def test_the_whole_capital_is_a_martingale_also_with_what_is_laid_anew() -> None:
    wager = watched([False, True, False, False, True, False])
    wrong = wager.after(risk_factors(ALPHA, True)).e_value
    right = wager.after(risk_factors(ALPHA, False)).e_value
    assert ALPHA * wrong + (1 - ALPHA) * right == pytest.approx(wager.e_value)
    assert Wager().e_value == 1


def test_all_capital_is_laid_in_the_end_and_none_twice() -> None:
    assert kept_back(1) == 1
    assert all(kept_back(k) > kept_back(k + 1) > 0 for k in range(1, 1000))


def test_a_version_that_keeps_its_contract_is_called_broken_no_more_often_than_the_level() -> None:
    rng = random.Random(1)
    alarms = sum(first_alarm(drawn(rng, ALPHA, 500)) is not None for _ in range(200))
    assert alarms <= 200 * DELTA + 6  # two standard errors


def test_a_long_good_run_does_not_hide_that_a_version_went_bad() -> None:
    rng = random.Random(2)
    for calm in (0, 500, 5000):
        at = first_alarm([*drawn(rng, 0.01, calm), *drawn(rng, 0.5, 100)])
        assert at is not None and 0 < at - calm <= 40


def test_a_state_that_was_written_and_read_goes_on_as_if_nothing_had_happened() -> None:
    rng = random.Random(3)
    flags = drawn(rng, 0.1, 60)
    half = Wager.from_dict(watched(flags[:30]).to_dict())
    assert watched(flags[30:], half) == watched(flags)
    assert Wager.from_dict(None) == Wager()


def test_capital_stays_finite_where_all_is_wrong_for_ever() -> None:
    wager = watched([True] * 5000)
    assert RiskTest(audits=wager).breaks(DELTA)
    assert wager.e_value < float("inf")


def test_silence_is_no_evidence_and_contradictions_are_set_against_all_answers_given() -> None:
    assert feedback_e_value([], ALPHA) == 1
    assert feedback_e_value([Block(1000, 0)], ALPHA) < 1
    # twenty contradictions are much in a hundred answers, and little in a thousand
    assert RiskTest(feedback=feedback_e_value([Block(100, 20)], ALPHA)).breaks(DELTA)
    assert not RiskTest(feedback=feedback_e_value([Block(1000, 20)], ALPHA)).breaks(DELTA)


def test_contradictions_after_many_quiet_blocks_still_count() -> None:
    assert RiskTest(feedback=feedback_e_value([*[Block(1000, 0)] * 50, Block(200, 60)], ALPHA)).breaks(DELTA)


def test_more_contradictions_never_lower_the_feedbacks_capital() -> None:
    blocks = [Block(50, 0), Block(30, 2), Block(80, 1)]
    for place in range(3):
        more = list(blocks)
        more[place] = Block(blocks[place].given, blocks[place].contradicted + 1)
        assert feedback_e_value(more, ALPHA) > feedback_e_value(blocks, ALPHA)
    assert feedback_e_value([Block(3, 9)], ALPHA) == feedback_e_value([Block(3, 3)], ALPHA)


def test_feedback_that_names_every_wrong_answer_takes_no_good_version_back() -> None:
    rng = random.Random(4)
    alarms = 0
    for _ in range(200):
        blocks: list[Block] = []
        for _ in range(10):
            blocks.append(Block(50, sum(drawn(rng, ALPHA, 50))))
            if RiskTest(feedback=feedback_e_value(blocks, ALPHA)).breaks(DELTA):
                alarms += 1
                break
    assert alarms <= 200 * DELTA + 6


def test_audits_and_feedback_are_one_test_and_neither_alone_can_be_outvoted() -> None:
    bad = watched([True] * 10)
    assert RiskTest(audits=bad, feedback=0.0).breaks(DELTA)
    assert RiskTest(audits=watched([False] * 500), feedback=200.0).breaks(DELTA)
    both = RiskTest(audits=Wager(1, (30.0,) * 5), feedback=10.0)
    assert both.e_value == pytest.approx(0.8 * both.audits.e_value + 2.0)


def test_proof_that_a_contract_is_kept_is_rare_where_it_is_not() -> None:
    rng = random.Random(5)

    def shown(risk: float) -> int:
        count = 0
        for _ in range(100):
            wrong = 0
            for n, flag in enumerate(drawn(rng, risk, 600), start=1):
                wrong += flag
                if shows_contract(wrong, n - wrong, ALPHA, DELTA):
                    count += 1
                    break
        return count

    assert shown(0.05) <= 10
    assert shown(0.01) >= 95


def test_an_alpha_that_is_none_is_refused_with_what_to_write() -> None:
    with pytest.raises(ValueError, match=r"write 0\.05"):
        bet_shares(5)
