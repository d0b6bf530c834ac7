import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from shoal.agents.learning.classifier import train_classifier
from shoal.agents.learning.training import Example, TrainContext
from shoal.errors import DataError
from shoal.serve.engines.classifier import ClassifierEngine


def _context(
    folder: Path, *, seconds: float = 30.0, stopped: Callable[[], bool] = lambda: False
) -> TrainContext:
    return TrainContext(seed=0, seconds=seconds, work=folder, monotonic=time.monotonic, stopped=stopped)


def _right(engine: ClassifierEngine, examples: list[Example]) -> np.ndarray:
    answers = engine.answer([e.request for e in examples])
    return np.array([a.content == e.content for a, e in zip(answers, examples, strict=True)])


def test_labels_that_follow_from_words_are_learnt(made: SimpleNamespace, tmp_path: Path) -> None:
    report = train_classifier(
        made.label_examples(600), made.label_examples(80, seed=1), tmp_path, _context(tmp_path)
    )
    engine = ClassifierEngine.load(tmp_path)
    assert _right(engine, made.label_examples(200, seed=2)).mean() >= 0.98
    assert report.kind == "classifier"
    assert report.details["answers"] == len(made.TOPICS)
    assert not report.cut_by_clock


def test_right_answers_are_more_confident_than_wrong_ones(made: SimpleNamespace, tmp_path: Path) -> None:
    # a third of the words of these texts point elsewhere
    mixed = made.label_examples(200, seed=5, noise=0.3)
    train_classifier(
        made.label_examples(600, noise=0.3),
        made.label_examples(100, seed=1, noise=0.3),
        tmp_path,
        _context(tmp_path),
    )
    engine = ClassifierEngine.load(tmp_path)
    confidence = np.array([a.confidence for a in engine.answer([e.request for e in mixed])])
    # of 30% random labels a quarter is right by chance: calibrated confidence is near 0.775
    assert confidence.mean() == pytest.approx(0.775, abs=0.08)
    assert ((confidence >= 0) & (confidence <= 1)).all()


def test_the_same_seed_and_examples_give_the_same_bytes(made: SimpleNamespace, tmp_path: Path) -> None:
    for name in ("a", "b"):
        train_classifier(
            made.label_examples(300), made.label_examples(50, seed=1), tmp_path / name, _context(tmp_path)
        )
    for path in sorted((tmp_path / "a").iterdir()):
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name


def test_an_answer_is_never_one_that_its_prompt_never_had(made: SimpleNamespace, tmp_path: Path) -> None:
    def with_prompt(examples: list[Example], labels: set[str], system: str) -> list[Example]:
        return [
            Example(
                id=f"{system}{e.id}",
                request=made.request(e.request.last_user_text, system=system),
                content=e.content,
                group=e.id,
            )
            for e in examples
            if e.content in labels
        ]

    cards, fees = {"card_lost", "pin_change"}, {"fee_question", "transfer_late"}
    train = with_prompt(made.label_examples(400), cards, "cards") + with_prompt(
        made.label_examples(400), fees, "money"
    )
    train_classifier(train, train[::9], tmp_path, _context(tmp_path))
    engine = ClassifierEngine.load(tmp_path)
    text = "why was my fee charged extra cost"
    assert engine.answer([made.request(text, system="cards")])[0].content in cards
    assert engine.answer([made.request(text, system="money")])[0].content == "fee_question"


def test_open_answers_cannot_be_learnt(made: SimpleNamespace, tmp_path: Path) -> None:
    open_ended = [
        Example(id=str(i), request=made.request("x"), content=f"text {i}", group=str(i)) for i in range(100)
    ]
    with pytest.raises(DataError, match="no closed set"):
        train_classifier(open_ended, [], tmp_path, _context(tmp_path))


def test_a_single_answer_can_be_learnt_and_no_call_to_choose_by_is_needed(
    made: SimpleNamespace, tmp_path: Path
) -> None:
    always = [
        Example(id=e.id, request=e.request, content="ok", group=e.group) for e in made.label_examples(60)
    ]
    train_classifier(always, [], tmp_path, _context(tmp_path))
    assert _right(ClassifierEngine.load(tmp_path), always).all()


def test_two_answers_are_told_apart(made: SimpleNamespace, tmp_path: Path) -> None:
    two = [e for e in made.label_examples(300) if e.content in ("card_lost", "fee_question")]
    train_classifier(two[:120], two[120:140], tmp_path, _context(tmp_path))
    assert _right(ClassifierEngine.load(tmp_path), two[140:]).mean() >= 0.98


def test_a_small_budget_leaves_the_logistic_model_out(made: SimpleNamespace, tmp_path: Path) -> None:
    report = train_classifier(
        made.label_examples(600), made.label_examples(50, seed=1), tmp_path, _context(tmp_path, seconds=0.05)
    )
    assert report.details["model"] == "hinge"
    assert _right(ClassifierEngine.load(tmp_path), made.label_examples(100, seed=2)).mean() >= 0.95


def test_a_run_that_is_stopped_says_so(made: SimpleNamespace, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train_classifier(made.label_examples(100), [], tmp_path, _context(tmp_path, stopped=lambda: True))
