import json
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from shoal.agents.learning.folder import seal
from shoal.agents.learning.record_classifier import train_record_classifier
from shoal.agents.learning.training import Example, TrainContext
from shoal.agents.traces.chat import ChatRequest
from shoal.errors import CorruptModel
from shoal.serve.engines import load
from shoal.serve.engines.record_classifier import FOREST, RecordClassifierEngine


def _request(record: dict[str, object] | str, system: str = "Rate the loan.") -> ChatRequest:
    text = record if isinstance(record, str) else json.dumps(record)
    return ChatRequest(
        body={"messages": [{"role": "system", "content": system}, {"role": "user", "content": text}]}
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    rng = random.Random(0)
    examples = []
    for i in range(300):
        record = {
            "who": f"w{i}",
            "plan": rng.choice(["a", "b", "c", "d"]),
            "income": rng.randint(1, 99),
            "debt": rng.randint(1, 99),
        }
        risky = record["debt"] > record["income"] or record["plan"] == "d"
        examples.append(
            Example(id=str(i), request=_request(record), content="no" if risky else "yes", group=str(i))
        )
    context = TrainContext(seed=0, seconds=20, work=path, monotonic=time.monotonic)
    train_record_classifier(examples, [], path, context)
    seal(path, {"kind": "record_classifier"})
    return path


def test_it_decides_by_the_figures(folder: Path) -> None:
    engine = load(folder)
    assert isinstance(engine, RecordClassifierEngine)
    good, bad = engine.answer(
        [
            _request({"who": "new", "plan": "a", "income": 80, "debt": 10}),
            _request({"who": "new", "plan": "a", "income": 10, "debt": 80}),
        ]
    )
    assert (good.content, bad.content) == ("yes", "no")
    assert min(good.confidence, bad.confidence) > 0.9


def test_it_is_less_sure_near_the_border(folder: Path) -> None:
    engine = RecordClassifierEngine.load(folder)
    far, near = engine.answer(
        [_request({"plan": "a", "income": i, "debt": 50, "who": "x"}) for i in (95, 50)]
    )
    assert far.confidence > near.confidence


def test_requests_without_a_record_have_no_answer_and_others_keep_their_place(folder: Path) -> None:
    record = {"who": "x", "plan": "b", "income": 90, "debt": 5}
    answers = RecordClassifierEngine.load(folder).answer([_request("hello"), _request(record), _request("?")])
    assert [a.content for a in answers] == [None, "yes", None]
    assert answers[0].confidence == 0.0
    assert "no record" in answers[0].reason


@pytest.mark.parametrize(
    ("record", "system", "reason"),
    [
        ({"plan": "a", "income": 80, "debt": 10}, "Rate the car.", "system prompt was never seen"),
        ({"plan": "a", "income": 80}, "Rate the loan.", "no number `debt`"),
        (
            {"plan": "z", "income": 80, "debt": 10},
            "Rate the loan.",
            "`plan` has a value that training never saw",
        ),
    ],
)
def test_what_training_never_saw_has_confidence_zero_and_says_why(
    folder: Path, record: dict[str, object], system: str, reason: str
) -> None:
    answer = RecordClassifierEngine.load(folder).answer([_request(record, system)])[0]
    assert answer.confidence == 0.0
    assert reason in answer.reason


def test_one_request_takes_less_than_five_milliseconds(folder: Path) -> None:
    engine = RecordClassifierEngine.load(folder)
    request = _request({"who": "x", "plan": "b", "income": 90, "debt": 5})
    spans = []
    for _ in range(30):
        start = time.perf_counter()
        engine.answer([request])
        spans.append(time.perf_counter() - start)
    assert statistics.median(spans) < 0.005


def test_serving_loads_neither_sklearn_nor_torch(folder: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from shoal.serve.engines import load; load(Path(sys.argv[1])); "
        "print([m for m in ('sklearn', 'torch', 'ray', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("left", -1, "branch"),
        ("right", 10**6, "branch"),
        ("feature", 10**6, "column"),
        ("leaf", 10**6, "leaves"),
        ("roots", 10**6, "root"),
    ],
)
def test_a_forest_that_leads_nowhere_is_a_corrupt_model(
    folder: Path, tmp_path: Path, name: str, value: int, message: str
) -> None:
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    tensors = load_file(tmp_path / FOREST)
    changed = tensors[name].copy()
    changed[0] = value
    save_file({**tensors, name: np.ascontiguousarray(changed)}, tmp_path / FOREST)
    with pytest.raises(CorruptModel, match=message):
        RecordClassifierEngine.load(tmp_path)


@pytest.mark.parametrize("name", ["record.json", "answers.json", "prompts.json", FOREST])
def test_a_broken_file_is_a_corrupt_model(folder: Path, tmp_path: Path, name: str) -> None:
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / name).write_bytes(b"[]")
    with pytest.raises(CorruptModel, match="can be loaded"):
        RecordClassifierEngine.load(tmp_path)
