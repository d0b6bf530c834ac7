"""Trains label specialists: n-grams, and an embedding where one is configured, into a linear model. Engine: `serve/engines/classifier.py`.

Two linear models (squared hinge, and multinomial logistic) make different mistakes. Each is brought to a common scale by a
temperature, and one of them or their sum is kept, whichever orders its answers best on calls that it was not trained on: those of
cross-fitting where `choose` is small and the budget pays for it, else `choose`; how sure it is of each is learnt there too. Told what was chosen (`TrainContext.settings`), it only trains.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file
from scipy.sparse import csr_matrix, hstack

from shoal.agents.learning.answers import AnswerSet
from shoal.agents.learning.linear_heads import (
    HINGE,
    LOGISTIC,
    Labels,
    Linear,
    Matrix,
    Mixture,
    hinge,
    logistic,
    logistic_among,
    masked,
    mix,
)
from shoal.agents.learning.prompts import PromptSet
from shoal.agents.learning.sureness import word_count
from shoal.agents.learning.text_features import Reading, Vocabulary, encode_all, has_context
from shoal.agents.learning.training import Example, TrainContext, TrainReport
from shoal.agents.ports import Embedder
from shoal.errors import DataError

KIND = "classifier"
WEIGHTS = "weights.safetensors"

#: the folder stays below this
_MAX_BYTES = 36_000_000
_BYTES_PER_TERM = 24
#: read what was said before where at least this share of the calls have any
_CONTEXT_SHARE = 0.1
#: length of an embedding beside n-grams, of which each field has length 1
_MEANING = 2.0
#: a share of known n-grams below the usual one, over that one, to this power, multiplies the confidence
_NOVELTY_POWER = 2.0
#: nominal speed: the hinge model takes this many seconds for each call and answer
_HINGE_SECONDS = 6e-6
#: nominal seconds to embed one call
_EMBEDDING_SECONDS = 0.008
_EMBEDDED_AT_ONCE = 256
#: nominal seconds to read one call's n-grams
_READING_SECONDS = 5e-4
#: share of the budget that each of the two models may take
_BUDGET_SHARE = 0.4
#: logistic regression: one pass costs about this many seconds per non-zero weight and answer, on one nominal core
_SECONDS_PER_CELL = 1.8e-9
_MOST_PASSES = 60
_FEWEST_PASSES = 15
#: parts of a cross-fit; a task with fewer calls than this in each has no use for one
_FOLDS = 3
_FEWEST_IN_FOLD = 20
#: so many calls in `choose` tell two factors as well as cross-fitting does, at a third of its cost
_ENOUGH_TO_CHOOSE = 500
#: the features and weights of answers that share their names' words are held in full while those are learnt
_MOST_SHARED_CELLS = 4_000_000


@dataclass(frozen=True, slots=True)
class _Fit:
    """Models trained on some calls, with what it takes to put other calls to them."""

    vocabulary: Vocabulary
    prompts: PromptSet
    allowed: NDArray[np.bool_]
    models: Mapping[str, Linear]
    passes: int
    cut_by_clock: bool

    def logits(
        self, examples: Sequence[Example], embedder: Embedder | None
    ) -> tuple[dict[str, Matrix], Matrix]:
        """Of each model, masked, shape (examples, answers); and each example's share of known n-grams."""
        place = [self.prompts.index(e.request) for e in examples]
        features, known = _features(self.vocabulary, self.prompts, examples, place, embedder)
        where = np.array(place, dtype=np.int64)
        return {
            name: masked(m.logits(features), where, self.allowed) for name, m in self.models.items()
        }, known


