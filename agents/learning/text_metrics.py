"""Figures of texts: BLEU and chrF against several references, and the share with slot errors, each with a 95% interval.

BLEU and chrF are sacrebleu's (Post 2018, arXiv 1804.08771). Their intervals are bootstrapped over texts (Koehn 2004), with a
seed of their own, so the same texts give the same figures. Pure; needs the extra `server` for sacrebleu.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sacrebleu.metrics import BLEU, CHRF

from shoal.agents.contract.gate import Figure, share

#: resamples of an interval
RESAMPLES = 1000
_ORDER = 4
_SEED = 20040725
_LOW, _HIGH = 2.5, 97.5


def bleu(texts: Sequence[str], references: Sequence[Sequence[str]], *, lowercase: bool = True) -> Figure:
    """Corpus BLEU in [0, 100] of one text for each input, against all of that input's references.

    Tokenised as mteval-v13a does, the reference length the closest one. `lowercase` is how the E2E challenge's script
    (Dusek et al. 2020, arXiv 1901.07931) scores. An empty text counts as one that shares nothing.

    Raises:
        ValueError: no texts, or not as many as inputs with at least one reference each.
    """
    _check(texts, references)
    metric = BLEU(lowercase=lowercase, effective_order=True)
    rows = []
    for text, own in zip(texts, references, strict=True):
        score = metric.sentence_score(text, list(own))
        rows.append([*score.counts, *score.totals, score.sys_len, score.ref_len])
    stats = np.asarray(rows, dtype=np.int64)

    def value(sums: np.ndarray) -> float:
        numbers = [int(n) for n in sums]
        score = BLEU.compute_bleu(
            correct=numbers[:_ORDER],
            total=numbers[_ORDER : 2 * _ORDER],
            sys_len=numbers[-2],
            ref_len=numbers[-1],
            smooth_method="exp",
        )
        return float(score.score)

    resampled = [value(stats[rows].sum(axis=0)) for rows in _resamples(len(texts))]
    return _figure(value(stats.sum(axis=0)), resampled, len(texts))


def chrf(texts: Sequence[str], references: Sequence[Sequence[str]]) -> Figure:
    """Mean chrF in [0, 100] of the texts, each against the reference that it is likest to.

    Source: Popovic 2015; character n-grams of order 1 to 6, beta 2. Raises ValueError as `bleu` does.
    """
    _check(texts, references)
    metric = CHRF()
    values = np.asarray(
        [metric.sentence_score(text, list(own)).score for text, own in zip(texts, references, strict=True)]
    )
    resampled = [float(values[rows].mean()) for rows in _resamples(len(texts))]
    return _figure(float(values.mean()), resampled, len(texts))


def slot_error(errors: Sequence[Sequence[str]]) -> Figure:
    """Share of texts with at least one value missing or invented, from what each text has; exact interval.

    The matching rule is that of whoever found the errors: `SlotRules.errors` for a task's own rules.
    """
    return share(sum(bool(own) for own in errors), len(errors))


def values_error(wrong: Sequence[int], values: Sequence[int]) -> Figure:
    """Slot error rate: values missing, wrong or invented, over all values asked for; bootstrapped over texts.

    Source: Wen et al. 2015 (arXiv 1508.01745). Raises ValueError where nothing was asked for.
    """
    amiss, asked = np.asarray(wrong, dtype=np.int64), np.asarray(values, dtype=np.int64)
    if not asked.sum():
        raise ValueError("A slot error rate needs values that texts should carry, got none.")
    resampled = [float(amiss[rows].sum() / max(1, int(asked[rows].sum()))) for rows in _resamples(len(asked))]
    return _figure(float(amiss.sum() / asked.sum()), resampled, len(asked))


def _check(texts: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    if not texts or len(texts) != len(references) or not all(references):
        raise ValueError(
            f"Each text needs at least one reference, got {len(texts)} texts and {len(references)} sets of references, "
            f"{sum(not own for own in references)} of them empty."
        )


def _resamples(count: int) -> list[np.ndarray]:
    chance = np.random.default_rng(_SEED)
    return list(chance.integers(0, count, size=(RESAMPLES, count)))


def _figure(value: float, resampled: Sequence[float], count: int) -> Figure:
    low, high = np.percentile(np.asarray(resampled), [_LOW, _HIGH])
    return Figure(value=value, low=min(float(low), value), high=max(float(high), value), count=count)
