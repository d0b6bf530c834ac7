"""What a task is for its owner: shares and suitability."""

from __future__ import annotations

from typing import Any

import pytest

from shoal.agents.registry.records import OutputKind, Task, TaskId
from shoal.agents.tasks.about import Price, shares, suitability
from shoal.agents.tasks.finder import find_tasks


def task(kind: OutputKind, calls: int = 1000, **about: Any) -> Task:
    counts = {"shapes": {str(kind): calls}, "answers": {}, "distinct": 0, "once": 0, "records": 0, **about}
    return Task(id=TaskId("t1"), name="t", output_kind=kind, calls=calls, match={"about": counts})


@pytest.mark.parametrize(
    ("given", "verdict", "why"),
    [
        (task(OutputKind.LABEL, answers={"a": 600, "b": 400}, distinct=2), "yes", "closed set of 2"),
        (task(OutputKind.LABEL, distinct=700, once=650), "perhaps", "no closed set"),
        (task(OutputKind.LABEL, calls=30, distinct=2), "no", "too few calls: 30; training takes 100"),
        (task(OutputKind.LABEL, calls=150, distinct=2), "perhaps", "59 right answers"),
        (task(OutputKind.JSON), "yes", "fields"),
        (task(OutputKind.TEXT, records=1000), "yes", "records"),
        (task(OutputKind.TEXT), "perhaps", "no loss"),
        (task(OutputKind.TOOL_CALL, answers={"pay": 900}, distinct=2), "yes", "pay is called in 90%"),
        (
            task(
                OutputKind.TOOL_CALL,
                answers={"pay": 300, "ask": 100},
                distinct=2,
                shapes={"tool_call": 400, "text": 600},
            ),
            "perhaps",
            "none in 60%",
        ),
        (
            Task(id=TaskId("t1"), name="t", output_kind=OutputKind.TEXT, calls=900),
            "perhaps",
            "not been counted",
        ),
    ],
)
def test_a_verdict_says_why(given: Task, verdict: str, why: str) -> None:
    judged = suitability(given, min_calls=100)
    assert judged.verdict == verdict
    assert why in "; ".join(judged.reasons)


def test_shares_are_of_the_whole_log_and_of_money_where_prices_are_known(log: Any) -> None:
    cheap = [log.trace("You sort complaints of a shop.", "late", "late_delivery") for _ in range(60)]
    dear = [log.trace("Write one sentence about the sales in this record.", *log.record()) for _ in range(20)]
    for traces, usage in ((cheap, (100, 1)), (dear, (100, 99))):
        for trace in traces:
            trace.response["usage"] = {"prompt_tokens": usage[0], "completion_tokens": usage[1]}
    stray = log.trace("Translate.", "x", "y")
    stray.response["usage"] = {"prompt_tokens": 0, "completion_tokens": 2000}
    tasks = {t.calls: t for t in find_tasks([*cheap, *dear, stray], known=(), seed=0, now=0.0).tasks}
    by_tokens = shares(tasks[20], None)
    assert by_tokens.calls == pytest.approx(20 / 81)
    assert by_tokens.cost == pytest.approx((2000 + 1980) / (8000 + 60 + 1980 + 2000))
    assert (by_tokens.cost_usd, by_tokens.by, by_tokens.guessed) == (None, "tokens", False)
    by_money = shares(tasks[20], Price(tokens_in=0.0, tokens_out=10.0))
    assert by_money.cost == pytest.approx(1980 / (60 + 1980 + 2000))
    assert by_money.cost_usd == pytest.approx(1980 * 10 / 1e6)
    assert len(tasks[20].match["about"]["examples"]) == 3
