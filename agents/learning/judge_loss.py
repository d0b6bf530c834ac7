"""The loss of a task whose owner names a judge model for it (`contract.tasks.<name>.loss: judge`).

A text is wrong where the judge prefers the generalist's, in both orders of the two. A tie is right: the specialist's serves as
well. The same text is right without asking, none is wrong without asking, and so is a verdict that could not be had: what is not known
to be right must not prove a contract. Functions called are compared as ever. Knows no HTTP.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace

from shoal.agents.contract.gate import HeldOut
from shoal.agents.contract.loss import Judgement, normal_label
from shoal.agents.learning.second_opinions import Adviser, Used, agreed, question, read_choice
from shoal.agents.learning.training import Example
from shoal.agents.ports import Generalist, SpecialistAnswer
from shoal.agents.traces.chat import ChatRequest
from shoal.agents.traces.tokens import usage_of
from shoal.errors import ShoalError

_AT_ONCE = 4
_DEADLINE_S = 120.0
PREFERRED = "the judge prefers the generalist's answer"
NOT_HEARD = "the judge could not be asked"


async def judge_pair(
    model: Generalist,
    request: ChatRequest,
    given: str,
    expected: str,
    *,
    clean: Callable[[ChatRequest], ChatRequest] = lambda asked: asked,
    used: Used = lambda usages: None,
) -> Judgement:
    """The judge's verdict on a specialist's text beside the generalist's; not defined where it could not be had.

    Args:
        clean: takes personal data out of what is asked, where it may hold some.
        used: takes what each answer took.
    """
    if normal_label(given) == normal_label(expected):
        return Judgement(wrong=False)
    said = []
    try:
        for first, second in ((given, expected), (expected, given)):
            asked = clean(question(request, first, second))
            answer = await model.chat(asked, deadline_s=_DEADLINE_S)
            used([usage_of(asked, answer)])
            said.append(read_choice(answer.content))
    except ShoalError:
        return Judgement(wrong=True, reasons=(NOT_HEARD,), defined=False)
    wrong = agreed(said[0], said[1]) == "second"
    return Judgement(wrong=wrong, reasons=(PREFERRED,) if wrong else ())


def judged_by(
    adviser: Adviser,
    examples: Sequence[Example],
    answers: Sequence[SpecialistAnswer],
    held_out: Sequence[HeldOut],
    *,
    used: Used = lambda usages: None,
) -> list[HeldOut]:
    """The verdicts with those on texts replaced by the judge's; the three are of the same calls.

    What another loss said of rivals' answers to those calls is left out: it cannot be set against the judge's. `used`: as of `judge_pair`.
    """
    asked = [
        i
        for i, (example, answer) in enumerate(zip(examples, answers, strict=True))
        if answer.content is not None and not answer.tool_calls and not example.tool_calls
    ]

    async def all_of_them() -> list[Judgement]:
        places = asyncio.Semaphore(_AT_ONCE)
        async with adviser.open() as model:

            async def one(i: int) -> Judgement:
                async with places:
                    said = answers[i].content or ""
                    return await judge_pair(model, examples[i].request, said, examples[i].content, used=used)

            return list(await asyncio.gather(*map(one, asked)))

    out = list(held_out)
    for i, verdict in zip(asked, asyncio.run(all_of_them()), strict=True):
        out[i] = replace(out[i], wrong=verdict.wrong, floor_wrong=None, again_wrong=None)
    return out
