"""Linear models from features to answers: how they are trained, brought to one scale, added up and ordered by how sure they are.

Pure numerics: features in, weights out. Knows no requests and no files. A sum of linear models is one weight matrix, so several cost
nothing more when serving.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize, minimize_scalar
from scipy.sparse import csr_matrix

from shoal.agents.learning.sureness import Sureness, fit_sureness

Matrix = NDArray[np.float64]
Labels = NDArray[np.int64]

HINGE, LOGISTIC = "hinge", "logistic"

#: the hinge model reaches its tolerance long before
_HINGE_PASSES = 300
_HINGE_C = 0.7
_LOGISTIC_C = 10.0
#: how much answers that share a word of their names share of what is learnt; 0 for nothing
_SHARED = 0.7
#: by how much a single model must order its answers better than the sum of both to be preferred
_CLEARLY = 0.15
#: a call's share of known n-grams is usual unless it is below that of all but this share of held-out calls
_UNUSUAL_SHARE = 0.02
_NAME_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")


@dataclass(frozen=True, slots=True)
class Linear:
    """`weights`: shape (features, answers); `bias`: shape (answers,)."""

    weights: Matrix
    bias: Matrix

    def logits(self, features: csr_matrix) -> Matrix:
        out: Matrix = np.asarray(features @ self.weights) + self.bias
        return out


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """What held-out calls chose: the factor of each model in the sum, the share of known n-grams that is usual, and how sure it is.

    Only a share below the usual one lowers a call's confidence. Among usual calls those of which everything is known are not the
    surest: the shortest ones are, and of those the vaguest ("I need a flight") are answered now this way, now that.
    """

    scales: Mapping[str, float]
    usual_known: float
    #: None where held-out calls were too few to fit one: an answer is then as sure as it is likely
    sureness: Sureness | None = None

    def to_dict(self) -> dict[str, object]:
        sureness = None if self.sureness is None else self.sureness.to_dict()
        return {"scales": dict(self.scales), "usual_known": self.usual_known, "sureness": sureness}

    @classmethod
    def from_dict(cls, data: Mapping[str, object]) -> Mixture:
        scales = data["scales"]
        assert isinstance(scales, Mapping)
        usual, sureness = data["usual_known"], data.get("sureness")
        return cls(
            scales={str(k): float(v) for k, v in scales.items()},
            usual_known=float(str(usual)),
            sureness=Sureness.from_dict(sureness) if isinstance(sureness, Mapping) else None,
        )

    def of(self, models: Mapping[str, Linear]) -> Linear:
        """One model: the sum of those that are there, each by its factor."""
        used = [(models[name], by) for name, by in self.scales.items() if name in models]
        if not used:
            return next(iter(models.values()))
        weights = sum(m.weights * by for m, by in used)
        bias = sum(m.bias * by for m, by in used)
        return Linear(np.asarray(weights), np.asarray(bias))


def hinge(features: csr_matrix, y: Labels, answers: int, seed: int) -> Linear:
    """One answer against all others, squared hinge."""
    from sklearn.svm import LinearSVC

    if len(set(y.tolist())) < 2:
        return _constant(features, y, answers)
    model = LinearSVC(C=_HINGE_C, random_state=seed, max_iter=_HINGE_PASSES)
    with warnings.catch_warnings():
        # stopping before the tolerance is reached is what a step budget is for
        warnings.simplefilter("ignore")
        model.fit(features, y)
    return _full(model.coef_, model.intercept_, answers, model.classes_)


def logistic(features: csr_matrix, y: Labels, answers: int, passes: int) -> Linear:
    """Multinomial logistic regression."""
    from sklearn.linear_model import LogisticRegression

    if len(set(y.tolist())) < 2:
        return _constant(features, y, answers)
    model = LogisticRegression(C=_LOGISTIC_C, max_iter=passes, tol=1e-3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(features, y)
    return _full(model.coef_, model.intercept_, answers, model.classes_)


def logistic_among(
    features: csr_matrix, y: Labels, allowed: NDArray[np.bool_], names: Sequence[str], passes: int
) -> Linear:
    """Multinomial logistic regression where each call has its own choice of answers, and answers share what their names share.

    Only answers that a call's prompt allows compete for it. `FindBus` and `FindMovies` both have the word `Find`: what tells it from
    `Buy` is learnt from the calls of both. That is a prior under which the weights of two answers correlate by their common words.

    Args:
        allowed: shape (calls, answers); the call's own answer is among them.
        names: of the answers, in their order.
    """
    count, answers = allowed.shape
    root = _shared_root(names)
    barred = np.where(allowed, 0.0, -np.inf)
    wanted = np.zeros((count, answers))
    wanted[np.arange(count), y] = 1.0
    transposed = features.T.tocsr()

    def loss(flat: Matrix) -> tuple[float, Matrix]:
        free = flat.reshape(-1, answers)
        logits = np.asarray(features @ free) @ root.T + barred
        logits -= logits.max(axis=1, keepdims=True)
        odds = np.exp(logits)
        total = odds.sum(axis=1, keepdims=True)
        value = float((np.log(total[:, 0]) - logits[np.arange(count), y]).sum())
        slope = np.asarray(transposed @ ((odds / total - wanted) @ root)) + free / _LOGISTIC_C
        return value + float(flat @ flat) / (2 * _LOGISTIC_C), slope.ravel()

    start = np.zeros(features.shape[1] * answers)
    found = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": passes, "maxcor": 6}).x
    return Linear(found.reshape(-1, answers) @ root.T, np.zeros(answers))


def masked(logits: Matrix, place: Labels, allowed: NDArray[np.bool_]) -> Matrix:
    """Answers that a call's prompt never had become impossible; a call of an unknown prompt (-1) keeps all."""
    out = logits.copy()
    known = place >= 0
    out[known] = np.where(allowed[place[known]], out[known], -np.inf)
    return out


