"""What is seen around a place where a value stands: who said it, when, between which words. Features, as hashes. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from shoal.agents.learning.calls.mentions import LEAF, Mention, Read, shape_of
from shoal.agents.learning.calls.ranker import Ints, hashed

_BEFORE = 2
_BAG = 6
_QUESTION = 14
_SPELT_ORDER = 4


@dataclass
class Sight:
    """Features of a conversation's mentions, each made once.

    `asked`: by turn, the words of the last sentence of the turn before it.
    """

    read: Read
    #: what `choices.py` has made of this conversation, by argument
    memo: dict[Any, Any] = field(default_factory=dict)
    _cache: dict[tuple[str, int, int, int, str], tuple[str, Ints]] = field(default_factory=dict)
    _asked: dict[int, frozenset[str]] = field(default_factory=dict)
    _ranks: Mapping[int, tuple[int, int]] | None = None
    _turn_of_use: Mapping[str, list[tuple[int, str]]] | None = None

    def of(self, mention: Mention, kind: str = "") -> tuple[str, Ints]:
        """(role, features) of a mention seen as one of `kind` (its own if empty)."""
        kind = kind or mention.kind
        mark = (kind, mention.turn, mention.first, mention.last, mention.key + str(mention.order))
        found = self._cache.get(mark)
        if found is None:
            role = self.read.conversation.turns[mention.turn].role
            short = {"user": "u", "assistant": "a", "tool": "t", "call": "c"}.get(role, "o")
            names = self._leaf(mention) if mention.kind == LEAF else self._span(mention, kind)
            features = np.array([hashed(f"{short}|{name}") for name in names], dtype=np.uint32)
            found = self._cache[mark] = (short, features)
        return found

    def asked(self, turn: int) -> frozenset[str]:
        """Words of the last sentence of the turn before this one."""
        if turn not in self._asked:
            before = self.read.tokens[turn - 1] if turn else ()
            words: list[str] = []
            for token in reversed(before[:-1] if before else ()):
                if token.text in ".!?" or len(words) >= _QUESTION:
                    break
                words.append(token.low)
            self._asked[turn] = frozenset(words)
        return self._asked[turn]

    def ago(self, turn: int) -> str:
        """How many turns ago, in steps."""
        gone = len(self.read.conversation.turns) - 1 - turn
        return str(gone) if gone < 4 else "4+" if gone < 7 else "7+"

    def _span(self, mention: Mention, kind: str) -> list[str]:
        tokens = self.read.tokens[mention.turn]
        low = [t.low for t in tokens]
        first, last = mention.first, mention.last
        one = low[first - 1] if first else "<s>"
        two = low[first - 2] if first > 1 else "<s>"
        after = low[last] if last < len(low) else "</s>"
        later = low[last + 1] if last + 1 < len(low) else "</s>"
        gone = self.ago(mention.turn)
        names = [
            kind,
            f"ago={gone}",
            f"{kind} ago={gone}",
            f"-1={one}",
            f"-2={two}",
            f"-21={two} {one}",
            f"+1={after}",
            f"-1+1={one}|{after}",
            f"+12={after} {later}",
            f"len={last - first}",
            f"alone={first == 0 and last >= len(low) - 1}",
            f"form={mention.form}",
            f"opens={' '.join(low[:2])}",
            f"closes={' '.join(low[-2:])} {gone}",
        ]
        names += [f"-bag={word}" for word in set(low[max(0, first - _BAG) : first])]
        names += [f"+bag={word}" for word in set(low[last : last + 3])]
        names += [f"asked={word}" for word in self.asked(mention.turn)]
        if kind == "span":
            names += [f"inner={mention.inner}", f"cap={mention.surface[:1].isupper()}", f"w1={low[first]}"]
            names.append(f"wn={low[last - 1]}")
            names.append(f"figures={any(c.isdigit() for c in mention.surface)}")
            names.append(f"cap-1={first > 0 and tokens[first - 1].text[:1].isupper()}")
            names.append(f"cap+1={last < len(tokens) and tokens[last].text[:1].isupper()}")
            names.append(f"inner{mention.inner} -1={one} +1={after}")
        return names

    def _leaf(self, mention: Mention) -> list[str]:
        alike, rank = self.ranks().get(id(mention), (1, 0))
        uses = self.uses().get(mention.surface, [])
        later = [name for turn, name in uses if turn > mention.turn]
        said = bool(self.read.places(tuple(mention.surface.lower().split()))) if mention.surface else False
        key = mention.key.rpartition(".")[2]
        return [
            "leaf",
            f"ago={self.ago(mention.turn)}",
            f"key={key}",
            f"path={mention.key}",
            f"key={key} only={alike == 1}",
            f"key={key} rank={min(rank, _SPELT_ORDER)}",
            f"key={key} last={rank == alike - 1}",
            f"used={len(later) > 0}",
            f"key={key} used={len(later) > 0} first={rank == 0}",
            f"said={said}",
            f"shape={shape_of(mention.surface)}",
        ]

    def ranks(self) -> Mapping[int, tuple[int, int]]:
        """For each leaf how many of its turn stand under the same key, and its place among them."""
        if self._ranks is None:
            counts: dict[tuple[int, str], int] = {}
            own: list[tuple[Mention, int]] = []
            for mention in self.read.mentions:
                if mention.kind == LEAF:
                    place = counts.get((mention.turn, mention.key), 0)
                    own.append((mention, place))
                    counts[mention.turn, mention.key] = place + 1
            self._ranks = {id(m): (counts[m.turn, m.key], place) for m, place in own}
        return self._ranks

    def uses(self) -> Mapping[str, list[tuple[int, str]]]:
        """Values of earlier calls' arguments -> (turn, argument's path)."""
        if self._turn_of_use is None:
            uses: dict[str, list[tuple[int, str]]] = {}
            turns = self.read.conversation.turns
            for mention in self.read.mentions:
                if mention.kind == LEAF and turns[mention.turn].role == "call":
                    uses.setdefault(mention.surface, []).append((mention.turn, mention.key))
            self._turn_of_use = uses
        return self._turn_of_use
