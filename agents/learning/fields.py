"""Trains specialists for structured answers that are read from a prompt. Shapes and engine: `serve/engines/fields.py`.

A JSON answer is taken apart (`json_fields.py`): which fields there are is one closed choice, and each field is constant, a closed choice
of its own, copied from the prompt, or taken from the prompt's record. So a combination of fields that the log never had is still right, and
few calls are enough. Choices are linear models over n-grams; what is copied is found by a linear tagger.
"""

from __future__ import annotations

import json
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file
from scipy.sparse import csr_matrix

from shoal.agents.contract.loss import unfenced
from shoal.agents.learning.json_fields import (
    STYLES,
    FieldPlan,
    LeafSpec,
    Scalar,
    Token,
    find_value,
    masked,
    skeleton_of,
    token_features,
    tokens_of,
)
from shoal.agents.learning.prompts import PromptSet
from shoal.agents.learning.record_features import read_record
from shoal.agents.learning.text_features import Reading, Vocabulary, encode_all, has_context
from shoal.agents.learning.training import Example, TrainContext, TrainReport
from shoal.agents.traces.chat import ChatRequest
from shoal.errors import DataError

KIND = "fields"
WEIGHTS = "weights.safetensors"

#: of the calls, at least this share must be given by what is learnt
MIN_SHARE = 0.9
#: a skeleton or a value that is seen less often is not learnt
_MIN_SEEN = 2
_MOST_VALUES = 200
#: a leaf is copied where its value stands in the prompt this often
_COPIED_SHARE = 0.98
#: and takes at least so many values: then new ones are to be expected
_OPEN_VALUES = 5
_MAX_ROWS = 20_000
#: kinds of linear model and their strengths: what may fit a choice
_DENSE = ("dense", 20.0)
_SPARSE = (("sparse", 5.0), ("sparse", 30.0))
#: up to so many calls a sparse model is tried
_FEW = 2000
_FOLDS = 5

Matrix = NDArray[np.float64]


@dataclass
class _Read:
    """A training call taken apart."""

    example: Example
    skeleton: str
    leaves: dict[str, Scalar]
    record: dict[str, Scalar] = field(default_factory=dict)


def train_fields(
    train: Sequence[Example], choose: Sequence[Example], folder: Path, context: TrainContext
) -> TrainReport:
    """Train such a specialist into `folder`.

    Files: `fields.json`, `vocabulary.json`, `taggers.json`, `prompts.json`, `weights.safetensors`.

    Raises:
        DataError: the answers are no JSON, take too many shapes, or have a field that neither the prompt has nor a few values cover.
    """
    context.progress(0.1, "taking the answers apart")
    every = _read(train)
    counts = Counter(read.skeleton for read in every)
    kept = [s for s, n in counts.most_common() if n >= min(_MIN_SEEN, len(every))]
    reads = [read for read in every if read.skeleton in set(kept)]
    if len(reads) < MIN_SHARE * len(train) or not reads:
        raise DataError(
            f"Its answers take {len(counts)} shapes in {len(train)} calls; the usual ones cover only {len(reads)}."
        )
    leaves, owned = _leaves(reads)
    plan = FieldPlan(
        skeletons=tuple(kept),
        leaves=leaves,
        style=_style([read.example.content for read in reads]),
        models=sum(leaf.kind == "closed" for leaf in leaves.values()),
        taggers=sum(leaf.kind == "copied" for leaf in leaves.values()),
    )
    prompts = PromptSet.fit([read.example.request for read in reads])
    asked = [prompts.index(r.example.request) if prompts.several else -1 for r in reads]
    reading = Reading(
        context=float(np.mean([has_context(r.example.request) for r in reads])) >= 0.1,
        system=not prompts.recurring,
    )
    requests = [_masked(read, plan) for read in reads]
    vocabulary = Vocabulary.fit(requests, asked, reading=reading, min_calls=_MIN_SEEN, max_rows=_MAX_ROWS)
    if not len(vocabulary.idf):
        raise DataError("Its calls share no words that an answer could be told by.")
    features, _ = encode_all(vocabulary, requests, asked)
    _stop_if_asked(context)
    context.progress(0.4, "training the choices")
    tensors: dict[str, Any] = {"idf": vocabulary.idf.astype(np.float32)}
    place = {skeleton: n for n, skeleton in enumerate(plan.skeletons)}
    _put(tensors, "skeleton", features, np.array([place[r.skeleton] for r in reads]), len(kept))
    for path, leaf in plan.leaves.items():
        _stop_if_asked(context)
        if leaf.kind == "closed":
            rows = owned[path]
            y = np.array([leaf.values.index(reads[row].leaves[path]) for row in rows])
            _put(tensors, f"leaf{leaf.number}", features[rows], y, len(leaf.values))
    context.progress(0.7, "training what is copied")
    taggers = {}
    for path, leaf in plan.leaves.items():
        if leaf.kind == "copied":
            _stop_if_asked(context)
            taggers[str(leaf.number)] = _train_tagger(tensors, leaf.number, reads, path)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / WEIGHTS)
    for name, text in (
        ("fields.json", plan.to_json()),
        ("vocabulary.json", vocabulary.to_json()),
        ("taggers.json", json.dumps(taggers, ensure_ascii=False)),
        ("prompts.json", prompts.to_json()),
    ):
        (folder / name).write_text(text, encoding="utf-8")
    context.progress(1.0, "trained")
    kinds = Counter(leaf.kind for leaf in plan.leaves.values())
    return TrainReport(
        kind=KIND,
        steps=len(reads),
        cut_by_clock=False,
        details={
            "skeletons": len(kept),
            "leaves": dict(kinds),
            "choices": {p: len(leaf.values) for p, leaf in plan.leaves.items() if leaf.kind == "closed"},
            "copied": sorted(p for p, leaf in plan.leaves.items() if leaf.kind == "copied"),
            "left_out": len(train) - len(reads),
        },
    )


