"""Trains label specialists: TF-IDF of words and character runs into a linear model. Shapes and engine: `serve/engines/classifier.py`.

Two linear models (squared hinge, and multinomial logistic) make different mistakes; each is brought to a common scale by a
temperature fitted on `choose`, and one of them or their sum is kept, whichever orders its answers best there. A sum of linear models is
one weight matrix, so it costs nothing when serving.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file
from scipy.optimize import minimize_scalar
from scipy.sparse import csr_matrix

from shoal.agents.learning.answers import AnswerSet
from shoal.agents.learning.prompts import PromptSet
from shoal.agents.learning.text_features import Reading, Vocabulary, encode_all, has_context
from shoal.agents.learning.training import Example, TrainContext, TrainReport
from shoal.errors import DataError

KIND = "classifier"
WEIGHTS = "weights.safetensors"

#: the folder stays below this
_MAX_BYTES = 36_000_000
_BYTES_PER_TERM = 24
#: read what was said before where at least this share of the calls have any
_CONTEXT_SHARE = 0.1
#: nominal speed: the hinge model takes this many seconds for each call and answer
_HINGE_SECONDS = 6e-6
#: share of the budget that each of the two models may take
_BUDGET_SHARE = 0.4
#: logistic regression: one pass costs about this many seconds per non-zero weight and answer, on one nominal core
_SECONDS_PER_CELL = 1.8e-9
_MOST_PASSES = 60
_FEWEST_PASSES = 15
#: the hinge model reaches its tolerance long before
_HINGE_PASSES = 300
#: by how much a single model must order its answers better than the sum of both to be preferred
_CLEARLY = 0.15
_NOVELTY_POWERS = (0.5, 1.0, 2.0)

Matrix = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class _Linear:
    name: str
    weights: Matrix
    bias: Matrix

    def logits(self, features: csr_matrix) -> Matrix:
        out: Matrix = np.asarray(features @ self.weights) + self.bias
        return out

    def scaled(self, by: float) -> _Linear:
        return _Linear(self.name, self.weights * by, self.bias * by)

    def plus(self, other: _Linear) -> _Linear:
        return _Linear(f"{self.name}+{other.name}", self.weights + other.weights, self.bias + other.bias)


def train_classifier(
    train: Sequence[Example], choose: Sequence[Example], folder: Path, context: TrainContext
) -> TrainReport:
    """Train a label specialist into `folder`. Raises DataError where the answers are no closed set."""
    started = context.monotonic()
    answers = AnswerSet.fit([e.content for e in train])
    labels = answers.indices([e.content for e in train])
    kept = [(e, y) for e, y in zip(train, labels, strict=True) if y >= 0]
    affordable = int(_BUDGET_SHARE * context.seconds / (_HINGE_SECONDS * len(answers.keys)))
    if len(kept) > affordable:
        picked = np.random.default_rng(context.seed).permutation(len(kept))[: max(affordable, 100)]
        kept = [kept[i] for i in sorted(picked.tolist())]
    examples, y_train = [e for e, _ in kept], np.array([y for _, y in kept])
    y_choose = np.array(answers.indices([e.content for e in choose]), dtype=np.int64)

    prompts = PromptSet.fit([e.request for e in examples])
    reading = Reading(
        context=float(np.mean([has_context(e.request) for e in examples])) >= _CONTEXT_SHARE,
        system=not prompts.recurring,
    )
    context.progress(0.05, "reading n-grams")
    place = [prompts.index(e.request) for e in examples]
    asked = [p if prompts.several else -1 for p in place]
    vocabulary = Vocabulary.fit(
        [e.request for e in examples],
        asked,
        reading=reading,
        min_calls=2,
        max_rows=int(_MAX_BYTES / (2 * len(answers.keys) + _BYTES_PER_TERM)),
    )
    if not len(vocabulary.idf):
        raise DataError("Its calls share no words that a label could be told by.")
    features, _ = encode_all(vocabulary, [e.request for e in examples], asked)
    choose_place = [prompts.index(e.request) for e in choose]
    choose_asked = [p if prompts.several else -1 for p in choose_place]
    choose_features, known = encode_all(vocabulary, [e.request for e in choose], choose_asked)
    allowed = _allowed(place, y_train, max(1, len(prompts.keys)), len(answers.keys))
    _stop_if_asked(context)

    context.progress(0.3, "training the hinge model")
    models = [_hinge(features, y_train, len(answers.keys), context.seed)]
    _stop_if_asked(context)
    passes = _passes(features, len(answers.keys), context.seconds)
    cut = False
    if passes >= _FEWEST_PASSES:
        if context.monotonic() - started < 2 * context.seconds:
            context.progress(0.5, "training the logistic model")
            models.append(_logistic(features, y_train, len(answers.keys), passes))
        else:
            cut = True
    _stop_if_asked(context)

    context.progress(0.9, "choosing")
    model, scores = _choose(models, choose_features, np.array(choose_place), y_choose, allowed)
    power = _novelty_power(model, choose_features, np.array(choose_place), y_choose, allowed, known)
    _save(folder, model, vocabulary, answers, prompts, allowed, power)
    context.progress(1.0, "trained")
    return TrainReport(
        kind=KIND,
        steps=passes,
        cut_by_clock=cut,
        details={
            "model": model.name,
            "answers": len(answers.keys),
            "ngrams": len(vocabulary.idf),
            "prompts": len(prompts.keys) if prompts.recurring else "ever new",
            "novelty_power": power,
            "area_under_risk_coverage": scores,
            "left_out": len(train) - len(examples),
        },
    )


def _allowed(place: Sequence[int], y: NDArray[np.int64], prompts: int, answers: int) -> NDArray[np.bool_]:
    table = np.zeros((prompts, answers), dtype=bool)
    for prompt, label in zip(place, y, strict=True):
        if prompt >= 0:
            table[prompt, label] = True
    table[~table.any(axis=1)] = True
    return table


def _full(name: str, coefficients: Matrix, intercept: Matrix, answers: int, classes: Matrix) -> _Linear:
    """One column for each answer, also where the library gives two answers one column or an answer has no calls."""
    if coefficients.shape[0] == 1 and len(classes) == 2:
        coefficients = np.vstack([-coefficients, coefficients]) / 2
        intercept = np.concatenate([-intercept, intercept]) / 2
    weights = np.zeros((coefficients.shape[1], answers))
    bias = np.full(answers, -30.0)
    weights[:, classes] = coefficients.T
    bias[classes] = intercept
    return _Linear(name, weights, bias)


def _constant(features: csr_matrix, answers: int) -> _Linear:
    return _Linear("constant", np.zeros((features.shape[1], answers)), np.zeros(answers))


def _hinge(features: csr_matrix, y: NDArray[np.int64], answers: int, seed: int) -> _Linear:
    from sklearn.svm import LinearSVC

    if len(set(y.tolist())) < 2:
        return _constant(features, answers)
    model = LinearSVC(C=0.7, random_state=seed, max_iter=_HINGE_PASSES)
    with warnings.catch_warnings():
        # stopping before the tolerance is reached is what a step budget is for
        warnings.simplefilter("ignore")
        model.fit(features, y)
    return _full("hinge", model.coef_, model.intercept_, answers, model.classes_)


def _logistic(features: csr_matrix, y: NDArray[np.int64], answers: int, passes: int) -> _Linear:
    from sklearn.linear_model import LogisticRegression

    if len(set(y.tolist())) < 2:
        return _constant(features, answers)
    model = LogisticRegression(C=10.0, max_iter=passes, tol=1e-3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(features, y)
    return _full("logistic", model.coef_, model.intercept_, answers, model.classes_)


def _passes(features: csr_matrix, answers: int, seconds: float) -> int:
    """Passes of the logistic model within its share of the budget, by nominal speed; 0 where it would get too few."""
    per_pass = (features.nnz + features.shape[1]) * answers * _SECONDS_PER_CELL + 1e-3
    passes = min(_MOST_PASSES, int(_BUDGET_SHARE * seconds / per_pass))
    return passes if passes >= _FEWEST_PASSES else 0


def _masked(logits: Matrix, place: NDArray[np.int64], allowed: NDArray[np.bool_]) -> Matrix:
    out = logits.copy()
    known = place >= 0
    out[known] = np.where(allowed[place[known]], out[known], -np.inf)
    return out


def _softmax(logits: Matrix) -> Matrix:
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    out: Matrix = odds / odds.sum(axis=1, keepdims=True)
    return out


def _temperature(logits: Matrix, y: NDArray[np.int64]) -> float:
    """The factor on the logits under which `choose` is most likely."""
    at = np.flatnonzero(y >= 0)
    # an answer that the mask rules out stays wrong under any factor
    at = at[np.isfinite(logits[at, y[at]])] if len(at) else at
    if not len(at):
        return 1.0

    # one call more, answered by chance: without it, a few calls that are all right would ask for certainty
    smoothing = 1.0 / (len(at) + 1)

    def surprise(log_factor: float) -> float:
        probabilities = np.log(_softmax(logits[at] * np.exp(log_factor)) + 1e-12)
        chosen = probabilities[np.arange(len(at)), y[at]]
        possible = np.isfinite(logits[at])
        by_chance = np.where(possible, probabilities, 0.0).sum(axis=1) / possible.sum(axis=1)
        return float(-((1 - smoothing) * chosen + smoothing * by_chance).mean())

    return float(np.exp(minimize_scalar(surprise, bounds=(-3.0, 4.0), method="bounded").x))


def _area(confidence: Matrix, right: NDArray[np.bool_]) -> float:
    """Mean share wrong over all coverages, the most confident first: lower orders right before wrong better."""
    if not len(right):
        return 0.0
    order = np.argsort(-confidence, kind="stable")
    return float((np.cumsum(~right[order]) / np.arange(1, len(order) + 1)).mean())


def _choose(
    models: Sequence[_Linear],
    features: csr_matrix,
    place: NDArray[np.int64],
    y: NDArray[np.int64],
    allowed: NDArray[np.bool_],
) -> tuple[_Linear, dict[str, float]]:
    if not len(y):
        return models[0], {}

    def fitted(model: _Linear) -> _Linear:
        return model.scaled(_temperature(_masked(model.logits(features), place, allowed), y))

    def area(model: _Linear) -> float:
        p = _softmax(_masked(model.logits(features), place, allowed))
        return _area(p.max(axis=1), p.argmax(axis=1) == y)

    candidates = [fitted(model) for model in models]
    if len(candidates) == 2:
        candidates.insert(0, fitted(candidates[0].plus(candidates[1])))
    scores = {model.name: area(model) for model in candidates}
    best = min(candidates, key=lambda model: scores[model.name])
    # `choose` is small: the sum is the steadier one, so a single model must be clearly better
    if scores[candidates[0].name] <= scores[best.name] * (1 + _CLEARLY):
        best = candidates[0]
    return best, scores


def _novelty_power(
    model: _Linear,
    features: csr_matrix,
    place: NDArray[np.int64],
    y: NDArray[np.int64],
    allowed: NDArray[np.bool_],
    known: Matrix,
) -> float:
    """How strongly unknown n-grams lower the confidence: at least 0.5, for calls unlike any that `choose` has."""
    if not len(y):
        return 1.0
    p = _softmax(_masked(model.logits(features), place, allowed))
    right = p.argmax(axis=1) == y
    return min(_NOVELTY_POWERS, key=lambda power: _area(p.max(axis=1) * known**power, right))


def _save(
    folder: Path,
    model: _Linear,
    vocabulary: Vocabulary,
    answers: AnswerSet,
    prompts: PromptSet,
    allowed: NDArray[np.bool_],
    novelty_power: float,
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Any] = {
        "weights": np.ascontiguousarray(model.weights, dtype=np.float16),
        "bias": model.bias.astype(np.float32),
        "idf": vocabulary.idf.astype(np.float32),
        "allowed": allowed.astype(np.uint8),
    }
    save_file(tensors, folder / WEIGHTS)
    texts: dict[str, Callable[[], str]] = {
        "vocabulary.json": vocabulary.to_json,
        "answers.json": answers.to_json,
        "prompts.json": prompts.to_json,
        "settings.json": lambda: json.dumps({"novelty_power": novelty_power}),
    }
    for name, text in texts.items():
        (folder / name).write_text(text(), encoding="utf-8")


def _stop_if_asked(context: TrainContext) -> None:
    if context.stopped():
        raise KeyboardInterrupt
