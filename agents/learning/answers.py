"""Closed answer sets: which answers a task has, and the one wording that stands for each.

Pure. Knows no kind of model.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from shoal.agents.contract.loss import canonical_json, normal_label, unfenced
from shoal.errors import DataError

#: an answer given less often than this in training is not learnt
MIN_CALLS_PER_ANSWER = 3
#: of the calls, at least this share must have an answer that is learnt
MIN_CLOSED_SHARE = 0.9
MAX_ANSWERS = 1000


def answer_key(content: str) -> str:
    """The same for answers that mean the same: canonical JSON for an object or list, else the label normalised."""
    text = unfenced(content)
    if text[:1] in "{[" and (as_json := canonical_json(text)) is not None:
        return as_json
    return normal_label(content)


def answer_digest(content: str) -> int:
    """Eight bytes that are the same for answers that mean the same; `NO_ANSWER` for one that says nothing."""
    return _digest(answer_key(content))


def _digest(key: str) -> int:
    said = key.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(said, digest_size=8).digest(), "big")


NO_ANSWER = _digest("")

K = TypeVar("K")


def learnt_answers(counts: Mapping[K, int], *, nothing: K) -> list[K]:
    """The answers that are learnt, most frequent first, of a closed set that came so often each.

    Args:
        nothing: the key of an answer that says nothing, which is never learnt.

    Raises:
        DataError: the set is not closed; the message says so in figures.
    """
    count = sum(counts.values())
    ranked = Counter(counts).most_common()
    kept = [k for k, n in ranked if n >= MIN_CALLS_PER_ANSWER and k != nothing][:MAX_ANSWERS]
    covered = sum(counts[k] for k in kept)
    if covered < MIN_CLOSED_SHARE * count or not kept or (len(kept) < 2 and covered < count):
        raise DataError(_open(len(counts), covered, count))
    return kept


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerSet:
    """The answers of a task, most frequent first.

    Attributes:
        keys: one canonical form for each.
        texts: the wording that the generalist most often gives it.
    """

    keys: tuple[str, ...]
    texts: tuple[str, ...]

    @classmethod
    def fit(cls, contents: Sequence[str]) -> AnswerSet:
        """Raises DataError where the answers are not from a closed set; the message says so in figures."""
        counts: Counter[str] = Counter()
        wordings: dict[str, Counter[str]] = {}
        for content in contents:
            key = answer_key(content)
            counts[key] += 1
            wordings.setdefault(key, Counter())[content] += 1
        kept = learnt_answers(counts, nothing="")
        # among equally frequent wordings the first in the alphabet, so that a rerun gives the same
        texts = [min(wordings[k].items(), key=lambda item: (-item[1], item[0]))[0] for k in kept]
        return cls(keys=tuple(kept), texts=tuple(texts))

    def indices(self, contents: Sequence[str]) -> list[int]:
        """The place of each answer in the set; -1 for one that is not in it."""
        place = {key: i for i, key in enumerate(self.keys)}
        return [place.get(answer_key(content), -1) for content in contents]

    def to_json(self) -> str:
        return json.dumps({"keys": self.keys, "texts": self.texts}, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> AnswerSet:
        data = json.loads(text)
        return cls(keys=tuple(data["keys"]), texts=tuple(data["texts"]))


def _open(different: int, covered: int, count: int) -> str:
    return (
        f"Its answers are no closed set: {different} different ones in {count} calls, and only {covered} of the calls have "
        f"an answer that is given at least {MIN_CALLS_PER_ANSWER} times."
    )