def train_classifier(
    train: Sequence[Example], choose: Sequence[Example], folder: Path, context: TrainContext
) -> TrainReport:
    """Train a label specialist into `folder`. Raises DataError where the answers are no closed set."""
    answers = AnswerSet.fit([e.content for e in train])
    labels = answers.indices([e.content for e in train])
    kept = [(e, y) for e, y in zip(train, labels, strict=True) if y >= 0]
    per_call = _HINGE_SECONDS * len(answers.keys) + (0.0 if context.embedder is None else _EMBEDDING_SECONDS)
    affordable = int(_BUDGET_SHARE * context.seconds / per_call)
    if len(kept) > affordable:
        picked = np.random.default_rng(context.seed).permutation(len(kept))[: max(affordable, 100)]
        kept = [kept[i] for i in sorted(picked.tolist())]
    examples, y = [e for e, _ in kept], np.array([y for _, y in kept], dtype=np.int64)

    if context.embedder is not None:
        _embed(context.embedder, examples, context)
    context.progress(0.2, "reading n-grams")
    fit = _fit(examples, y, answers, context)
    scores: dict[str, float] = {}
    if context.settings is not None:
        mixture = Mixture.from_dict(context.settings)
        folds = 0
    else:
        enough = len(choose) >= _ENOUGH_TO_CHOOSE
        folds = 0 if enough else _folds(examples, fit, len(answers.keys), context.seconds)
        if folds:
            logits, known = _crossed(examples, y, answers, folds, context)
            mixture, scores = mix(logits, y, known, _words(examples))
        else:
            context.progress(0.9, "choosing")
            logits, known = fit.logits(choose, context.embedder)
            wanted = np.array(answers.indices([e.content for e in choose]), dtype=np.int64)
            mixture, scores = mix(logits, wanted, known, _words(choose))
    embedder = context.embedder
    named = None if embedder is None else {"name": embedder.name, "digest": embedder.digest}
    _save(folder, mixture, fit, answers, named)
    context.progress(1.0, "trained")
    return TrainReport(
        kind=KIND,
        steps=fit.passes,
        cut_by_clock=fit.cut_by_clock,
        details={
            "model": "+".join(mixture.scales),
            "answers": len(answers.keys),
            "ngrams": len(fit.vocabulary.idf),
            "prompts": len(fit.prompts.keys) if fit.prompts.recurring else "ever new",
            "embedder": named,
            "usual_known": mixture.usual_known,
            "sureness": None if mixture.sureness is None else mixture.sureness.to_dict(),
            "chosen_by": "settings"
            if context.settings is not None
            else f"{folds} folds"
            if folds
            else "choose",
            "area_under_risk_coverage": scores,
            "left_out": len(train) - len(examples),
        },
        settings=mixture.to_dict(),
    )


def _embed(embedder: Embedder, examples: Sequence[Example], context: TrainContext) -> None:
    """Embed all calls once, with a word of how far it is; embedders remember."""
    for start in range(0, len(examples), _EMBEDDED_AT_ONCE):
        context.progress(0.2 * start / len(examples), "embedding")
        _stop_if_asked(context)
        embedder.embed([e.request.last_user_text for e in examples[start : start + _EMBEDDED_AT_ONCE]])


def _fit(examples: Sequence[Example], y: Labels, answers: AnswerSet, context: TrainContext) -> _Fit:
    started = context.monotonic()
    count = len(answers.keys)
    prompts = PromptSet.fit([e.request for e in examples])
    reading = Reading(
        context=float(np.mean([has_context(e.request) for e in examples])) >= _CONTEXT_SHARE,
        system=not prompts.recurring,
        apart=True,
    )
    place = [prompts.index(e.request) for e in examples]
    vocabulary = Vocabulary.fit(
        [e.request for e in examples],
        _asked(prompts, place),
        reading=reading,
        min_calls=2,
        max_rows=int(_MAX_BYTES / (2 * count + _BYTES_PER_TERM)),
    )
    if not len(vocabulary.idf):
        raise DataError("Its calls share no words that a label could be told by.")
    features, _ = _features(vocabulary, prompts, examples, place, context.embedder)
    allowed = _allowed(place, y, max(1, len(prompts.keys)), count)
    _stop_if_asked(context)
    context.progress(0.3, "training the hinge model")
    models = {HINGE: hinge(features, y, count, context.seed)}
    _stop_if_asked(context)
    passes = _passes(features, count, context.seconds)
    cut = False
    if passes and context.monotonic() - started >= 2 * context.seconds:
        cut = True
    elif passes:
        context.progress(0.5, "training the logistic model")
        shares = (
            prompts.several and features.shape[1] * count <= _MOST_SHARED_CELLS and len(set(y.tolist())) > 1
        )
        if shares:
            own = np.array([allowed[p] if p >= 0 else np.ones(count, dtype=bool) for p in place])
            models[LOGISTIC] = logistic_among(features, y, own, answers.texts, passes)
        else:
            models[LOGISTIC] = logistic(features, y, count, passes)
    _stop_if_asked(context)
    return _Fit(vocabulary, prompts, allowed, models, passes, cut)