def softmax(logits: Matrix) -> Matrix:
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    out: Matrix = odds / odds.sum(axis=1, keepdims=True)
    return out


def temperature(logits: Matrix, y: Labels) -> float:
    """The factor on the logits under which the answers `y` (-1 for none of them) are most likely."""
    at = np.flatnonzero(y >= 0)
    # an answer that the mask rules out stays wrong under any factor
    at = at[np.isfinite(logits[at, y[at]])] if len(at) else at
    if not len(at):
        return 1.0

    # one call more, answered by chance: without it, a few calls that are all right would ask for certainty
    smoothing = 1.0 / (len(at) + 1)

    def surprise(log_factor: float) -> float:
        probabilities = np.log(softmax(logits[at] * np.exp(log_factor)) + 1e-12)
        chosen = probabilities[np.arange(len(at)), y[at]]
        possible = np.isfinite(logits[at])
        by_chance = np.where(possible, probabilities, 0.0).sum(axis=1) / possible.sum(axis=1)
        return float(-((1 - smoothing) * chosen + smoothing * by_chance).mean())

    return float(np.exp(minimize_scalar(surprise, bounds=(-3.0, 4.0), method="bounded").x))


def area(confidence: Matrix, right: NDArray[np.bool_]) -> float:
    """Mean share wrong over all coverages, the most confident first: lower orders right before wrong better."""
    if not len(right):
        return 0.0
    order = np.argsort(-confidence, kind="stable")
    return float((np.cumsum(~right[order]) / np.arange(1, len(order) + 1)).mean())


def mix(
    logits: Mapping[str, Matrix], y: Labels, known: Matrix, words: Sequence[int]
) -> tuple[Mixture, dict[str, float]]:
    """Which models to add up, and by which factors, from their masked logits on calls that they were not trained on.

    Args:
        logits: of each model, shape (calls, answers).
        y: the answers, -1 for one that is none of them.
        known: share of known n-grams of each call.
        words: how many its newest user message has.

    Returns:
        What was chosen, and of each choice the area under its risk-coverage curve.
    """
    if not len(y):
        name = next(iter(logits))
        return Mixture(scales={name: 1.0}, usual_known=1.0), {}
    choices: dict[str, dict[str, float]] = {name: {name: temperature(z, y)} for name, z in logits.items()}
    both = "+".join(choices)
    if len(choices) > 1:
        scales = {name: own[name] for name, own in choices.items()}
        factor = temperature(_sum(logits, scales), y)
        choices = {both: {name: factor * by for name, by in scales.items()}, **choices}
    scores = {}
    for name, scales in choices.items():
        probabilities = softmax(_sum(logits, scales))
        scores[name] = area(probabilities.max(axis=1), probabilities.argmax(axis=1) == y)
    best = min(choices, key=lambda name: scores[name])
    # held-out calls are few: the sum is the steadier one, so a single model must be clearly better
    if scores[both] <= scores[best] * (1 + _CLEARLY):
        best = both
    usual = float(np.quantile(known, _UNUSUAL_SHARE))
    probabilities = softmax(_sum(logits, choices[best]))
    sureness = fit_sureness(probabilities, words, probabilities.argmax(axis=1) == y)
    return Mixture(scales=choices[best], usual_known=usual if usual > 0 else 1.0, sureness=sureness), scores


def _sum(logits: Mapping[str, Matrix], scales: Mapping[str, float]) -> Matrix:
    out: Matrix = np.sum([logits[name] * by for name, by in scales.items()], axis=0)
    return out


def _shared_root(names: Sequence[str]) -> Matrix:
    """A root of the answers' prior covariance: 1 on the diagonal, and what their names' common words add; shape (answers, answers)."""
    words = [{w.lower() for w in _NAME_WORD.findall(name)} for name in names]
    common = sorted({w for own in words for w in own})
    holds = np.array([[w in own for w in common] for own in words], dtype=np.float64).reshape(
        len(names), len(common)
    )
    holds = holds[:, holds.sum(axis=0) > 1]
    holds = holds / np.sqrt(np.maximum(holds.sum(axis=1, keepdims=True), 1.0))
    out: Matrix = np.linalg.cholesky(np.eye(len(names)) + _SHARED * holds @ holds.T)
    return out


def _full(coefficients: Matrix, intercept: Matrix, answers: int, classes: Labels) -> Linear:
    """One column for each answer, also where the library gives two answers one column or an answer has no calls."""
    if coefficients.shape[0] == 1 and len(classes) == 2:
        coefficients = np.vstack([-coefficients, coefficients]) / 2
        intercept = np.concatenate([-intercept, intercept]) / 2
    weights = np.zeros((coefficients.shape[1], answers))
    bias = np.full(answers, -30.0)
    weights[:, classes] = coefficients.T
    bias[classes] = intercept
    return Linear(weights, bias)


def _constant(features: csr_matrix, y: Labels, answers: int) -> Linear:
    bias = np.zeros(answers)
    bias[y[:1]] = 1.0
    return Linear(np.zeros((features.shape[1], answers)), bias)
