import json
import random
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from shoal.agents.learning.answers import answer_key
from shoal.agents.learning.record_classifier import train_record_classifier
from shoal.agents.learning.splits import split_examples
from shoal.agents.learning.training import Example, TrainContext
from shoal.errors import DataError
from shoal.serve.engines.record_classifier import RecordClassifierEngine


def _context(folder: Path) -> TrainContext:
    return TrainContext(seed=0, seconds=30.0, work=folder, monotonic=time.monotonic)


def _results(engine: RecordClassifierEngine, examples: list[Example]) -> tuple[np.ndarray, np.ndarray]:
    answers = engine.answer([e.request for e in examples])
    right = [
        answer_key(a.content or "") == answer_key(e.content) for a, e in zip(answers, examples, strict=True)
    ]
    return np.array([a.confidence for a in answers]), np.array(right)


def test_a_rule_over_thresholds_is_learnt_from_750_calls_and_holds_for_sites_never_seen(
    made: SimpleNamespace,
    tmp_path: Path,
) -> None:
    split = split_examples(made.record_examples(750), seed=0)
    train_record_classifier(split.train, split.choose, tmp_path, _context(tmp_path))
    engine = RecordClassifierEngine.load(tmp_path)
    confidence, right = _results(engine, made.record_examples(1000, seed=1, sites=("mars", "moon")))
    surest = confidence >= np.quantile(confidence, 0.4)
    assert surest.mean() >= 0.6
    assert right[surest].mean() >= 0.98
    assert right.mean() >= 0.94


def _amounts(made: SimpleNamespace, count: int, seed: int) -> list[Example]:
    """Which of three figures is greatest, and whether an amount is over a limit that stands elsewhere in the record."""
    rng = random.Random(seed)
    out = []
    for i in range(count):
        points = {name: round(rng.uniform(-9, 9), 1) for name in ("online", "stores", "partners")}
        record: dict[str, Any] = {
            "points": points,
            "amount": rng.randint(1, 500),
            "limit": {"hard": rng.randint(1, 500)},
        }
        over = record["amount"] > record["limit"]["hard"]
        answer = "stop" if over else max(points, key=lambda name: points[name])
        out.append(Example(id=str(i), request=made.request(json.dumps(record)), content=answer, group=str(i)))
    return out


def test_figures_are_compared_with_each_other(made: SimpleNamespace, tmp_path: Path) -> None:
    report = train_record_classifier(
        _amounts(made, 600, 0), _amounts(made, 60, 1), tmp_path, _context(tmp_path)
    )
    assert report.details["columns"] != "plain"
    confidence, right = _results(RecordClassifierEngine.load(tmp_path), _amounts(made, 500, 2))
    assert right[confidence >= np.quantile(confidence, 0.4)].mean() >= 0.99


def test_the_answer_is_written_as_the_generalist_most_often_writes_it(
    made: SimpleNamespace, tmp_path: Path
) -> None:
    train = made.record_examples(300)
    train_record_classifier(train, train[:30], tmp_path, _context(tmp_path))
    answers = RecordClassifierEngine.load(tmp_path).answer([e.request for e in train])
    assert all(a.content and a.content.startswith('{"severity": ') for a in answers)


def test_prompts_without_records_cannot_be_learnt(made: SimpleNamespace, tmp_path: Path) -> None:
    talk = [
        Example(id=str(i), request=made.request("hello there"), content="yes", group=str(i))
        for i in range(50)
    ]
    with pytest.raises(DataError, match="Only 0 of 50 prompts hold a record"):
        train_record_classifier(talk, [], tmp_path, _context(tmp_path))


def test_the_same_seed_and_examples_give_the_same_bytes(made: SimpleNamespace, tmp_path: Path) -> None:
    for name in ("a", "b"):
        train_record_classifier(made.record_examples(200), [], tmp_path / name, _context(tmp_path))
    for path in sorted((tmp_path / "a").iterdir()):
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name


def test_the_written_forest_predicts_what_sklearn_does(
    made: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from shoal.agents.learning import record_classifier
    from shoal.agents.learning.record_features import read_record

    grown: list[Any] = []
    write = record_classifier._arrays
    monkeypatch.setattr(record_classifier, "_arrays", lambda model, n: grown.append(model) or write(model, n))
    train_record_classifier(made.record_examples(300), [], tmp_path, _context(tmp_path))
    engine = RecordClassifierEngine.load(tmp_path)
    records = [r for e in made.record_examples(200, seed=3) if (r := read_record(e.request)) is not None]
    features = engine.spec.matrix(records)
    expected = np.zeros((200, len(engine.answers.keys)))
    expected[:, grown[0].classes_] = grown[0].predict_proba(features)
    assert engine.forest.predict(features) == pytest.approx(expected, abs=2e-3)
