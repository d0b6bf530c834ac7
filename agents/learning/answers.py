"""Closed answer sets: which answers a task has, and the one wording that stands for each.

Pure. Knows no kind of model.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

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
        kept = [k for k, n in counts.most_common() if n >= MIN_CALLS_PER_ANSWER and k][:MAX_ANSWERS]
        covered = sum(counts[k] for k in kept)
        if len(kept) < 2 and covered < len(contents):
            raise DataError(_open(len(counts), covered, len(contents)))
        if covered < MIN_CLOSED_SHARE * len(contents) or not kept:
            raise DataError(_open(len(counts), covered, len(contents)))
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
