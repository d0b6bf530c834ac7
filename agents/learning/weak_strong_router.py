"""A router between a weak and a strong model that is learnt from which of them was right: it foretells whether the weak one is.

What it reads of a prompt are marks that anyone could count: how long it is, its sentences, its numbers, words of quantity, comparison and
order; beside them, if that helps, words and pieces of words. Which of a fixed list of settings it uses is chosen by cross-validation inside
the training prompts, so a prompt that is scored has chosen nothing. With a thousand prompts heavy regularisation is what counts, and the list
is made of that.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from shoal.agents.contract.weak_strong import Outcomes, curve

Scores = NDArray[np.float64]

FOLDS = 5
_INNER_FOLDS = 5
_NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")
_WORD = re.compile(r"[a-z]+")
_SENTENCE = re.compile(r"[.?!]+(?:\s|$)")
_NAME = re.compile(r"\b[A-Z][a-z]+")
#: words of quantity, comparison and order, and those that join; each is counted by itself
_COUNTED = [
    "twice",
    "double",
    "half",
    "third",
    "quarter",
    "triple",
    "times",
    "more",
    "less",
    "fewer",
    "than",
    "each",
    "every",
    "per",
    "total",
    "left",
    "remaining",
    "rest",
    "average",
    "percent",
    "difference",
    "ratio",
    "if",
    "then",
    "after",
    "before",
    "first",
    "another",
    "also",
    "same",
    "altogether",
    "combined",
    "between",
    "equal",
    "remain",
    "both",
    "week",
    "day",
    "month",
    "year",
    "hour",
    "minute",
    "dollars",
    "cost",
    "price",
    "speed",
    "old",
    "age",
    "how",
    "many",
    "much",
    "and",
    "but",
    "of",
    "she",
    "he",
    "they",
    "discount",
    "interest",
    "profit",
    "needs",
    "would",
]
#: numbers up to this are small
_SMALL = 12


def prompt_marks(prompt: str) -> list[float]:
    """What is counted of a prompt; finite for every text, the empty one too."""
    words = _WORD.findall(prompt.lower())
    written = _NUMBER.findall(prompt)
    # of digits without end a float is infinite
    numbers = [min(float(n.replace(",", "")), 1e12) for n in written]
    sentences = [s for s in _SENTENCE.split(prompt) if s.strip()]
    counts = dict.fromkeys(_COUNTED, 0.0)
    for word in words:
        if word in counts:
            counts[word] += 1
    return [
        float(len(prompt)),
        float(np.log1p(len(prompt))),
        float(len(words)),
        float(len(sentences)),
        len(prompt) / max(1, len(sentences)),
        float(max(map(len, sentences), default=0)),
        float(len(numbers)),
        float(len(set(numbers))),
        float(np.log1p(max(numbers, default=0.0))),
        float(sum("." in n for n in written)),
        float(sum(n <= _SMALL for n in numbers)),
        float(prompt.count("%")),
        float(prompt.count("$")),
        float(prompt.count("/")),
        float(prompt.count(",")),
        float(len(_NAME.findall(prompt))),
        len(set(words)) / max(1, len(words)),
        sum(map(len, words)) / max(1, len(words)),
        *counts.values(),
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One way to score prompts: how strong marks are regularised (`C` of the logistic regression), and the share that a model of words
    and pieces of words has in the score."""

    marks_c: float
    text_share: float = 0.0


#: the simplest first: of settings that do alike, the first is taken
SETTINGS = tuple(
    Setting(marks_c=c, text_share=share) for share in (0.0, 0.25, 0.5) for c in (0.0003, 0.001, 0.003, 0.01)
)


