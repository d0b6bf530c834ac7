"""Evidence for answers from a closed set: accuracy and macro-F1 with intervals, paired comparison, confusions.

Pure functions of answers given and answers wanted, each in a form in which equal means the same (`answers.answer_key`). None
given stands for no answer, which is wrong. Every interval is a 95% interval. Knows no model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from shoal.agents.contract.gate import Figure, share

#: stands for no answer in a table of confusions
NO_ANSWER = ""
#: resamples of a bootstrap; the ends of its interval then wander by about a hundredth of its width
_DRAWS = 2000
#: cells of resampled tables that are held at once
_CELLS = 4_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Paired:
    """Two ways of answering, put to the same calls (McNemar's exact test).

    Attributes:
        only_first, only_second: calls that only this one gets right. Those both get right, or wrong, decide nothing.
        p_differs: how likely so large a difference is, either way, if neither is better.
        p_first_below: how likely it is that the first does so badly beside the second, if it is not below it; small
            means that it is below.
    """

    count: int
    only_first: int
    only_second: int
    p_differs: float
    p_first_below: float

    def to_dict(self) -> dict[str, float | int]:
        return {
            "count": self.count,
            "only_first": self.only_first,
            "only_second": self.only_second,
            "p_differs": self.p_differs,
            "p_first_below": self.p_first_below,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Confusion:
    """One kind of mistake. `of`: how often `wanted` was wanted at all; `given` is empty for no answer."""

    wanted: str
    given: str
    count: int
    of: int

    def to_dict(self) -> dict[str, Any]:
        return {"wanted": self.wanted, "given": self.given, "count": self.count, "of": self.of}


def accuracy(given: Sequence[str | None], wanted: Sequence[str]) -> Figure:
    """Share right, with its exact (Clopper-Pearson) interval."""
    return share(sum(g == w for g, w in zip(given, wanted, strict=True)), len(wanted))


def wilson(hits: int, count: int) -> Figure:
    """A share with Wilson's score interval: shorter than the exact one, and right on average, not always at least.

    Source: Wilson 1927; recommended by Brown, Cai, DasGupta 2001, "Interval Estimation for a Binomial Proportion".
    """
    if count == 0:
        return Figure(value=0.0, low=0.0, high=1.0, count=0)
    interval = binomtest(hits, count).proportion_ci(confidence_level=0.95, method="wilson")
    return Figure(value=hits / count, low=float(interval.low), high=float(interval.high), count=count)


def macro_f1(
    given: Sequence[str | None], wanted: Sequence[str], *, seed: int = 0, draws: int = _DRAWS
) -> Figure:
    """Mean over the wanted labels of the F1 of each, with a percentile bootstrap interval over calls.

    A label that no call wanted has no F1 of its own; giving it costs the label that was wanted. A resample that leaves a label
    out takes the mean over the others.
    """
    if not wanted:
        return Figure(value=0.0, low=0.0, high=1.0, count=0)
    labels = sorted(set(wanted))
    place = {label: i for i, label in enumerate(labels)}
    # one place more for whatever is none of the wanted labels
    pairs = Counter(
        (place[w], place.get(g or NO_ANSWER, len(labels))) for g, w in zip(given, wanted, strict=True)
    )
    cells = np.array(sorted(pairs), dtype=np.int64)
    counts = np.array([pairs[(int(w), int(g))] for w, g in cells], dtype=np.int64)
    value = float(_mean_f1(counts[None, :], cells, len(labels))[0])
    random = np.random.default_rng(seed)
    shares = counts / counts.sum()
    at_once = max(1, _CELLS // max(len(cells), len(labels)))
    found: list[NDArray[np.float64]] = []
    for start in range(0, draws, at_once):
        # resampling calls is drawing the counts of each kind of outcome at once
        sample = random.multinomial(len(wanted), shares, size=min(at_once, draws - start))
        found.append(_mean_f1(sample, cells, len(labels)))
    low, high = np.quantile(np.concatenate(found), (0.025, 0.975)) if found else (0.0, 1.0)
    return Figure(value=value, low=min(float(low), value), high=max(float(high), value), count=len(wanted))


def paired(first_right: Sequence[bool], second_right: Sequence[bool]) -> Paired:
    """McNemar's exact test over calls that both answered: the calls that only one gets right are coin tosses if none is better.

    Source: McNemar 1947, "Note on the sampling error of the difference between correlated proportions".
    """
    first, second = np.asarray(first_right, dtype=bool), np.asarray(second_right, dtype=bool)
    if first.shape != second.shape:
        raise ValueError(
            f"Both must have answered the same calls: got {first.size} and {second.size} verdicts."
        )
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    tossed = only_first + only_second
    return Paired(
        count=int(first.size),
        only_first=only_first,
        only_second=only_second,
        p_differs=float(binomtest(only_first, tossed).pvalue) if tossed else 1.0,
        p_first_below=float(binomtest(only_first, tossed, alternative="less").pvalue) if tossed else 1.0,
    )


def confusions(given: Sequence[str | None], wanted: Sequence[str], *, most: int = 20) -> list[Confusion]:
    """The commonest kinds of mistake first; among equally common ones in alphabetic order."""
    wrong = Counter((w, g or NO_ANSWER) for g, w in zip(given, wanted, strict=True) if g != w)
    asked = Counter(wanted)
    ordered = sorted(wrong.items(), key=lambda item: (-item[1], item[0]))[:most]
    return [Confusion(wanted=w, given=g, count=n, of=asked[w]) for (w, g), n in ordered]


def _mean_f1(counts: NDArray[np.int64], cells: NDArray[np.int64], labels: int) -> NDArray[np.float64]:
    """Macro-F1 of each row of `counts`, shape (rows, cells); a cell is (wanted, given), `given == labels` for any other answer."""
    wanted = np.zeros((len(counts), labels + 1))
    given, hit = np.zeros_like(wanted), np.zeros_like(wanted)
    for column, (w, g) in enumerate(cells):
        wanted[:, w] += counts[:, column]
        given[:, g] += counts[:, column]
        if w == g:
            hit[:, w] += counts[:, column]
    there = wanted[:, :labels] > 0
    f1 = 2 * hit[:, :labels] / np.maximum(wanted[:, :labels] + given[:, :labels], 1)
    mean: NDArray[np.float64] = (f1 * there).sum(axis=1) / there.sum(axis=1)
    return mean
