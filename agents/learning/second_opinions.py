"""What others say of held-out calls: the generalist asked again, and a judge model that compares two texts.

Both cost calls of a large model, so both happen only where the owner asks for them. What is sent is the scrubbed prompt, and
nothing of a task that has `local-only` calls unless whoever is asked runs on this machine. Knows no kind of specialist and no HTTP.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias, TypeVar

from shoal.agents.contract.break_even import Price
from shoal.agents.contract.figures import share
from shoal.agents.contract.gate import HeldOut
from shoal.agents.contract.loss import SlotChecker, canonical_tool_calls, judge
from shoal.agents.learning.training import Example
from shoal.agents.ports import Generalist
from shoal.agents.registry.records import OutputKind
from shoal.agents.traces.chat import Answer, ChatRequest, Usage, text_of
from shoal.agents.traces.tokens import usage_of
from shoal.errors import ShoalError

Choice: TypeAlias = Literal["first", "second", "tie"]
#: opens a connection to a model for as long as the context lasts
Opener: TypeAlias = Callable[[], AbstractAsyncContextManager[Generalist]]

#: takes the tokens of each call that was answered
Used: TypeAlias = Callable[[Sequence[Usage]], None]

_AT_ONCE = 4
_DEADLINE_S = 120.0
_MOST_CHARS = 6000
_NOT_SENT = ("metadata", "stream", "stream_options", "user", "store")

_T = TypeVar("_T")
_U = TypeVar("_U")

_INSTRUCTIONS = (
    "You compare two answers to the same request. Judge which one serves the request better: whether it is right, complete and "
    "free of anything made up; then how it reads. Length alone is no merit. Answer with one letter and nothing else: A if the "
    "first is better, B if the second is better, T if neither is."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Adviser:
    """Somebody to ask.

    Attributes:
        calls: for how many held-out calls of a task.
        local: it may see `local-only` data.
        price: of its tokens; None where it is not known.
    """

    open: Opener
    calls: int
    local: bool = False
    price: Price | None = None

    def may_see(self, private: bool) -> bool:
        return self.local or not private


@dataclass(frozen=True, slots=True, kw_only=True)
class SecondOpinions:
    """Whom a learning run may ask; None for nobody.

    Attributes:
        again: the generalist itself.
        judge: another model, that compares texts for the owner to see.
        loss: the same, for tasks whose loss it is; `calls` to choose by, and as many to calibrate.
    """

    again: Adviser | None = None
    judge: Adviser | None = None
    loss: Adviser | None = None


def ask_again(
    adviser: Adviser,
    loss: OutputKind,
    examples: Sequence[Example],
    held_out: Sequence[HeldOut],
    *,
    calling: frozenset[str],
    slots: SlotChecker | None = None,
    used: Used = lambda usages: None,
) -> list[HeldOut]:
    """Put the first held-out prompts to the generalist once more; returns the verdicts with `again_wrong` set on those.

    A second answer is judged by the first, as a specialist's is. A call that fails is left out.

    Args:
        used: takes what the answers took.
    """
    asked = list(examples[: adviser.calls])
    requests = [_plain(e.request) for e in asked]
    answers = _each(adviser, requests, _ask)
    used(_usages(requests, answers))
    out = list(held_out)
    for i, (example, answer) in enumerate(zip(asked, answers, strict=True)):
        if answer is None:
            continue
        wrong = _differs(loss, example, answer, is_call=example.id in calling, slots=slots)
        out[i] = replace(out[i], again_wrong=wrong)
    return out


def _differs(
    loss: OutputKind, example: Example, answer: Answer, *, is_call: bool, slots: SlotChecker | None
) -> bool:
    if is_call or answer.tool_calls:
        return not is_call or canonical_tool_calls(answer.tool_calls) != example.content
    return judge(loss, example.request, answer.content or "", example.content, slots=slots).wrong


def prefer(
    adviser: Adviser,
    examples: Sequence[Example],
    given: Sequence[str | None],
    *,
    used: Used = lambda usages: None,
) -> dict[str, Any] | None:
    """What a judge model prefers: the specialist's texts or the generalist's.

    Each pair is put twice with the places swapped; a verdict counts only where both orders agree, anything else is a tie
    (a judge prefers a place: Zheng et al. 2023, arXiv 2306.05685, section 3.4). Returns shares of pairs with intervals, or None
    where no pair was judged.
    """
    pairs = [(e, g) for e, g in zip(examples, given, strict=True) if g][: adviser.calls]
    questions = []
    for example, said in pairs:
        questions.append(question(example.request, said, example.content))
        questions.append(question(example.request, example.content, said))
    answers = _each(adviser, questions, _ask)
    used(_usages(questions, answers))
    verdicts: list[Choice] = []
    for ahead, behind in zip(answers[::2], answers[1::2], strict=True):
        if ahead is not None and behind is not None:
            verdicts.append(agreed(read_choice(ahead.content), read_choice(behind.content)))
    if not verdicts:
        return None
    count = len(verdicts)
    return {
        "preferred": share(verdicts.count("first"), count).to_dict(),
        "tied": share(verdicts.count("tie"), count).to_dict(),
        "generalist_preferred": share(verdicts.count("second"), count).to_dict(),
    }


def question(request: ChatRequest, first: str, second: str) -> ChatRequest:
    """What the judge is asked about two answers to a request."""
    asked = "\n\n".join(f"[{m['role']}]\n{text_of(m)}" for m in request.messages if text_of(m))
    text = f"Request:\n{_cut(asked)}\n\n----\nAnswer A:\n{_cut(first)}\n\n----\nAnswer B:\n{_cut(second)}\n\n----\nA, B or T?"
    messages = [{"role": "system", "content": _INSTRUCTIONS}, {"role": "user", "content": text}]
    return ChatRequest(body={"messages": messages, "temperature": 0.0})


def read_choice(content: str | None) -> Choice:
    """The judge's letter; whatever else it says is a tie."""
    said = (content or "").strip().strip("*\"'`.:()[] \n").upper()
    return "first" if said == "A" else "second" if said == "B" else "tie"


def agreed(ahead: Choice, behind: Choice) -> Choice:
    """The verdict on a pair from both orders: `behind` was asked with the places swapped."""
    swapped: dict[Choice, Choice] = {"first": "second", "second": "first", "tie": "tie"}
    return ahead if ahead == swapped[behind] else "tie"


def _usages(requests: Sequence[ChatRequest], answers: Sequence[Answer | None]) -> list[Usage]:
    """Of those that were answered."""
    return [usage_of(r, a) for r, a in zip(requests, answers, strict=True) if a is not None]


async def _ask(model: Generalist, request: ChatRequest) -> Answer | None:
    try:
        return await model.chat(request, deadline_s=_DEADLINE_S)
    except ShoalError:
        return None


def _each(
    adviser: Adviser, requests: Sequence[_T], ask: Callable[[Generalist, _T], Awaitable[_U]]
) -> list[_U]:
    async def all_of_them() -> list[_U]:
        places = asyncio.Semaphore(_AT_ONCE)
        async with adviser.open() as model:

            async def one(request: _T) -> _U:
                async with places:
                    return await ask(model, request)

            return list(await asyncio.gather(*map(one, requests)))

    return asyncio.run(all_of_them())


def _plain(request: ChatRequest) -> ChatRequest:
    return ChatRequest(body={k: v for k, v in request.body.items() if k not in _NOT_SENT})


def _cut(text: str) -> str:
    return text if len(text) <= _MOST_CHARS else text[:_MOST_CHARS] + " [...]"