def _crossed(
    examples: Sequence[Example], y: Labels, answers: AnswerSet, folds: int, context: TrainContext
) -> tuple[dict[str, Matrix], Matrix]:
    """Logits of every example from models that were trained without its fold; all calls of a group are in one fold."""
    groups = {group: i for i, group in enumerate(dict.fromkeys(e.group for e in examples))}
    dealt = np.random.default_rng(context.seed).permutation(len(groups)) % folds
    fold = np.array([dealt[groups[e.group]] for e in examples])
    out: dict[str, Matrix] = {}
    known = np.zeros(len(examples))
    quiet = replace(context, progress=lambda fraction, text: None)
    for number in range(folds):
        context.progress(0.6 + 0.3 * number / folds, f"cross-fitting, {number + 1} of {folds}")
        inside, outside = np.flatnonzero(fold == number), np.flatnonzero(fold != number)
        fit = _fit([examples[i] for i in outside.tolist()], y[outside], answers, quiet)
        logits, known[inside] = fit.logits([examples[i] for i in inside.tolist()], context.embedder)
        for name, z in logits.items():
            out.setdefault(name, np.zeros((len(examples), z.shape[1])))[inside] = z
    return out, known


def _folds(examples: Sequence[Example], fit: _Fit, answers: int, seconds: float) -> int:
    """Parts of a cross-fit, by nominal speed; 0 where the budget pays for none or there are too few calls."""
    if len({e.group for e in examples}) < _FOLDS * _FEWEST_IN_FOLD or len(fit.models) < 2:
        return 0
    cells = len(examples) * answers
    weights = fit.vocabulary.idf.size * answers
    once = len(examples) * _READING_SECONDS + cells * _HINGE_SECONDS
    once += fit.passes * (weights + 300 * cells) * _SECONDS_PER_CELL
    return _FOLDS if _FOLDS * once <= 2 * _BUDGET_SHARE * seconds else 0


def _features(
    vocabulary: Vocabulary,
    prompts: PromptSet,
    examples: Sequence[Example],
    place: Sequence[int],
    embedder: Embedder | None,
) -> tuple[csr_matrix, Matrix]:
    """N-grams, then the embedding; shape (examples, rows of the vocabulary + size), and shares of known n-grams."""
    ngrams, known = encode_all(vocabulary, [e.request for e in examples], _asked(prompts, place))
    if embedder is None or not examples:
        width = 0 if embedder is None else embedder.size
        return (ngrams if not width else csr_matrix((0, ngrams.shape[1] + width))), known
    meaning = _MEANING * embedder.embed([e.request.last_user_text for e in examples])
    return hstack([ngrams, csr_matrix(meaning)], format="csr"), known


def _words(examples: Sequence[Example]) -> list[int]:
    return [word_count(e.request.last_user_text) for e in examples]


def _asked(prompts: PromptSet, place: Sequence[int]) -> list[int]:
    return [p if prompts.several else -1 for p in place]


def _allowed(place: Sequence[int], y: Labels, prompts: int, answers: int) -> NDArray[np.bool_]:
    table = np.zeros((prompts, answers), dtype=bool)
    for prompt, label in zip(place, y, strict=True):
        if prompt >= 0:
            table[prompt, label] = True
    table[~table.any(axis=1)] = True
    return table


def _passes(features: csr_matrix, answers: int, seconds: float) -> int:
    """Passes of the logistic model within its share of the budget, by nominal speed; 0 where it would get too few."""
    per_pass = (features.nnz + features.shape[1]) * answers * _SECONDS_PER_CELL + 1e-3
    passes = min(_MOST_PASSES, int(_BUDGET_SHARE * seconds / per_pass))
    return passes if passes >= _FEWEST_PASSES else 0


def _save(
    folder: Path, mixture: Mixture, fit: _Fit, answers: AnswerSet, embedder: Mapping[str, str] | None
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    model = mixture.of(fit.models)
    rows = len(fit.vocabulary.idf)
    tensors: dict[str, Any] = {
        "weights": np.ascontiguousarray(model.weights[:rows], dtype=np.float16),
        "bias": model.bias.astype(np.float32),
        "idf": fit.vocabulary.idf.astype(np.float32),
        "allowed": fit.allowed.astype(np.uint8),
    }
    if embedder is not None:
        tensors["meaning"] = np.ascontiguousarray(_MEANING * model.weights[rows:], dtype=np.float32)
    save_file(tensors, folder / WEIGHTS)
    texts: dict[str, Callable[[], str]] = {
        "vocabulary.json": fit.vocabulary.to_json,
        "answers.json": answers.to_json,
        "prompts.json": fit.prompts.to_json,
        "settings.json": lambda: json.dumps(
            {
                "novelty_power": _NOVELTY_POWER,
                "usual_known": mixture.usual_known,
                "sureness": None if mixture.sureness is None else mixture.sureness.to_dict(),
                "embedder": embedder,
            }
        ),
    }
    for name, text in texts.items():
        (folder / name).write_text(text(), encoding="utf-8")


def _stop_if_asked(context: TrainContext) -> None:
    if context.stopped():
        raise KeyboardInterrupt
