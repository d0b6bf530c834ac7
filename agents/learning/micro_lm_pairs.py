"""Which pairs of prompt and answer a small language model learns from, with slots in place of values.

Pure; knows nothing of tokens or models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from shoal.agents.learning.delex import Neighbours, delexicalise, learn_neighbours, missing, relexicalise
from shoal.agents.learning.forms import digit_groups, tidy
from shoal.agents.learning.slots import Prompt, Ref, Slot, SlotRules, numbers_of
from shoal.agents.learning.training import Example

#: shares of the pairs that are enough to leave all others out, see `faithful`
HEEDING_SHARE = 0.35
WHOLE_SHARE = 0.25


@dataclass(frozen=True, slots=True)
class Pair:
    """One training pair: the prompt, its slots, and the answer with slots in place of values."""

    prompt: Prompt
    slots: Sequence[Slot]
    answer: Sequence[str | Ref]


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
