"""Which pairs of prompt and answer a small language model learns from, with slots in place of values.

Pure; knows nothing of tokens or models.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from shoal.agents.learning.consensus import agreements
from shoal.agents.learning.delex import Neighbours, delexicalise, learn_neighbours, missing, relexicalise
from shoal.agents.learning.forms import digit_groups, tidy
from shoal.agents.learning.slots import Prompt, Ref, Slot, SlotRules, numbers_of
from shoal.agents.learning.training import Example

#: shares of the pairs that are enough to leave all others out, see `faithful`
HEEDING_SHARE = 0.35
WHOLE_SHARE = 0.25
#: answers to prompts that differ in their values only, from which on the usual wording is known
FEW = 4
#: how much an answer worded as usual counts more than an odd one: e to this power for each standard deviation
USUAL = 1.0
#: of that, at most so many standard deviations count
MOST_DEVIATIONS = 1.5
#: answers with which each is compared, at most
MOST_COMPARED = 32


@dataclass(frozen=True, slots=True)
class Pair:
    """One training pair: the prompt, its slots, and the answer with slots in place of values. `weight`: how much it counts."""

    prompt: Prompt
    slots: Sequence[Slot]
    answer: Sequence[str | Ref]
    weight: float = 1.0


def make_pairs(examples: Sequence[Example], rules: SlotRules, neighbours: Neighbours | None) -> list[Pair]:
    """Delexicalise the examples; several answers to one prompt are kept once each."""
    read = [(rules.prompt(example.request), tidy(example.content)) for example in examples]
    slotted = [(prompt, rules.slots(prompt), answer) for prompt, answer in read]
    if neighbours is None:
        neighbours = learn_neighbours([(answer, slots) for _, slots, answer in slotted])
    seen: set[tuple[str, str]] = set()
    pairs = []
    for prompt, slots, answer in slotted:
        if (prompt.text, answer) not in seen:
            seen.add((prompt.text, answer))
            pairs.append(Pair(prompt, slots, delexicalise(answer, slots, neighbours)))
    return pairs


def faithful(pairs: Sequence[Pair], rules: SlotRules) -> list[Pair]:
    """The pairs from which a model may learn: those whose answers lack no required value and invent no number.

    Of these the ones that heed every value that steers the wording, where they are enough. Where hardly any answer
    carries all values, those that lack one are taken too: better than nothing to learn from.
    """
    whole: list[Pair] = []
    heeding: list[Pair] = []
    lacking_one: list[Pair] = []
    for pair in pairs:
        literal = " ".join(part for part in pair.answer if isinstance(part, str))
        if not literal or set(digit_groups(literal)) - numbers_of(pair.prompt) - rules.numbers:
            continue
        lacking = len(missing(pair.answer, pair.slots))
        if lacking == 0:
            whole.append(pair)
            if not rules.unheeded(pair.prompt, relexicalise(pair.answer, pair.slots)):
                heeding.append(pair)
        elif lacking == 1:
            lacking_one.append(pair)
    if len(heeding) >= HEEDING_SHARE * len(pairs):
        return heeding
    return whole if len(whole) >= WHOLE_SHARE * len(pairs) else whole + lacking_one


def weigh(pairs: Sequence[Pair], among: Sequence[Pair]) -> list[Pair]:
    """The pairs with weights of mean 1: more for answers whose wording most of `among` share that answer such prompts.

    Of several people's answers to one prompt the odd ones teach a small model little but oddities.
    """
    groups: dict[str, list[str]] = defaultdict(list)
    for pair in among:
        groups[_kind_of_prompt(pair)].append(_worded(pair))
    members: dict[str, list[int]] = defaultdict(list)
    for index, pair in enumerate(pairs):
        members[_kind_of_prompt(pair)].append(index)
    weights = [1.0] * len(pairs)
    for kind, own in members.items():
        others = groups.get(kind, [])
        if len(others) < FEW:
            continue
        step = max(1, len(others) // MOST_COMPARED)
        some = others[::step]
        every = agreements([*(_worded(pairs[i]) for i in own), *some], some)
        usual, spread = statistics.fmean(every[len(own) :]), statistics.pstdev(every[len(own) :])
        for index, agreed in zip(own, every, strict=False):
            deviation = (agreed - usual) / max(spread, 1e-6)
            weights[index] = math.exp(USUAL * max(-MOST_DEVIATIONS, min(MOST_DEVIATIONS, deviation)))
    mean = sum(weights) / max(1, len(weights))
    return [replace(pair, weight=weight / mean) for pair, weight in zip(pairs, weights, strict=True)]


def _kind_of_prompt(pair: Pair) -> str:
    """The same for prompts that differ only in values that every answer carries."""
    carried = {id(slot.leaf): slot.name for slot in pair.slots if slot.required}
    parts = [
        part if isinstance(part, str) else f"{part.path}={carried.get(id(part), part.text)}"
        for part in pair.prompt.parts
    ]
    return "\n".join(parts)


def _worded(pair: Pair) -> str:
    """The answer with one word for each slot."""
    names = {slot.name: f"SLOT{number}" for number, slot in enumerate(pair.slots)}
    return "".join(part if isinstance(part, str) else names[part.slot] for part in pair.answer)