@dataclass(frozen=True, slots=True)
class Scale:
    """Brings scores to mean 0 and spread 1, as they were on prompts that whoever gave them had not seen."""

    mean: float
    spread: float

    @classmethod
    def of(cls, scores: Scores) -> Scale:
        return cls(float(scores.mean()), float(scores.std()))

    def __call__(self, scores: Scores) -> Scores:
        return (scores - self.mean) / self.spread if self.spread > 0 else np.zeros_like(scores)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A setting, and the scales of the two models that it mixes: heavily regularised chances lie close together."""

    setting: Setting
    marks: Scale
    text: Scale


@dataclass(slots=True)
class WeakStrongRouter:
    """Scores prompts by how likely the weak model is wrong on them."""

    choice: Choice
    _marks: Any
    _text: Any = None

    @classmethod
    def train(
        cls, prompts: Sequence[str], weak_right: NDArray[np.float64], choice: Choice
    ) -> WeakStrongRouter:
        """Raises ValueError where the weak model was always right, or never."""
        setting = choice.setting
        marks = _marks_model(setting.marks_c).fit(_marks(prompts), weak_right)
        text = _text_model().fit(list(prompts), weak_right) if setting.text_share else None
        return cls(choice, marks, text)

    def score(self, prompts: Sequence[str]) -> Scores:
        """Shape (prompts,): 0 for a prompt like most, higher where the weak model is likelier to be wrong."""
        scores = self.choice.marks(self._marks.predict_proba(_marks(prompts))[:, 0])
        if self._text is None:
            return scores
        text = self.choice.text(self._text.predict_proba(list(prompts))[:, 0])
        return _mixed(self.choice.setting, scores, text)


def choose(prompts: Sequence[str], outcomes: Outcomes, *, seed: int) -> Choice:
    """The setting with the highest APGR in a cross-validation over these prompts."""
    weak = outcomes.weak
    folds = list(_folds(_INNER_FOLDS, seed).split(np.zeros(len(weak)), weak))
    marks, texts = _marks(prompts), np.array(prompts, dtype=object)
    by_marks = {
        c: _held_out(folds, partial(_marks_model, c), marks, weak) for c in {s.marks_c for s in SETTINGS}
    }
    scales = {c: Scale.of(scores) for c, scores in by_marks.items()}
    text = _held_out(folds, _text_model, texts, weak)
    text_scale = Scale.of(text)
    found = [
        curve(outcomes, _mixed(s, scales[s.marks_c](by_marks[s.marks_c]), text_scale(text))).apgr
        for s in SETTINGS
    ]
    best = SETTINGS[int(np.argmax(np.round(found, 4)))]
    return Choice(setting=best, marks=scales[best.marks_c], text=text_scale)


@dataclass(frozen=True, slots=True, kw_only=True)
class CrossValidated:
    """Scores of prompts by routers that never saw them, shape (prompts,): the router's, and of two floors. `chosen`: a setting a fold."""

    router: Scores
    tfidf: Scores
    length: Scores
    chosen: Sequence[Setting]


def cross_validate(
    prompts: Sequence[str], outcomes: Outcomes, *, seed: int = 0, folds: int = FOLDS
) -> CrossValidated:
    """Train on all folds but one and score that one, `folds` times.

    The floors: TF-IDF with logistic regression as scikit-learn sets them, on the same folds, and the prompt's length in characters.

    Raises:
        ValueError: fewer prompts of a kind (weak model right, wrong) than folds.
    """
    weak, strong = outcomes.weak, outcomes.strong
    least = int(min(weak.sum(), len(weak) - weak.sum()))
    if least < folds * 2:
        raise ValueError(
            f"{folds} folds take at least {folds * 2} prompts that the weak model gets right, and as many that it gets wrong, got {least}."
        )
    texts = np.array(prompts, dtype=object)
    router, tfidf = np.zeros(len(weak)), np.zeros(len(weak))
    chosen = []
    for train, test in _folds(folds, seed).split(np.zeros(len(weak)), weak):
        known = [str(p) for p in texts[train]]
        choice = choose(known, Outcomes(weak=weak[train], strong=strong[train]), seed=seed)
        chosen.append(choice.setting)
        router[test] = WeakStrongRouter.train(known, weak[train], choice).score([str(p) for p in texts[test]])
        floor = make_pipeline(TfidfVectorizer(), LogisticRegression(max_iter=1000)).fit(known, weak[train])
        tfidf[test] = floor.predict_proba(texts[test])[:, 0]
    length = np.array([float(len(p)) for p in prompts])
    return CrossValidated(router=router, tfidf=tfidf, length=length, chosen=chosen)


def _folds(count: int, seed: int) -> StratifiedKFold:
    return StratifiedKFold(count, shuffle=True, random_state=seed)


def _held_out(folds: Sequence[Any], make: Any, inputs: NDArray[Any], weak: NDArray[np.float64]) -> Scores:
    scores = np.zeros(len(weak))
    for train, test in folds:
        scores[test] = make().fit(inputs[train], weak[train]).predict_proba(inputs[test])[:, 0]
    return scores


def _marks(prompts: Sequence[str]) -> NDArray[np.float64]:
    return np.array([prompt_marks(p) for p in prompts], dtype=np.float64)


def _mixed(setting: Setting, marks: Scores, text: Scores) -> Scores:
    return (1 - setting.text_share) * marks + setting.text_share * text


def _marks_model(c: float) -> Any:
    return make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=1000))


def _text_model() -> Any:
    pieces = TfidfVectorizer(
        analyzer="char_wb", ngram_range=(2, 4), min_df=3, sublinear_tf=True, max_features=20_000
    )
    return make_pipeline(pieces, LogisticRegression(C=0.3, max_iter=1000))
