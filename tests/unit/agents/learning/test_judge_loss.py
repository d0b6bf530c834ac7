"""A judge model as a task's loss. Fakes answer; nothing goes over a network."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import nullcontext

import pytest

from shoal.agents.contract.gate import HeldOut
from shoal.agents.fakes import FunctionGeneralist
from shoal.agents.learning.judge_loss import judge_pair, judged_by
from shoal.agents.learning.second_opinions import Adviser
from shoal.agents.learning.training import Example
from shoal.agents.ports import SpecialistAnswer
from shoal.agents.traces.chat import ChatRequest
from shoal.errors import GeneralistUnavailable

REQUEST = ChatRequest(body={"messages": [{"role": "user", "content": "Greet."}]})


def prefers(better: str) -> Callable[[ChatRequest], str]:
    return lambda request: "A" if better in request.last_user_text.split("Answer B:")[0] else "B"


@pytest.mark.parametrize(
    ("says", "wrong"),
    [(prefers("theirs"), True), (prefers("mine"), False), (lambda r: "A", False), (lambda r: "T", False)],
)
def test_a_text_is_wrong_where_the_generalists_is_preferred_in_both_orders(
    says: Callable[[ChatRequest], str], wrong: bool
) -> None:
    fake = FunctionGeneralist(says)
    verdict = asyncio.run(judge_pair(fake, REQUEST, "mine", "theirs"))
    assert verdict.defined and verdict.wrong is wrong and len(fake.requests) == 2


def test_the_same_text_is_right_without_asking() -> None:
    fake = FunctionGeneralist(prefers("theirs"))
    assert not asyncio.run(judge_pair(fake, REQUEST, "Good  day", "good day")).wrong
    assert fake.requests == []


def test_a_judge_that_is_away_proves_nothing() -> None:
    fake = FunctionGeneralist(lambda r: "T")
    fake.error = GeneralistUnavailable("gone", remedy="")
    assert not asyncio.run(judge_pair(fake, REQUEST, "mine", "theirs")).defined
    who = Adviser(open=lambda: nullcontext(fake), calls=10)
    example = Example(id="e", request=REQUEST, content="theirs", group="e")
    answer = SpecialistAnswer(content="mine", confidence=0.9)
    (held,) = judged_by(who, [example], [answer], [HeldOut(confidence=0.9, wrong=False)])
    assert held.wrong


def test_calls_and_missing_answers_keep_their_verdict() -> None:
    fake = FunctionGeneralist(lambda r: "T")
    who = Adviser(open=lambda: nullcontext(fake), calls=10)
    call = {"type": "function", "function": {"name": "find", "arguments": "{}"}}
    examples = [
        Example(id="a", request=REQUEST, content="theirs", group="a"),
        Example(id="b", request=REQUEST, content="find", group="b", tool_calls=(call,)),
        Example(id="c", request=REQUEST, content="theirs", group="c"),
    ]
    answers = [
        SpecialistAnswer(content=None, confidence=0.0),
        SpecialistAnswer(content="mine", confidence=0.9),
        SpecialistAnswer(content="mine", confidence=0.9),
    ]
    held = judged_by(who, examples, answers, [HeldOut(confidence=0.9, wrong=True)] * 3)
    assert [h.wrong for h in held] == [True, True, False]
    assert len(fake.requests) == 2
