"""Which of several drafts of one text most drafts agree with.

Minimum Bayes risk decoding over samples of a model: the draft whose n-grams the others share most is worded as such texts
usually are, where the likeliest one is often merely short. Source: Kumar and Byrne 2004; over samples: Eikema and Aziz 2022
(arXiv 2108.04718). Pure; knows neither models nor tokens.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

_ORDER = 4
_TOKEN = re.compile(r"\w+|[^\w\s]")


def agreements(drafts: Sequence[str], among: Sequence[str]) -> list[float]:
    """For each draft its mean likeness to `among`, in [0, 1]: smoothed sentence BLEU (n-grams of 1 to 4 words, letter case aside).

    The draft itself, where it stands in `among`, counts like any other. 0.0 for all where `among` is empty.
    """
    weight = Counter(among)
    known = {text: _grams(text) for text in {*drafts, *among}}
    scores = {
        draft: sum(n * _likeness(known[draft], known[other]) for other, n in weight.items())
        for draft in set(drafts)
    }
    return [scores[draft] / max(1, len(among)) for draft in drafts]


_Grams = tuple[int, list[Counter[tuple[str, ...]]]]


def _grams(text: str) -> _Grams:
    words = _TOKEN.findall(text.lower())
    counts = [
        Counter(zip(*(words[start:] for start in range(n)), strict=False)) for n in range(1, _ORDER + 1)
    ]
    return len(words), counts


def _likeness(draft: _Grams, other: _Grams) -> float:
    length, mine = draft
    wanted, theirs = other
    if not length or not wanted:
        return float(length == wanted)
    logs = 0.0
    for n, (a, b) in enumerate(zip(mine, theirs, strict=True)):
        common = sum(min(count, b[gram]) for gram, count in a.items() if gram in b)
        total = max(1, length - n)
        # orders above the first are smoothed, so that short texts can be told apart too
        precision = common / total if n == 0 else (common + 1) / (total + 1)
        if precision == 0:
            return 0.0
        logs += math.log(precision)
    brevity = min(0.0, 1 - wanted / length)
    return math.exp(logs / _ORDER + brevity)
