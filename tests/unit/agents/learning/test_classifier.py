import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from shoal.agents.fakes import WordEmbedder
from shoal.agents.learning.classifier import train_classifier
from shoal.agents.learning.linear_heads import Mixture, logistic_among, mix
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


def test_what_was_chosen_once_is_used_again_on_more_calls_without_choosing(
    made: SimpleNamespace, tmp_path: Path
) -> None:
    train, choose = made.label_examples(300, noise=0.2), made.label_examples(60, seed=1, noise=0.2)
    first = train_classifier(train, choose, tmp_path / "a", _context(tmp_path))
    assert first.details["chosen_by"] == "3 folds"
    settings = json.loads(json.dumps(first.settings))
    again = train_classifier(
        [*train, *choose], [], tmp_path / "b", replace(_context(tmp_path), settings=settings)
    )
    assert again.settings == first.settings
    assert again.details["chosen_by"] == "settings"
    assert again.details["area_under_risk_coverage"] == {}
    # and it is the weights that the calls added change
    assert (tmp_path / "a" / "weights.safetensors").read_bytes() != (
        tmp_path / "b" / "weights.safetensors"
    ).read_bytes()


def test_cross_fitting_makes_confidence_honest_although_training_was_learnt_by_heart(
    made: SimpleNamespace, tmp_path: Path
) -> None:
    # half of the labels are drawn at random: training can be learnt by heart, other calls cannot be foreseen
    train = made.label_examples(400, noise=0.5)
    train_classifier(train, [], tmp_path, _context(tmp_path))
    engine = ClassifierEngine.load(tmp_path)
    new = made.label_examples(400, seed=2, noise=0.5)
    sure = float(np.mean([a.confidence for a in engine.answer([e.request for e in new])]))
    assert sure == pytest.approx(_right(engine, new).mean(), abs=0.08)
    assert _right(engine, train).mean() > _right(engine, new).mean() + 0.2


def test_an_embedder_carries_labels_over_to_words_that_training_never_saw(
    made: SimpleNamespace, tmp_path: Path
) -> None:
    embedder = WordEmbedder(
        size=64, meanings={"omg": "lost", "plastic": "card", "tariff": "fee", "pricey": "charged"}
    )
    train = made.label_examples(300)
    context = replace(_context(tmp_path), embedder=embedder)
    report = train_classifier(train, [], tmp_path, context)
    assert report.details["embedder"] == {"name": "fake", "digest": embedder.digest}
    engine = ClassifierEngine.load(tmp_path, lambda name: embedder)
    answers = engine.answer([made.request("omg plastic help"), made.request("pricey tariff please")])
    assert [a.content for a in answers] == ["card_lost", "fee_question"]


def test_answers_whose_names_share_words_share_what_is_learnt() -> None:
    random = np.random.default_rng(0)
    # features: it says find, it says buy. Nobody who has to do with films was ever seen to buy
    names = ["FindBus", "BuyBus", "FindFilm", "BuyFilm"]
    y = random.choice([0, 1, 2], size=300)
    rows = np.stack([y % 2 == 0, y % 2 == 1], axis=1) + random.normal(0, 0.2, (300, 2))
    allowed = np.where((y < 2)[:, None], [True, True, False, False], [False, False, True, False])
    asks = csr_matrix(np.eye(2))
    find, buy = logistic_among(csr_matrix(rows), y, allowed, names, 60).logits(asks)
    assert buy[3] - buy[2] > 1 > -1 > find[3] - find[2]
    apart = logistic_among(csr_matrix(rows), y, allowed, ["a", "b", "c", "d"], 60).logits(asks)
    assert not apart[:, 3].any()


def test_among_usual_calls_only_the_models_say_which_are_sure() -> None:
    # every fourth call is short and vague: all its n-grams are known, and it is answered wrongly half of the time
    count = 400
    vague = np.arange(count) % 4 == 0
    y = np.where(vague, np.arange(count) // 4 % 2, 0).astype(np.int64)
    logits = np.stack([np.where(vague, 0.5, 6.0), np.zeros(count)], axis=1)
    known = np.where(vague, 1.0, 0.9)
    mixture, _ = mix({"hinge": logits}, y, known, words=np.where(vague, 2, 9).tolist())
    assert mixture.usual_known == pytest.approx(0.9)
    assert Mixture.from_dict(json.loads(json.dumps(mixture.to_dict()))) == mixture


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