def _read(train: Sequence[Example]) -> list[_Read]:
    found = []
    for example in train:
        try:
            value = json.loads(unfenced(example.content))
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict | list) and value:
            skeleton, leaves = skeleton_of(value)
            record = {p: v for p, v in (read_record(example.request) or {}).items() if not p.startswith("@")}
            found.append(_Read(example, skeleton, leaves, record))
    if len(found) < MIN_SHARE * len(train) or not found:
        raise DataError(f"Only {len(found)} of its {len(train)} answers are JSON objects or lists.")
    return found


def _leaves(reads: Sequence[_Read]) -> tuple[dict[str, LeafSpec], dict[str, list[int]]]:
    """How each leaf's value comes about, and the calls that have it. Drops no call: a value never learnt is simply never given."""
    owned: dict[str, list[int]] = {}
    for row, read in enumerate(reads):
        for path in read.leaves:
            owned.setdefault(path, []).append(row)
    specs: dict[str, LeafSpec] = {}
    models = taggers = 0
    for path in sorted(owned):
        spec = _leaf(reads, path, owned[path])
        if spec.kind == "closed":
            spec = LeafSpec(kind="closed", values=spec.values, number=models)
            owned[path] = [row for row in owned[path] if reads[row].leaves[path] in spec.values]
            models += 1
        elif spec.kind == "copied":
            spec = LeafSpec(kind="copied", values=spec.values, number=taggers)
            taggers += 1
        specs[path] = spec
    return specs, owned


def _leaf(reads: Sequence[_Read], path: str, rows: Sequence[int]) -> LeafSpec:
    values = [reads[row].leaves[path] for row in rows]
    counts = Counter(map(_key, values))
    by_key = {_key(value): value for value in values}
    if len(counts) == 1:
        return LeafSpec(kind="constant", values=(values[0],))
    if source := _record_path(reads, path, rows):
        return LeafSpec(kind="record", path=source)
    seen = [key for key, n in counts.most_common() if n >= _MIN_SEEN]
    covered = sum(counts[key] for key in seen)
    copied = sum(_stands(reads[row], path) for row in rows)
    is_copied = copied >= _COPIED_SHARE * len(rows)
    if is_copied and (len(counts) >= _OPEN_VALUES or covered < MIN_SHARE * len(rows)):
        return LeafSpec(kind="copied", values=tuple(by_key[key] for key, _ in counts.most_common()))
    if covered >= MIN_SHARE * len(rows) and len(seen) <= _MOST_VALUES:
        return LeafSpec(kind="closed", values=tuple(by_key[key] for key in seen))
    raise DataError(
        f"Its field `{path}` takes {len(counts)} values in {len(rows)} calls: no closed set, and only {copied} of them stand in "
        "the prompt."
    )


def _key(value: Scalar) -> str:
    return json.dumps(value)


def _stands(read: _Read, path: str) -> bool:
    value = read.leaves[path]
    if value is None or isinstance(value, bool):
        return False
    return find_value(read.example.request.last_user_text, str(value)) is not None


def _record_path(reads: Sequence[_Read], path: str, rows: Sequence[int]) -> str:
    """The place of the prompts' records that always has this leaf's value; empty where there is none."""
    first = reads[rows[0]]
    for source, value in first.record.items():
        if value == first.leaves[path] and all(
            source in reads[row].record and reads[row].record[source] == reads[row].leaves[path]
            for row in rows
        ):
            return source
    return ""


def _style(contents: Sequence[str]) -> str:
    counts: Counter[str] = Counter()
    for content in contents:
        text = unfenced(content)
        value = json.loads(text)
        counts[next((s for s, how in STYLES.items() if json.dumps(value, **how) == text), "plain")] += 1
    return min(counts, key=lambda style: (-counts[style], style))


def _put(tensors: dict[str, Any], name: str, features: Any, y: NDArray[np.int64], classes: int) -> None:
    """A linear model as arrays: one column for each choice, in float16, and a bias."""
    weights, bias = _linear(features, y, classes)
    tensors[f"{name}.weights"] = np.ascontiguousarray(weights, dtype=np.float16)
    tensors[f"{name}.bias"] = bias.astype(np.float32)


