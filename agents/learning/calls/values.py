"""Which values one argument could take in one conversation, and where each stands. What is learnt of them: `Lore`. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from shoal.agents.learning.calls.cues import Cues, about
from shoal.agents.learning.calls.mentions import (
    DATE,
    LEAF,
    NUMBER,
    SPAN,
    TIME,
    Mention,
    Read,
    shape_of,
    words_of,
)
from shoal.agents.learning.calls.normal import (
    CLOSED,
    COMPOUND,
    TEXT,
    Manner,
    Readings,
    changed,
    number,
    styled,
)
from shoal.agents.learning.calls.schema import ArgSpec

#: a result's value that is read as a date has at most so many characters
_DATE_CHARS = 32


@dataclass(frozen=True, slots=True)
class Lore:
    """All that is learnt of values before they are ranked."""

    manners: Mapping[str, Manner]
    readings: Readings
    cues: Cues
    #: (function's signature, argument, argument): two that practically never have the same value
    distinct: frozenset[tuple[str, str, str]] = frozenset()
    #: only while training: (argument's key, value) -> conversations that have it
    owners: Mapping[tuple[str, str], frozenset[str]] = field(default_factory=dict)


@dataclass
class Value:
    """A value with the places where it stands, oldest first, and the words that stand for it.

    `places`: the mention, and as which kind it is taken; `cues`: words, hits, seen, newest turn (see `cues.py`).
    """

    value: Any
    places: list[tuple[Mention, str]] = field(default_factory=list)
    cues: list[tuple[str, int, int, int]] = field(default_factory=list)
    constant: bool = False
    case: str = ""


class _Pool:
    """Values by what they are; a value of two sorts (1 and "1") is two."""

    def __init__(self) -> None:
        self.found: dict[str, Value] = {}

    def add(self, value: Any, mention: Mention | None = None, kind: str = "", case: str = "") -> Value:
        mark = f"{type(value).__name__[0]}{value}"
        one = self.found.get(mark)
        if one is None:
            one = self.found[mark] = Value(value, case=case)
        if mention is not None:
            one.places.append((mention, kind or mention.kind))
        return one

    def in_order(self) -> None:
        for one in self.found.values():
            one.places.sort(key=lambda p: (p[0].turn, p[0].first))


def values_of(arg: ArgSpec, manner: Manner, read: Read, lore: Lore, group: str | None) -> list[Value]:
    """The argument's values. `group`: in training, the conversation, whose own lessons are left out."""
    pool = _Pool()
    if manner.sort == CLOSED:
        _closed(pool, arg, read)
    elif manner.sort in (DATE, TIME):
        _when(pool, manner, read, lore)
    elif manner.sort == NUMBER:
        _numbers(pool, arg, manner, read)
    elif manner.sort == TEXT:
        _texts(pool, manner, read)
    elif manner.sort == COMPOUND:
        _compound(pool, arg, read)
    for value in manner.constants:
        if not arg.enum or value in arg.enum:
            pool.add(value).constant = True
    topic = about(manner.sort, arg.key)
    if topic is not None:
        for value, words, hits, seen in lore.cues.found(topic, read, group):
            if not arg.enum or value in arg.enum:
                pool.add(value).cues.append((words, hits, seen, read.grams[words][-1][0]))
    return list(pool.found.values())


def _closed(pool: _Pool, arg: ArgSpec, read: Read) -> None:
    by_text = {str(value): value for value in arg.enum}
    for text, value in by_text.items():
        pool.add(value)
        for mention in _places(text, read):
            pool.add(value, mention, "word")
    for mention in read.mentions:
        if mention.kind in (NUMBER, LEAF) and mention.surface in by_text:
            pool.add(by_text[mention.surface], mention)
    pool.in_order()


def _when(pool: _Pool, manner: Manner, read: Read, lore: Lore) -> None:
    for mention in read.mentions:
        if mention.kind == manner.sort:
            pool.add(styled(lore.readings.of(mention), manner), mention)
        elif mention.kind == LEAF and len(mention.surface) <= _DATE_CHARS and _dated(mention.surface):
            pool.add(mention.surface, mention)


def _numbers(pool: _Pool, arg: ArgSpec, manner: Manner, read: Read) -> None:
    for mention in read.mentions:
        if mention.kind in (NUMBER, LEAF):
            value = number(mention.surface, arg, manner)
            if value is not None:
                pool.add(value, mention)


def _texts(pool: _Pool, manner: Manner, read: Read) -> None:
    for mention in read.mentions:
        if mention.kind in (SPAN, LEAF):
            if manner.shapes and shape_of(mention.surface) not in manner.shapes:
                continue
            pool.add(mention.surface, mention)
            for case, text in changed(mention.surface, manner) if mention.kind == SPAN else ():
                pool.add(text, mention, case=case)
    for text in manner.recurring:
        for mention in _places(text, read):
            pool.add(text, mention, "word")
    pool.in_order()


def _compound(pool: _Pool, arg: ArgSpec, read: Read) -> None:
    """Lists and objects as they stand: in earlier calls, and under the argument's name in results, cut to the fields it takes."""
    for place, turn in enumerate(read.conversation.turns):
        if turn.value is None:
            continue
        path = f"{turn.text}.{arg.name}" if turn.role == "call" else arg.name
        for value in _under(arg.name, turn.value):
            if arg.items and isinstance(value, list):
                value = [
                    {k: v for k, v in item.items() if k in arg.items} if isinstance(item, dict) else item
                    for item in value
                ]
            if isinstance(value, list | dict):
                pool.add(value, Mention(LEAF, json.dumps(value), place, key=path))


def _under(name: str, value: Any) -> Iterator[Any]:
    """What stands under this name, at any depth."""
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            if name in item:
                yield item[name]
            stack.extend(item.values())
        elif isinstance(item, list):
            stack.extend(item)


def _places(value: str, read: Read) -> list[Mention]:
    """Places where the value's words stand, whatever their case."""
    words = words_of(value)
    if not words:
        return []
    return [Mention(SPAN, value, turn, first, first + len(words)) for turn, first in read.places(words)]


def _dated(text: str) -> bool:
    return len(text) >= 4 and sum(c.isdigit() for c in text) >= 3
