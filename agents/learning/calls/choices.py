"""The values that one argument could take in one conversation, each with its features for the ranker. Pure.

A value's features: those of its newest place in each role's turns, how often and by whom it was said, whether it recurs in
the log, and which words stand for it. They are joined with the argument's key and, apart, with its sort, so that what is
learnt of one argument helps another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shoal.agents.learning.calls.mentions import LEAF
from shoal.agents.learning.calls.normal import CLOSED, COMPOUND, TEXT, Manner
from shoal.agents.learning.calls.places import Sight
from shoal.agents.learning.calls.ranker import Ints, Options, hashed, mixed
from shoal.agents.learning.calls.schema import ArgSpec
from shoal.agents.learning.calls.turns import Turn
from shoal.agents.learning.calls.values import Lore, Value, values_of

#: stands for leaving the argument out, or for not finding it
ABSENT = object()
#: values that are ranked, at most: those said last
_MOST = 150


@dataclass(frozen=True, slots=True)
class Choice:
    """The candidates of one argument. `values[0]` is `ABSENT`. `newest`: the newest turn in which each was said; -1 for none."""

    arg: ArgSpec
    values: Sequence[Any]
    options: Options
    newest: Sequence[int]


def choice_of(arg: ArgSpec, sight: Sight, lore: Lore, group: str | None = None) -> Choice:
    """The argument's candidates. `group`: in training, the conversation, so that it does not teach itself."""
    manner = lore.manners.get(arg.key) or Manner(_usual_sort(arg))
    mark = (arg.key, arg.enum, group)
    if mark not in sight.memo:
        # functions of one request often take the same arguments
        sight.memo[mark] = _ranked(arg, manner, sight, lore, group)
    values, newest, rows, joined, texts = sight.memo[mark]
    key, sort = hashed(f"arg {arg.key}"), hashed(f"sort {manner.sort}{arg.required}")
    absent = _absent(arg, sight, key, sort)
    parts, places = (
        [np.zeros(len(absent), rows.dtype), rows, rows],
        [absent, mixed(joined, key), mixed(joined, sort)],
    )
    path = f"{arg.function}.{arg.name}"
    if uses := sight.uses():
        here = [1 + n for n, text in enumerate(texts) if any(p == path for _, p in uses.get(text, ()))]
        if here:
            parts.append(np.array(here, rows.dtype))
            places.append(mixed(np.full(len(here), hashed("used here"), np.uint32), key))
    options = Options(1 + len(values), np.concatenate(parts), np.concatenate(places))
    return Choice(arg, [ABSENT, *values], options, [-1, *newest])


def _usual_sort(arg: ArgSpec) -> str:
    return CLOSED if arg.enum else COMPOUND if arg.type in ("array", "object") else TEXT


_Ranked = tuple[Sequence[Any], Sequence[int], NDArray[np.int32], Ints, Sequence[str]]


def _ranked(arg: ArgSpec, manner: Manner, sight: Sight, lore: Lore, group: str | None) -> _Ranked:
    """Values, the newest turn of each, and their features: (row of the value, feature)."""
    found = values_of(arg, manner, sight.read, lore, group)
    turns = sight.read.conversation.turns
    newest = [_newest(v) for v in found]
    if len(found) > _MOST:
        keep = sorted(sorted(range(len(found)), key=lambda n: -newest[n])[:_MOST])
        found, newest = [found[n] for n in keep], [newest[n] for n in keep]
    latest, last = max(newest, default=-1), len(turns) - 1
    bases: list[Ints] = []
    for value, new in zip(found, newest, strict=True):
        plain = _features(value, arg, manner, sight, lore, group)
        heard, said = _newest_of(value, turns, "assistant"), _newest_of(value, turns, "user")
        plain += [
            f"new={new == latest} last={new == last}",
            f"heard={sight.ago(heard) if heard >= 0 else '-'} said={sight.ago(said) if said >= 0 else '-'}",
        ]
        base = np.array([hashed(name) for name in plain], dtype=np.uint32)
        bases.append(np.concatenate([base, *_seen(value, sight)]))
    joined = np.concatenate(bases) if bases else np.zeros(0, np.uint32)
    rows = np.repeat(np.arange(1, len(bases) + 1, dtype=np.int32), [len(b) for b in bases])
    return [v.value for v in found], newest, rows, joined, [str(v.value) for v in found]


