"""How alike a request's text is to the calls of each task: what decides where a request has a prompt that no task had.

A task's wording is the share of its calls that have each n-gram (words, their pairs, structure and keys of the newest user
message; `features.evidence_of`). Tasks and request are vectors over n-grams, weighted by how few tasks have them, and compared
by their cosine (Rocchio's classifier; Manning, Raghavan and Schütze, "Introduction to Information Retrieval", 2008, chapter 14).
What a cosine is worth differs from task to task, so it is read against the task's own calls: its likeness is the share of them
that are no more alike to the task than the request, which is the p-value of a conformal novelty test (Vovk et al., 2005).

System prompts, histories and tool results are not read: they are the harness's or somebody else's words, and must not move a
request to a task. Pure.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

#: n-grams of a task that are kept, the most frequent ones
_MOST_GRAMS = 400
#: and only those that such a share of the calls have, and so many calls: rare ones are values
_LEAST_SHARE = 0.005
_LEAST_CALLS = 3
#: a task's own cosines are kept as so many quantiles
QUANTILES = 41
#: calls of a task whose cosines are measured
MEASURED = 200


def wording(evidence: Iterable[Collection[str]]) -> dict[str, float]:
    """Of some calls' evidence, the share of calls that have each n-gram; the most frequent n-grams only."""
    counts: Counter[str] = Counter()
    calls = 0
    for tokens in evidence:
        counts.update(tokens)
        calls += 1
    least = max(_LEAST_CALLS, _LEAST_SHARE * calls)
    kept = sorted((-count, token) for token, count in counts.items() if count >= least)[:_MOST_GRAMS]
    return {token: round(-count / calls, 4) for count, token in kept}


def quantiles(cosines: Sequence[float]) -> list[float]:
    """A task's own cosines as evenly spaced quantiles, smallest first."""
    return [round(float(q), 4) for q in np.quantile(np.asarray(cosines), np.linspace(0, 1, QUANTILES))]


def likeness(cosine: float, own: Sequence[float]) -> float:
    """The share of a task's own calls that are no more alike to it, in [0, 1]; 0 where its own cosines are not known."""
    if not own:
        return 0.0
    at = bisect_right(own, cosine)
    if at == 0:
        return 0.0
    if at == len(own):
        return 1.0
    low, high = own[at - 1], own[at]
    return (at - 1 + (cosine - low) / (high - low)) / (len(own) - 1)


class TextIndex:
    """Tasks' wordings, searched by n-gram: an inverted index, so that a request costs its own n-grams and no more.

    Args:
        wordings: one for each task.
    """

    def __init__(self, wordings: Sequence[Mapping[str, float]]) -> None:
        self._count = len(wordings)
        spread = Counter(token for words in wordings for token in words)
        #: n-gram -> its row; how rare each row's is, and where its tasks begin
        self._row = {token: row for row, token in enumerate(spread)}
        self._rarity = [_rarity(len(wordings), tasks) for tasks in spread.values()]
        self._unknown = _rarity(len(wordings), 0)
        starts = np.zeros(len(spread) + 1, dtype=np.int64)
        starts[1:] = np.cumsum(list(spread.values()))
        self._starts: list[int] = starts.tolist()
        self._tasks = np.zeros(starts[-1], dtype=np.int32)
        self._weights = np.zeros(starts[-1], dtype=np.float32)
        place = starts[:-1].copy()
        for task, words in enumerate(wordings):
            if not words:
                continue
            rows = np.array([self._row[token] for token in words], dtype=np.int64)
            weights = np.array([self._rarity[row] for row in rows]) * list(words.values())
            self._tasks[place[rows]] = task
            self._weights[place[rows]] = weights / np.linalg.norm(weights)
            place[rows] += 1

    def cosines(self, evidence: Collection[str]) -> NDArray[np.float64]:
        """The request's cosine with each task, shape (tasks,)."""
        square = 0.0
        parts: list[tuple[int, int, float]] = []
        for token in sorted(evidence):
            row = self._row.get(token)
            if row is None:
                square += self._unknown * self._unknown
                continue
            weight = self._rarity[row]
            square += weight * weight
            parts.append((self._starts[row], self._starts[row + 1], weight))
        if not parts:
            return np.zeros(self._count)
        tasks = np.concatenate([self._tasks[start:end] for start, end, _ in parts])
        weights = np.concatenate([self._weights[start:end] * weight for start, end, weight in parts])
        return np.bincount(tasks, weights, minlength=self._count) / math.sqrt(square)


def _rarity(tasks: int, having: int) -> float:
    """Inverse frequency over tasks, smoothed."""
    return math.log((1 + tasks) / (1 + having)) + 1.0