def _linear(
    features: Any, y: NDArray[np.int64], classes: int, *, sparse: bool = True
) -> tuple[Matrix, Matrix]:
    """Weights and bias of a choice. Where few calls teach it, few words must decide: a sparse model competes with a dense one."""
    weights, bias = np.zeros((features.shape[1], classes)), np.zeros(classes)
    if len(set(y.tolist())) < 2:
        return weights, bias
    options = [_DENSE, *_SPARSE] if sparse and len(y) <= _FEW else [_DENSE]
    model = min((_judged(features, y, option, n) for n, option in enumerate(options)), key=lambda j: j[:2])[2]
    coefficients, intercept = _fit(features, y, model)
    present = np.unique(y)
    bias[:] = -30.0
    weights[:, present] = coefficients.T
    bias[present] = intercept
    return weights, bias


def _judged(
    features: Any, y: NDArray[np.int64], option: tuple[str, float], number: int
) -> tuple[float, int, tuple[str, float]]:
    """The option's surprise at held-out training calls, by cross-validation; the same calls for every option."""
    fold = np.arange(len(y)) % _FOLDS
    # within each answer the folds are dealt out evenly
    order = np.argsort(y, kind="stable")
    held = np.empty(len(y), dtype=int)
    held[order] = fold
    surprise = 0.0
    for k in range(_FOLDS):
        inside, outside = held != k, held == k
        present = np.unique(y[inside])
        if len(present) < 2 or not outside.any():
            continue
        coefficients, intercept = _fit(features[inside], y[inside], option)
        logits = np.asarray(features[outside] @ coefficients.T) + intercept
        logits -= logits.max(axis=1, keepdims=True)
        odds = np.exp(logits)
        shares = odds / odds.sum(axis=1, keepdims=True)
        place = {label: n for n, label in enumerate(present.tolist())}
        given = [
            shares[row, place[label]] if label in place else 0.0
            for row, label in enumerate(y[outside].tolist())
        ]
        surprise -= float(np.log(np.maximum(given, 1e-4)).sum())
    return surprise, number, option


def _fit(features: Any, y: NDArray[np.int64], option: tuple[str, float]) -> tuple[Matrix, Matrix]:
    """One row of coefficients for each answer that `y` has, in order."""
    from sklearn.linear_model import LogisticRegression

    kind, strength = option
    present = np.unique(y)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if kind == "dense":
            model = LogisticRegression(C=strength, max_iter=200, tol=1e-4).fit(features, y)
            coefficients, intercept = model.coef_, model.intercept_
            if len(present) == 2:
                coefficients = np.vstack([-coefficients, coefficients]) / 2
                intercept = np.concatenate([-intercept, intercept]) / 2
            return coefficients, intercept
        # one against all others, each with the few n-grams that tell it
        rows, biases = [], []
        for label in present:
            one = LogisticRegression(
                l1_ratio=1.0, C=strength, solver="liblinear", max_iter=200, random_state=0
            ).fit(features, y == label)
            rows.append(one.coef_[0])
            biases.append(one.intercept_[0])
    return np.array(rows), np.array(biases)


def _span(read: _Read, path: str) -> tuple[int, int] | None:
    """Where a leaf's value stands in the prompt; None where the answer has no such leaf."""
    if path not in read.leaves:
        return None
    return find_value(read.example.request.last_user_text, str(read.leaves[path]))


def _masked(read: _Read, plan: FieldPlan) -> ChatRequest:
    spans = {
        leaf.number: span
        for path, leaf in plan.leaves.items()
        if leaf.kind == "copied" and (span := _span(read, path)) is not None
    }
    return masked(read.example.request, spans)


def _train_tagger(tensors: dict[str, Any], number: int, reads: Sequence[_Read], path: str) -> list[str]:
    """A model of which tokens belong to a copied value; returns its features in the order of its weights.

    Prompts whose answer has no such value teach it too: there no token belongs to one.
    """
    seen: Counter[str] = Counter()
    sentences: list[tuple[list[Token], tuple[int, int]]] = []
    for read in reads:
        span = _span(read, path) or (0, 0)
        tokens = tokens_of(read.example.request.last_user_text)
        sentences.append((tokens, span))
        for at in range(len(tokens)):
            seen.update(token_features(tokens, at))
    names = sorted(name for name, n in seen.items() if n >= _MIN_SEEN)
    place = {name: n for n, name in enumerate(names)}
    indices, ends, y = [], [0], []
    for tokens, (start, end) in sentences:
        for at, token in enumerate(tokens):
            indices += [place[name] for name in token_features(tokens, at) if name in place]
            ends.append(len(indices))
            y.append(int(token.start >= start and token.end <= end))
    matrix = csr_matrix((np.ones(len(indices)), indices, ends), shape=(len(y), len(names)))
    weights, bias = _linear(matrix, np.array(y), 2, sparse=False)
    tensors[f"tagger{number}.weights"] = (weights[:, 1] - weights[:, 0]).astype(np.float32)
    tensors[f"tagger{number}.bias"] = np.array([bias[1] - bias[0]], dtype=np.float32)
    return names


def _stop_if_asked(context: TrainContext) -> None:
    if context.stopped():
        raise KeyboardInterrupt
