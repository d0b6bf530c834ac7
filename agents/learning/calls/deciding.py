"""Whether a function is to be called, and which: features of the conversation and of the arguments that a call would have. Pure.

The first candidates are the texts that are answered where nothing is called; the others are the request's functions, in its order.
The first text's score is nought.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from shoal.agents.learning.calls.choices import ABSENT, Choice
from shoal.agents.learning.calls.places import Sight
from shoal.agents.learning.calls.ranker import Ints, Options, hashed, mixed
from shoal.agents.learning.calls.schema import FunctionSpec

#: an argument is lacking where leaving it out is likelier than this
_LACKING = 0.5
#: words of either side's newest turns, and values of a result, that are looked at
_WORDS = 80
_LEAVES = 40


@dataclass(frozen=True, slots=True)
class Filled:
    """One argument as the ranker fills it. `share`: the ranker's probability; `lacking`: that of leaving it out."""

    choice: Choice
    best: int
    share: float
    lacking: float

    @property
    def value(self) -> Any:
        return self.choice.values[self.best]

    @property
    def given(self) -> bool:
        return self.value is not ABSENT

    @property
    def newest(self) -> int:
        return self.choice.newest[self.best]


def call_options(
    texts: Sequence[str], functions: Sequence[FunctionSpec], filled: Sequence[Sequence[Filled]], sight: Sight
) -> Options:
    """The choice between each text and each function."""
    said = _said(sight)
    base = np.array([hashed(name) for name in said], dtype=np.uint32)
    features: list[Ints] = [np.zeros(0, np.uint32)]
    features += [mixed(base, hashed(f"text {text}")) for text in texts[1:]]
    for function, own in zip(functions, filled, strict=True):
        of_call = _of_call(function, own, sight)
        of_call += [f"{a}&{b}" for a in of_call[:3] for b in said[:6]]
        joined = np.concatenate([base, np.array([hashed(name) for name in of_call], dtype=np.uint32)])
        features.append(
            np.concatenate([mixed(joined, hashed("call")), mixed(joined, hashed(f"call {function.name}"))])
        )
    return Options.of(features)


def _said(sight: Sight) -> list[str]:
    """What the last turns say; the first few stand for the whole in pairs with other features."""
    turns = sight.read.conversation.turns
    tokens = sight.read.tokens
    if not turns:
        return ["empty"]
    last = len(turns) - 1
    previous = next((n for n in range(last - 1, -1, -1) if turns[n].role == "assistant"), -1)
    earlier_user = next((n for n in range(last - 1, -1, -1) if turns[n].role == "user"), -1)
    low = [t.low for t in tokens[last]]
    asked = sight.asked(last)
    question = bool(previous >= 0 and tokens[previous] and tokens[previous][-1].text == "?")
    names = [
        f"last={turns[last].role}",
        f"first word={low[0] if low else ''}",
        f"question={question}",
        f"length={min(4, len(low).bit_length())}",
        f"own question={bool(low) and low[-1] == '?'}",
        f"{turns[last].role} after {turns[last - 1].role if last else ''} {turns[last - 1].text if last and turns[last - 1].role == 'call' else ''}",
        f"turns={min(8, len(turns))}",
        "bias",
    ]
    names += _grams("u", low, 3)
    names += [f"asked={w}" for w in asked]
    if previous >= 0:
        names += _grams("a", [t.low for t in tokens[previous]][-30:], 2)
        names.append(f"a0={' '.join(t.low for t in tokens[previous][:2])}&u0={' '.join(low[:1])}")
    if earlier_user >= 0:
        names += _grams("v", [t.low for t in tokens[earlier_user]], 2)
    for role, name in (("user", "ever"), ("assistant", "heard")):
        names += [f"{name}={word}" for word in _newest_words(sight, role)]
    calls = [turn.text for turn in turns if turn.role == "call"]
    names += [f"called={name}" for name in sorted(set(calls))]
    names += [f"calls={min(6, len(calls))}", f"call-1={calls[-1] if calls else ''}"]
    names.append(f"call-21={' '.join(calls[-2:])}")
    if turns[last].role == "tool":
        names += sorted({f"result={leaf.key}" for leaf in turns[last].leaves})
        names += [
            f"result={leaf.key}={leaf.value}" for leaf in turns[last].leaves[:40] if len(str(leaf.value)) < 20
        ]
    return names


def _newest_words(sight: Sight, role: str) -> list[str]:
    """Words of the newest turns of a role; only so many, or a long history would outweigh the last turn."""
    out: set[str] = set()
    for turn, tokens in zip(
        reversed(sight.read.conversation.turns), reversed(sight.read.tokens), strict=True
    ):
        if turn.role == role:
            out.update(t.low for t in tokens[: _WORDS - len(out)])
        if len(out) >= _WORDS:
            break
    return sorted(out)


def _grams(name: str, low: Sequence[str], longest: int) -> list[str]:
    out = set()
    padded = ["<s>", *low, "</s>"]
    for n in range(len(padded)):
        for end in range(n + 1, min(len(padded), n + longest) + 1):
            out.add(f"{name}={' '.join(padded[n:end])}")
    return sorted(out)


def _of_call(function: FunctionSpec, filled: Sequence[Filled], sight: Sight) -> list[str]:
    last = sight.read.conversation.newest("user")
    needed = [one for one in filled if one.choice.arg.required]
    lacking = sum(one.lacking > _LACKING for one in needed)
    new = [one for one in filled if one.given and one.newest == last]
    first_said = [one for one in new if one.newest == last and not _said_before(one, sight, last)]
    earlier = sum(one.given and 0 <= one.newest < last for one in needed)
    worst = max((one.lacking for one in needed), default=0.0)
    names = [
        f"lacking={min(3, lacking)}",
        f"lacking={min(3, lacking)} new={min(2, len(new))} first={min(2, len(first_said))}",
        f"new needed={min(2, sum(o.choice.arg.required for o in first_said))} optional={min(2, sum(not o.choice.arg.required for o in first_said))}",
        f"worst={int(5 * worst)}",
        f"earlier={earlier >= len(needed)}",
        f"sure={int(5 * float(np.prod([one.share for one in filled]))) if filled else 5}",
        f"function={function.name}",
        f"signature={function.signature}",
    ]
    names += [f"lacks {one.choice.arg.name}" for one in needed if one.lacking > _LACKING]
    names += [f"new {one.choice.arg.name}" for one in new]
    names += [f"first {one.choice.arg.name}" for one in first_said]
    names += [f"has {one.choice.arg.name}" for one in filled if one.given and not one.choice.arg.required]
    repeated = _repeats(function, filled, sight)
    names.append(f"repeats={repeated}")
    return names


def _said_before(one: Filled, sight: Sight, last: int) -> bool:
    """Whether the value was known before the last user turn, as far as its words show it."""
    text = str(one.value)
    words = tuple(text.lower().split())
    return any(turn < last for turn, _ in sight.read.places(words))


def _repeats(function: FunctionSpec, filled: Sequence[Filled], sight: Sight) -> str:
    """Whether the same function was called before, with the same arguments even."""
    own = {one.choice.arg.name: one.value for one in filled if one.given}
    calls = [t for t in sight.read.conversation.turns if t.role == "call" and t.text == function.name]
    if not calls:
        return "never"
    return "same" if any(call.value == own for call in calls) else "other"
