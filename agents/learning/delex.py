"""Answers with slots in place of values, and back.

Owns the alignment of a prompt's values with the places where an answer writes them. Pure; knows nothing of tokens.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from shoal.agents.learning.forms import WORD, find_spans
from shoal.agents.learning.slots import Ref, Slot, forms

_BEFORE = re.compile(r"(\w+|[^\w\s])\W{0,2}$")
_AFTER = re.compile(r"^\W{0,2}(\w+|[^\w\s])")


@dataclass(slots=True)
class Neighbours:
    """Which words stand before and after each label's values, counted where there was no doubt whose value it is."""

    counts: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    totals: Counter[str] = field(default_factory=Counter)

    def add(self, label: str, before: str, after: str) -> None:
        self.totals[label] += 1
        self.counts[label, "before", before] += 1
        self.counts[label, "after", after] += 1

    def score(self, label: str, before: str, after: str) -> float:
        """Log probability of the two neighbours, smoothed: comparable between labels."""
        total = self.totals[label] + 2.0
        return sum(
            math.log((self.counts[label, side, word] + 0.1) / total)
            for side, word in (("before", before), ("after", after))
        )


@dataclass(frozen=True, slots=True)
class Place:
    """A stretch of an answer that one or more slots could have filled, each with the form it would be in."""

    start: int
    end: int
    fillers: tuple[tuple[Slot, str], ...]


def places(answer: str, slots: Sequence[Slot]) -> list[Place]:
    """Where values stand, left to right without overlap; longer values win over those that they contain."""
    found: dict[tuple[int, int], list[tuple[Slot, str]]] = {}
    for slot in slots:
        own = forms(slot.leaf.text)
        order = slot.order
        seen: set[tuple[int, int]] = set()
        for name in order:
            if name == WORD and (seen or own[name] in ("one", "zero")):
                continue
            written = order[0] if name == WORD else name
            for span in find_spans(answer, own[name]):
                if span not in seen:
                    seen.add(span)
                    found.setdefault(span, []).append((slot, written))
    taken: list[Place] = []
    for span in sorted(found, key=lambda s: (s[0] - s[1], s[0])):
        if all(span[1] <= place.start or span[0] >= place.end for place in taken):
            taken.append(Place(span[0], span[1], tuple(found[span])))
    return sorted(taken, key=lambda place: place.start)


def around(answer: str, place: Place) -> tuple[str, str]:
    """The words before and after a place, in small letters; empty at the ends."""
    before = _BEFORE.search(answer[: place.start])
    after = _AFTER.search(answer[place.end :])
    return (before[1].lower() if before else ""), (after[1].lower() if after else "")


def learn_neighbours(pairs: Sequence[tuple[str, Sequence[Slot]]]) -> Neighbours:
    """Count the neighbours of all values that only one slot of their prompt could have filled."""
    neighbours = Neighbours()
    for answer, slots in pairs:
        for place in places(answer, slots):
            if len(place.fillers) == 1:
                neighbours.add(place.fillers[0][0].label, *around(answer, place))
    return neighbours


def delexicalise(answer: str, slots: Sequence[Slot], neighbours: Neighbours) -> list[str | Ref]:
    """The answer with a `Ref` for each value. Where several slots have the value, each place goes to the slot whose
    neighbours fit best, slots without a place first."""
    filled: dict[str, int] = {}
    some = places(answer, slots)
    choice: dict[int, tuple[Slot, str]] = {}
    doubtful = []
    for index, place in enumerate(some):
        if len(place.fillers) == 1:
            choice[index] = place.fillers[0]
            filled[place.fillers[0][0].name] = 1
        else:
            pair = around(answer, place)
            doubtful += [
                (neighbours.score(s.label, *pair), -n, index, s, f) for n, (s, f) in enumerate(place.fillers)
            ]
    for fresh in (True, False):
        for _, _, index, slot, form in sorted(doubtful, key=lambda d: (-d[0], -d[1], d[2])):
            if index not in choice and not (fresh and slot.name in filled):
                choice[index] = (slot, form)
                filled[slot.name] = 1
    parts: list[str | Ref] = []
    at = 0
    for index, place in enumerate(some):
        if place.start > at:
            parts.append(answer[at : place.start])
        slot, form = choice[index]
        parts.append(Ref(slot.name, form))
        at = place.end
    if at < len(answer):
        parts.append(answer[at:])
    return parts


def relexicalise(parts: Sequence[str | Ref], slots: Sequence[Slot]) -> str:
    """The text with each `Ref` filled in. A form that the value does not have becomes its likeliest one."""
    texts: Mapping[str, Slot] = {slot.name: slot for slot in slots}
    return "".join(part if isinstance(part, str) else written(texts[part.slot], part.form) for part in parts)


def written(slot: Slot, form: str) -> str:
    """A slot's value in a form."""
    own = forms(slot.leaf.text)
    return own.get(form) or own[slot.order[0]]


def missing(parts: Sequence[str | Ref], slots: Sequence[Slot]) -> list[str]:
    """Names of the required slots that have no place among the parts."""
    there = {part.slot for part in parts if isinstance(part, Ref)}
    return [slot.name for slot in slots if slot.required and slot.name not in there]
