"""How sure a label specialist is of its answer: a small logistic model over what tells right answers from wrong ones.

It reads by how much the best answer is likelier than the next, and how many words there are to go by; the first orders answers of one
prompt, the second knows that "yes, please" says little. It is fitted on calls that the specialist was not trained on and that
do not calibrate. Nearness to training calls, the agreement of several models and entropy were tried beside these and bought no
coverage (docs/benchmarks.md). Pure numerics; a fitted one is used without sklearn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

#: right and wrong answers, each, that it takes to fit
_FEWEST = 8
#: a probability below this is none
_LEAST = 1e-6
#: texts longer than all but this share are no surer than those
_LONG_SHARE = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Sureness:
    """Log-odds that an answer is right: `bias + margin * (log-ratio of the two likeliest) + words * log(1 + words)`.

    Attributes:
        most_words: more count as so many.
    """

    bias: float
    margin: float
    words: float
    most_words: float

    def confidence(
        self, probabilities: NDArray[np.floating], words: NDArray[np.integer]
    ) -> NDArray[np.float64]:
        """In (0, 1). `probabilities`: shape (calls, answers); `words`: of the newest user message, shape (calls,)."""
        odds = self.bias + self.margin * margins(probabilities) + self.words * self._length(words)
        out: NDArray[np.float64] = 1.0 / (1.0 + np.exp(-odds))
        return out

    def _length(self, words: NDArray[np.integer]) -> NDArray[np.float64]:
        out: NDArray[np.float64] = np.log1p(np.minimum(words, self.most_words))
        return out

    def to_dict(self) -> dict[str, float]:
        return {
            "bias": self.bias,
            "margin": self.margin,
            "words": self.words,
            "most_words": self.most_words,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, float]) -> Sureness:
        """Raises KeyError, TypeError or ValueError where it is none."""
        return cls(**{name: float(data[name]) for name in ("bias", "margin", "words", "most_words")})


def margins(probabilities: NDArray[np.floating]) -> NDArray[np.float64]:
    """Log-ratio of the likeliest answer to the next, shape (calls,)."""
    if probabilities.shape[1] < 2:
        return np.full(len(probabilities), -np.log(_LEAST))
    two = np.partition(np.asarray(probabilities, dtype=np.float64), -2, axis=1)[:, -2:]
    out: NDArray[np.float64] = np.log((two[:, 1] + _LEAST) / (two[:, 0] + _LEAST))
    return out


def word_count(text: str) -> int:
    return len(text.split())


def fit_sureness(
    probabilities: NDArray[np.floating], words: Sequence[int], right: NDArray[np.bool_]
) -> Sureness | None:
    """Fitted on held-out answers; None where they are too few to tell, or a larger margin is no better sign."""
    from sklearn.linear_model import LogisticRegression

    if min(right.sum(), (~right).sum()) < _FEWEST:
        return None
    counts = np.asarray(words, dtype=np.int64)
    most = float(np.quantile(counts, 1 - _LONG_SHARE))
    signs = np.column_stack([margins(probabilities), np.log1p(np.minimum(counts, most))])
    centre, spread = signs.mean(axis=0), signs.std(axis=0) + 1e-9
    model = LogisticRegression(C=1.0, max_iter=500).fit((signs - centre) / spread, right)
    weights = model.coef_[0] / spread
    if weights[0] <= 0:
        return None
    return Sureness(
        bias=float(model.intercept_[0] - weights @ centre),
        margin=float(weights[0]),
        words=float(weights[1]),
        most_words=most,
    )
