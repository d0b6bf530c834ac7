"""Words that stand for a value without being it: "LA" for Los Angeles, "my dog" for pets allowed. Learnt by counting. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from shoal.agents.learning.calls.mentions import Read
from shoal.agents.learning.calls.normal import CLOSED, TEXT, Known, Manner, stands

#: a cue stands in so many conversations with its value
_LEAST = 2
#: of the conversations with the words, this share has the value; and so many times more than conversations have it at all
_SHARE = 0.25
_LIFT = 3.0
_MOST = 40
#: words of a cue
_WORDS = 3


@dataclass
class Cues:
    """`table`: what is asked about -> words -> [(value, conversations with both, conversations with the words)].

    What is asked about is an argument's key for closed sets, and "" for texts: places have the same short names everywhere.
    """

    table: dict[str, dict[str, list[tuple[Any, int, int]]]] = field(default_factory=dict)
    #: only while training: (about, words, value) -> conversations that taught it, so that none is judged by itself
    taught: dict[tuple[str, str, str], set[str]] = field(default_factory=dict)

    def found(self, about: str, read: Read, group: str | None) -> list[tuple[Any, str, int, int]]:
        """(value, words, hits, seen) for every cue in the conversation; `group`: leave out what this one taught."""
        out = []
        own = self.table.get(about)
        if not own:
            return []
        for words in own.keys() & read.grams.keys() if len(own) > len(read.grams) else own:
            if words not in read.grams:
                continue
            for value, hits, seen in own[words]:
                if group is not None:
                    hits -= group in self.taught.get((about, words, str(value)), ())
                    seen -= 1
                if hits > 0:
                    out.append((value, words, hits, seen))
        out.sort(key=lambda c: (c[1], str(c[0])))
        return out

    def to_dict(self) -> dict[str, Any]:
        return {a: {w: [list(c) for c in own] for w, own in t.items()} for a, t in self.table.items()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Cues:
        return cls(
            {
                str(a): {str(w): [(c[0], int(c[1]), int(c[2])) for c in own] for w, own in t.items()}
                for a, t in data.items()
            }
        )


def about(one_sort: str, key: str) -> str | None:
    """What the cues of an argument are kept under; None where it has none."""
    return key if one_sort == CLOSED else "" if one_sort == TEXT else None


def learn_cues(known: Iterable[Known], manners: Mapping[str, Manner]) -> Cues:
    """Count which words go with which values where the value itself does not stand in the conversation."""
    seen: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    hits: dict[tuple[str, str, str], set[str]] = defaultdict(set)
    values: dict[tuple[str, str], Any] = {}
    groups: dict[str, set[str]] = defaultdict(set)
    with_value: dict[tuple[str, str], set[str]] = defaultdict(set)
    for one in known:
        topic = about(manners[one.arg.key].sort, one.arg.key)
        if topic is None:
            continue
        words = _words(one.read)
        groups[topic].add(one.group)
        for gram in words:
            seen[topic][gram].add(one.group)
        if one.given and not stands(one.value, one.read):
            text = str(one.value)
            values[topic, text] = one.value
            with_value[topic, text].add(one.group)
            for gram in words:
                hits[topic, gram, text].add(one.group)
    best: dict[tuple[str, str], list[tuple[float, str]]] = defaultdict(list)
    for (topic, gram, text), own in hits.items():
        if len(own) < _LEAST:
            continue
        share = len(own) / len(seen[topic][gram])
        usual = len(with_value[topic, text]) / len(groups[topic])
        if share >= _SHARE and share >= min(_LIFT * usual, 0.5 + 0.5 * usual):
            best[topic, text].append((-len(own) * share, gram))
    table: dict[str, dict[str, list[tuple[Any, int, int]]]] = defaultdict(dict)
    taught = {}
    for (topic, text), cues in sorted(best.items()):
        for _, gram in sorted(cues)[:_MOST]:
            mark = (topic, gram, text)
            table[topic].setdefault(gram, []).append(
                (values[topic, text], len(hits[mark]), len(seen[topic][gram]))
            )
            taught[mark] = hits[mark]
    return Cues({a: dict(t) for a, t in table.items()}, taught)


def _words(read: Read) -> set[str]:
    """Runs of words that users said; a run of one letter or mark says nothing."""
    out: Counter[str] = Counter()
    for turn, tokens in zip(read.conversation.turns, read.tokens, strict=True):
        if turn.role != "user":
            continue
        low = [t.low for t in tokens]
        for n in range(len(low)):
            for end in range(n + 1, min(len(low), n + _WORDS) + 1):
                gram = " ".join(low[n:end])
                if len(gram) > 1:
                    out[gram] += 1
    return set(out)
