"""Trains specialists that decide a closed set of answers by the figures of a record. Shapes and engine:
`serve/engines/record_classifier.py`.

Extremely randomised trees (Geurts, Ernst, Wehenkel 2006) over figures and their differences: their averaged leaf probabilities are low near
a border that training has not pinned down, which is where answers go wrong. Written out as plain arrays.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from shoal.agents.learning.answers import AnswerSet
from shoal.agents.learning.prompts import PromptSet
from shoal.agents.learning.record_features import LEVELS, Level, Matrix, Record, RecordSpec, read_record
from shoal.agents.learning.training import Example, TrainContext, TrainReport
from shoal.errors import DataError

KIND = "record_classifier"
#: of the calls, at least this share must hold a record
MIN_RECORD_SHARE = 0.98
_TREES = 200
_TRIAL_TREES = 40
#: a richer choice must lower the area under the risk-coverage curve to this share
_EARNED = 0.97
_FOLDS = 3
#: calls that a trial of columns is made on
_TRIAL_CALLS = 3000
_MAX_BYTES = 30_000_000
#: a category that carries less of the forest's decisions than this is left out, so that its new values do not matter
_MIN_IMPORTANCE = 0.02
#: shares of the columns that a split may look at
_COLUMN_SHARES = (1.0, 0.3)
#: nominal speed: values (calls x columns) that a tree sorts in a second
_VALUES_PER_SECOND = 4e6


def train_record_classifier(
    train: Sequence[Example], choose: Sequence[Example], folder: Path, context: TrainContext
) -> TrainReport:
    """Train such a specialist into `folder`.

    Raises DataError where the prompts are no records or the answers no closed set.
    """
    answers = AnswerSet.fit([e.content for e in train])
    labels = answers.indices([e.content for e in train])
    read = [(read_record(e.request), y, e) for e, y in zip(train, labels, strict=True)]
    kept = [(record, y, e) for record, y, e in read if record is not None and y >= 0]
    with_record = sum(record is not None for record, _, _ in read)
    if with_record < MIN_RECORD_SHARE * len(read) or not kept:
        raise DataError(f"Only {with_record} of {len(read)} prompts hold a record with fields.")
    records = [record for record, _, _ in kept]
    y = np.array([label for _, label, _ in kept])
    prompts = PromptSet.fit([e.request for _, _, e in kept])

    context.progress(0.1, "choosing columns")
    level, columns = _choose_columns(records, y, context)
    spec = RecordSpec.fit(records, y.tolist(), level)
    _stop_if_asked(context)
    context.progress(0.6, "growing the forest")
    spec, model, trees = _grow(spec, records, y, columns, context)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(_arrays(model, len(answers.keys)), folder / "forest.safetensors")
    for name, text in (
        ("record.json", spec.to_json()),
        ("answers.json", answers.to_json()),
        ("prompts.json", prompts.to_json()),
    ):
        (folder / name).write_text(text, encoding="utf-8")
    context.progress(1.0, "trained")
    return TrainReport(
        kind=KIND,
        steps=trees,
        cut_by_clock=False,
        details={
            "columns": level,
            "share_of_columns": columns,
            "numbers": len(spec.numbers),
            "categories": sorted(spec.categories),
            "answers": len(answers.keys),
            "left_out": len(train) - len(kept),
        },
    )


def _forest(trees: int, columns: float, seed: int, leaves: int | None = None) -> Any:
    from sklearn.ensemble import ExtraTreesClassifier

    return ExtraTreesClassifier(
        n_estimators=trees, max_features=columns, max_leaf_nodes=leaves, random_state=seed
    )


def _choose_columns(
    records: Sequence[Record], y: NDArray[np.int64], context: TrainContext
) -> tuple[Level, float]:
    """By cross-validation on training calls: which columns, and how many of them a split looks at."""
    if len(records) < 10 * _FOLDS:
        return "pairs", 1.0
    at = np.random.default_rng(context.seed).permutation(len(records))[:_TRIAL_CALLS]
    fold = np.arange(len(at)) % _FOLDS

    def area(level: Level, columns: float) -> float:
        _stop_if_asked(context)
        picked = [records[i] for i in at]
        trials = [_trial(picked, y[at], fold == k, level, columns, context.seed) for k in range(_FOLDS)]
        return float(np.mean(trials))

    # richer columns must earn their place
    level, best = LEVELS[0], area(LEVELS[0], _COLUMN_SHARES[0])
    for richer in LEVELS[1:]:
        found = area(richer, _COLUMN_SHARES[0])
        if found < _EARNED * best:
            level, best = richer, found
    columns = _COLUMN_SHARES[0]
    for fewer in _COLUMN_SHARES[1:]:
        if area(level, fewer) < _EARNED * best:
            columns = fewer
    return level, columns


def _trial(
    records: Sequence[Record],
    y: NDArray[np.int64],
    held: NDArray[np.bool_],
    level: Level,
    columns: float,
    seed: int,
) -> float:
    inside = [r for r, h in zip(records, held, strict=True) if not h]
    outside = [r for r, h in zip(records, held, strict=True) if h]
    spec = RecordSpec.fit(inside, y[~held].tolist(), level)
    features = spec.matrix(inside)
    if not features.shape[1]:
        return 1.0
    model = _forest(_TRIAL_TREES, columns, seed).fit(features, y[~held])
    probabilities = model.predict_proba(spec.matrix(outside))
    right = model.classes_[probabilities.argmax(axis=1)] == y[held]
    order = np.argsort(-probabilities.max(axis=1), kind="stable")
    wrong_so_far = np.cumsum(~right[order]) / np.arange(1, len(order) + 1)
    return float(wrong_so_far.mean()) + 1e-4


def _grow(
    spec: RecordSpec, records: Sequence[Record], y: NDArray[np.int64], columns: float, context: TrainContext
) -> tuple[RecordSpec, Any, int]:
    features = spec.matrix(records)
    if not features.shape[1]:
        raise DataError(
            "Its records have no field that differs from call to call in a way that could decide."
        )
    per_tree = features.size * columns * np.log2(len(records) + 2) / _VALUES_PER_SECOND
    trees = int(np.clip(0.3 * context.seconds / max(per_tree, 1e-6), 50, _TREES))
    leaves = max(2, int(_MAX_BYTES / (trees * (2 * (int(y.max()) + 1) + 48))))
    cap = leaves if leaves < len(records) else None
    model = _forest(trees, columns, context.seed, cap).fit(features, y)
    owners = spec.column_owners(features.shape[1])
    importance: dict[str, float] = {}
    for owner, weight in zip(owners, model.feature_importances_, strict=True):
        importance[owner] = importance.get(owner, 0.0) + float(weight)
    slight = [path for path in spec.categories if importance.get(path, 0.0) < _MIN_IMPORTANCE]
    if slight:
        _stop_if_asked(context)
        smaller = spec.without(slight)
        reduced = smaller.matrix(records)
        if reduced.shape[1]:
            return smaller, _forest(trees, columns, context.seed, cap).fit(reduced, y), trees
    return spec, model, trees


def _arrays(model: Any, answers: int) -> dict[str, Matrix | NDArray[Any]]:
    """The trees one after the other; a leaf points at itself. Children stand behind their parents, as in sklearn."""
    roots, left, right, feature, threshold, leaf, probabilities = [], [], [], [], [], [], []
    nodes = leaves = 0
    for estimator in model.estimators_:
        tree = estimator.tree_
        own = np.arange(tree.node_count)
        is_leaf = tree.children_left < 0
        roots.append(nodes)
        left.append(np.where(is_leaf, own, tree.children_left) + nodes)
        right.append(np.where(is_leaf, own, tree.children_right) + nodes)
        feature.append(np.where(is_leaf, 0, tree.feature))
        threshold.append(np.where(is_leaf, 0.0, tree.threshold))
        row = np.zeros(tree.node_count, dtype=np.int64)
        row[is_leaf] = np.arange(is_leaf.sum()) + leaves
        leaf.append(row)
        values = tree.value[is_leaf, 0, :]
        full = np.zeros((len(values), answers))
        full[:, model.classes_] = values / np.maximum(values.sum(axis=1, keepdims=True), 1e-12)
        probabilities.append(full)
        nodes += tree.node_count
        leaves += int(is_leaf.sum())
    return {
        "roots": np.array(roots, dtype=np.int32),
        "left": np.concatenate(left).astype(np.int32),
        "right": np.concatenate(right).astype(np.int32),
        "feature": np.concatenate(feature).astype(np.int32),
        "threshold": np.concatenate(threshold).astype(np.float64),
        "leaf": np.concatenate(leaf).astype(np.int32),
        "probabilities": np.concatenate(probabilities).astype(np.float16),
    }


def _stop_if_asked(context: TrainContext) -> None:
    if context.stopped():
        raise KeyboardInterrupt
