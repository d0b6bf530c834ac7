import statistics
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from shoal.agents.fakes import WordEmbedder
from shoal.agents.learning.classifier import train_classifier
from shoal.agents.learning.folder import seal
from shoal.agents.learning.training import Example, TrainContext
from shoal.agents.traces.chat import ChatRequest
from shoal.errors import ConfigError, CorruptModel
from shoal.serve.engines import load
from shoal.serve.engines.classifier import WEIGHTS, ClassifierEngine

WORDS = {"red": "apple brick rose blood", "blue": "sky sea jeans ink", "green": "grass leaf frog moss"}


def _request(text: str, system: str = "Name the colour.") -> ChatRequest:
    return ChatRequest(
        body={"messages": [{"role": "system", "content": system}, {"role": "user", "content": text}]}
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    examples = []
    for i in range(120):
        label = list(WORDS)[i % 3]
        words = WORDS[label].split()
        text = f"what colour has the {words[i % 4]} or a {words[(i // 4) % 4]}"
        examples.append(Example(id=str(i), request=_request(text), content=label.title(), group=str(i)))
    context = TrainContext(seed=0, seconds=20, work=path, monotonic=time.monotonic)
    train_classifier(examples[:100], examples[100:], path, context)
    seal(path, {"kind": "classifier"})
    return path


def test_it_answers_in_the_generalists_wording(folder: Path) -> None:
    answer = ClassifierEngine.load(folder).answer([_request("what colour has the sky or a jeans")])[0]
    assert answer.content == "Blue"
    assert answer.confidence > 0.8
    assert answer.reason == ""


def test_the_loader_picks_it_by_the_card(folder: Path) -> None:
    assert isinstance(load(folder), ClassifierEngine)


def test_a_batch_is_answered_in_order_and_as_one_by_one(folder: Path) -> None:
    engine = ClassifierEngine.load(folder)
    requests = [_request(f"what colour has the {w}") for w in ("frog", "ink", "brick", "frog")]
    together = engine.answer(requests)
    assert [a.content for a in together] == ["Green", "Blue", "Red", "Green"]
    assert together == [engine.answer([r])[0] for r in requests]
    assert engine.answer([]) == []


def test_a_system_prompt_never_seen_has_confidence_zero_and_says_why(folder: Path) -> None:
    answer = ClassifierEngine.load(folder).answer([_request("what colour has the sky", "Name the smell.")])[0]
    assert answer.confidence == 0.0
    assert "system prompt was never seen" in answer.reason


def test_strange_words_lower_the_confidence(folder: Path) -> None:
    engine = ClassifierEngine.load(folder)
    plain, strange, foreign = engine.answer(
        [_request("what colour has the sky"), _request("sky quiz zebra python"), _request("какого цвета")]
    )
    assert plain.confidence > strange.confidence > 0
    assert foreign.confidence == 0.0
    assert "no word that training saw" in foreign.reason


def test_a_request_without_user_text_has_no_answer(folder: Path) -> None:
    engine = ClassifierEngine.load(folder)
    image = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}
    for messages in ([{"role": "system", "content": "Name the colour."}], [image]):
        answer = engine.answer([ChatRequest(body={"messages": messages})])[0]
        assert answer.content is None
        assert answer.confidence == 0.0


def test_one_request_takes_less_than_two_milliseconds(folder: Path) -> None:
    engine = ClassifierEngine.load(folder)
    request = _request("what colour has the sky or a jeans " * 3)
    spans = []
    for _ in range(50):
        start = time.perf_counter()
        engine.answer([request])
        spans.append(time.perf_counter() - start)
    assert statistics.median(spans) < 0.002


@pytest.fixture(scope="module")
def embedding(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained with the fake embedder."""
    path = tmp_path_factory.mktemp("embedding")
    examples = [
        Example(id=str(i), request=_request(f"the {word} of {i % 3}"), content=label, group=str(i))
        for i in range(60)
        for label, words in WORDS.items()
        for word in [words.split()[i % 4]]
    ]
    context = TrainContext(
        seed=0, seconds=20, work=path, monotonic=time.monotonic, embedder=WordEmbedder(size=32)
    )
    train_classifier(examples, [], path, context)
    return path


def test_with_an_embedder_a_batch_is_embedded_at_once_and_answered_alike(embedding: Path) -> None:
    embedder = WordEmbedder(size=32)
    engine = ClassifierEngine.load(embedding, lambda name: embedder)
    requests = [_request("the apple of 1"), _request("the ink of 2"), _request("the moss")]
    answers = engine.answer(requests)
    assert [a.content for a in answers] == ["red", "blue", "green"]
    assert embedder.texts == [r.last_user_text for r in requests]
    alone = [engine.answer([r])[0] for r in requests]
    assert [a.confidence for a in alone] == pytest.approx([a.confidence for a in answers], abs=1e-6)


def test_another_embedder_than_it_was_trained_with_is_refused(embedding: Path) -> None:
    with pytest.raises(CorruptModel, match=r"of digest .* and the one here has"):
        ClassifierEngine.load(embedding, lambda name: WordEmbedder(size=32, meanings={"sky": "blue"}))


def test_a_missing_embedder_is_named_with_its_remedy(embedding: Path) -> None:
    def missing(name: str) -> WordEmbedder:
        raise ConfigError(f"{name} is not installed.", remedy="Install it.")

    with pytest.raises(
        CorruptModel, match="'fake', which cannot be loaded here: fake is not installed"
    ) as caught:
        ClassifierEngine.load(embedding, missing)
    assert caught.value.remedy == "Install it."


@pytest.mark.parametrize(
    "name", ["vocabulary.json", "answers.json", "prompts.json", "settings.json", WEIGHTS]
)
def test_a_missing_or_broken_file_is_a_corrupt_model(folder: Path, tmp_path: Path, name: str) -> None:
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / name).write_bytes(b"{}")
    with pytest.raises(CorruptModel, match="can be loaded"):
        ClassifierEngine.load(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(CorruptModel):
        ClassifierEngine.load(tmp_path)


def test_weights_that_do_not_fit_the_vocabulary_are_a_corrupt_model(folder: Path, tmp_path: Path) -> None:
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    tensors = load_file(tmp_path / WEIGHTS)
    tensors["weights"] = np.ascontiguousarray(tensors["weights"][:, :-1])
    save_file(tensors, tmp_path / WEIGHTS)
    with pytest.raises(CorruptModel, match="weights of shape"):
        ClassifierEngine.load(tmp_path)