def _absent(arg: ArgSpec, sight: Sight, key: int, sort: int) -> Ints:
    own = hashed(f"own {arg.function}.{arg.name}")
    asked = sight.asked(len(sight.read.conversation.turns))
    names = ["absent", *(f"absent asked={w}" for w in asked)]
    base = np.array([hashed(n) for n in names], dtype=np.uint32)
    return np.concatenate([mixed(base, key), mixed(base[:1], sort), mixed(base[:1], own)])


def _newest_of(value: Value, turns: Sequence[Turn], role: str) -> int:
    return max((m.turn for m, _ in value.places if turns[m.turn].role == role), default=-1)


def _newest(value: Value) -> int:
    turns = [m.turn for m, _ in value.places] + [c[3] for c in value.cues]
    return max(turns, default=-1)


def _seen(value: Value, sight: Sight) -> list[Ints]:
    """Features of the newest place in each role's turns."""
    newest: dict[str, Ints] = {}
    for mention, kind in value.places:
        role, features = sight.of(mention, kind)
        newest[role] = features  # places stand oldest first
    return list(newest.values())


def _features(
    value: Value, arg: ArgSpec, manner: Manner, sight: Sight, lore: Lore, group: str | None
) -> list[str]:
    text = str(value.value)
    roles = sorted({sight.read.conversation.turns[m.turn].role[0] for m, _ in value.places})
    kinds = sorted({kind for _, kind in value.places})
    names = [
        "any",
        f"roles={''.join(roles)}",
        f"kinds={' '.join(kinds)}",
        f"said={min(len(value.places), 3)}",
    ]
    if manner.sort == CLOSED or value.constant:
        names += [f"v={text}", f"v={text} roles={''.join(roles)}"]
    if value.case:
        names.append(f"case={value.case}")
    if value.constant:
        names.append("constant")
    if value.cues:
        words, hits, seen, turn = max(value.cues, key=lambda c: (c[1] / max(1, c[2]), c[1]))
        share = hits / max(1, seen)
        names += [
            f"cue={min(4, int(5 * share))}",
            f"cue={min(4, int(5 * share))} n={min(3, hits.bit_length())}",
            f"cue ago={sight.ago(turn)}",
            f"cue={words} v={text}",
            f"cue only={not value.places}",
        ]
        places = sight.read.grams.get(words)
        if places and manner.sort == TEXT:
            place = places[-1]
            tokens = sight.read.tokens[place[0]]
            names.append(f"cue -1={tokens[place[1] - 1].low if place[1] else '<s>'}")
            names += [f"cue asked={w}" for w in sight.asked(place[0])]
            names.append(f"cue word={words}")
    if manner.sort == TEXT:
        recurs = manner.recurring.get(text, 0)
        if group is not None:
            recurs -= group in lore.owners.get((arg.key, text), ())
        names.append(f"recurs={min(4, max(0, recurs).bit_length())}")
    used = [path for _, path in sight.uses().get(text, ())]
    if used:
        names.append(f"used same={any(p.endswith('.' + arg.name) for p in used)}")
    for mention, kind in value.places[-6:]:
        if kind == LEAF:
            name = mention.key.rpartition(".")[2]
            names.append(f"key same={name == arg.name}")
    named = set(arg.name.lower().split("_"))
    for mention, kind in value.places[-3:]:
        if kind != LEAF:
            tokens = sight.read.tokens[mention.turn]
            near = {t.low for t in tokens[max(0, mention.first - 6) : mention.first]}
            names.append(f"named={len(named & near)}")
            names.append(f"asked named={len(named & sight.asked(mention.turn))}")
    return names
