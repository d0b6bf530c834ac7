"""Which words show that an answer heeds a value that it does not carry word for word, and which show one nobody asked for.

Learnt from logged pairs by counting; soft hints by which drafts are preferred, never errors. Pure.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from itertools import pairwise

from shoal.agents.learning.forms import digit_groups

#: a value or path needs this many answers, of which this share has one of its usual words
MIN_EVIDENCE = 20
EVIDENCE_SHARE = 0.8
#: a word is evidence where it is this much commoner with the value than without
EVIDENCE_LIFT = 8
#: a word that answers hardly use without the path: at most this share do
MAX_UNASKED = 0.01
UNASKED_LIFT = 20
#: a word belongs to a path that has it at least this often, compared with the path that has it most often
OWNER_SHARE = 0.7
_WORDS = re.compile(r"[^\W\d_]+")
_TOKENS = re.compile(r"[^\W\d_]+|\d+|\|")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wording:
    """Words of values that steer the wording; a tag is `path=value`, a word may be two words in a row.

    Attributes:
        evidence: by tag, words of which one shows that the path was heeded.
        telling: by tag, words of which one tells the value from the path's other values.
        unasked: by path, words that answers use only where the prompt has the path.
    """

    evidence: Mapping[str, frozenset[str]] = field(default_factory=dict)
    telling: Mapping[str, frozenset[str]] = field(default_factory=dict)
    unasked: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def hints(self, tags: Sequence[str], answer: str) -> list[str]:
        """What of a prompt's tags the answer seems not to heed, and paths that it heeds although the prompt lacks them."""
        if not (self.evidence or self.telling or self.unasked):
            return []
        words = words_of(answer)
        out = [
            tag
            for tag in dict.fromkeys(tags)
            if any((usual := known.get(tag)) and not usual & words for known in (self.evidence, self.telling))
        ]
        there = {tag.partition("=")[0] for tag in tags}
        return out + [f"no {path}" for path, own in self.unasked.items() if path not in there and own & words]

    def to_dict(self) -> dict[str, dict[str, list[str]]]:
        """Plain data for JSON."""
        return {
            name: {key: sorted(words) for key, words in getattr(self, name).items()}
            for name in ("evidence", "telling", "unasked")
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Mapping[str, Sequence[str]]]) -> Wording:
        """Raises KeyError, TypeError or AttributeError where `data` is not what `to_dict` gave."""
        return cls(
            **{
                name: {key: frozenset(words) for key, words in data[name].items()}
                for name in ("evidence", "telling", "unasked")
            }
        )


def words_of(text: str, carried: Sequence[str] = ()) -> set[str]:
    """Words in small letters, numbers in digits, and each two neighbours; without the words of carried values."""
    low = text.lower()
    words = {*_WORDS.findall(low), *digit_groups(low)}
    for value in sorted(carried, key=len, reverse=True):
        low = low.replace(value.lower(), " | ")
        words -= {*_WORDS.findall(value.lower()), *digit_groups(value)}
    tokens = _TOKENS.findall(low)
    return words | {f"{a} {b}" for a, b in pairwise(tokens) if "|" not in (a, b)}


def learn_wording(answers: Sequence[tuple[Sequence[str], str, Sequence[str]]]) -> Wording:
    """Learn from (tags of the prompt's uncarried values outside of lists, answer, carried values).

    Words of carried values are no evidence.
    """
    with_tag: dict[str, list[int]] = defaultdict(list)
    with_path: dict[str, set[int]] = defaultdict(set)
    said: list[set[str]] = []
    for index, (tags, answer, carried) in enumerate(answers):
        said.append(words_of(answer, carried))
        for tag in dict.fromkeys(tags):
            with_tag[tag].append(index)
            with_path[tag.partition("=")[0]].add(index)
    with_tag = {tag: members for tag, members in with_tag.items() if len(members) >= MIN_EVIDENCE}
    totals = Counter(word for words in said for word in words)
    by_path = {path: Counter(w for i in members for w in said[i]) for path, members in with_path.items()}
    by_tag = {tag: Counter(word for i in members for word in said[i]) for tag, members in with_tag.items()}
    owners = _owners(by_tag, {tag: len(members) for tag, members in with_tag.items()})
    evidence: dict[str, frozenset[str]] = {}
    telling: dict[str, frozenset[str]] = {}
    for tag, members in with_tag.items():
        path, here, count = tag.partition("=")[0], by_tag[tag], len(members)
        away, others = len(said) - len(with_path[path]), len(with_path[path]) - count
        if away >= max(MIN_EVIDENCE, 0.05 * len(said)):
            usual = _commoner(here, count, totals - by_path[path], away)
        else:
            usual = _commoner(here, count, totals - here, len(said) - count)
        usual = frozenset(word for word in usual if path in owners[word])
        if _share(members, usual, said) < EVIDENCE_SHARE:
            continue
        evidence[tag] = usual
        if others >= MIN_EVIDENCE and away >= MIN_EVIDENCE:
            special = _commoner(here, count, by_path[path] - here, others)
            special = frozenset(word for word in special if path in owners[word])
            heeding = [index for index in members if usual & said[index]]
            if _share(heeding, special, said) >= EVIDENCE_SHARE:
                telling[tag] = special
    unasked = {}
    for path, own in sorted(with_path.items()):
        words = _only_with(by_path[path], len(own), totals - by_path[path], len(said) - len(own))
        if words := frozenset(word for word in words if path in owners[word]):
            unasked[path] = words
    return Wording(evidence=evidence, telling=telling, unasked=unasked)


def _owners(by_tag: Mapping[str, Mapping[str, int]], counts: Mapping[str, int]) -> dict[str, set[str]]:
    """By word the paths that it may belong to: those of which some value has it about as often as any value has.

    Values go together (what is cheap may be rated well), so a word of one is commoner with the other too.
    """
    rates: dict[str, dict[str, float]] = defaultdict(dict)
    for tag, words in by_tag.items():
        path = tag.partition("=")[0]
        for word, n in words.items():
            rates[word][path] = max(rates[word].get(path, 0.0), n / counts[tag])
    out: dict[str, set[str]] = defaultdict(set)
    for word, own in rates.items():
        most = max(own.values())
        out[word] = {path for path, rate in own.items() if rate >= OWNER_SHARE * most}
    return out


def _commoner(
    here: Mapping[str, int], count: int, other: Mapping[str, int], elsewhere: int, lift: float = EVIDENCE_LIFT
) -> frozenset[str]:
    """Words that are far commoner among `count` answers than among `elsewhere` others."""
    return frozenset(
        word
        for word, n in here.items()
        if n >= (max(8, 0.03 * count) if " " in word else max(3, 0.01 * count))
        and n / count >= lift * (other.get(word, 0) + 0.5) / (elsewhere + 1)
    )


def _only_with(
    here: Mapping[str, int], count: int, other: Mapping[str, int], elsewhere: int
) -> frozenset[str]:
    if count < MIN_EVIDENCE or elsewhere < MIN_EVIDENCE:
        return frozenset()
    common = frozenset(word for word, n in here.items() if n >= max(MIN_EVIDENCE, 0.03 * count))
    return frozenset(
        word
        for word in _commoner(here, count, other, elsewhere, UNASKED_LIFT) & common
        if other.get(word, 0) <= MAX_UNASKED * elsewhere
    )


def _share(members: Sequence[int], words: Set[str], said: Sequence[set[str]]) -> float:
    return sum(bool(words & said[index]) for index in members) / max(1, len(members))
