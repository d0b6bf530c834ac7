from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from shoal.agents.learning.folder import seal
from shoal.agents.learning.micro_lm import train_micro_lm
from shoal.agents.learning.training import Example, TrainContext
from shoal.agents.traces.chat import ChatRequest
from shoal.errors import CorruptModel
from shoal.serve.engines import load
from shoal.serve.engines.micro_lm import DRAFTS, MicroLmEngine, _Draft, _Job, _judge
from shoal.serve.engines.micro_lm_decode import GREEDY, decode


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Threads of one process wait for each other; beside other work on the machine that takes for ever."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def ask(record: object) -> ChatRequest:
    text = record if isinstance(record, str) else json.dumps(record, ensure_ascii=False)
    return ChatRequest(body={"messages": [{"role": "user", "content": text}]})


def weather(count: int) -> list[Example]:
    rng = random.Random(0)
    out = []
    for n in range(count):
        town, change = rng.choice(["Ulm", "Bad Tölz", "Kiel"]), rng.choice([-11, -7, -3, 2, 5, 11])
        verb = "rises" if change > 0 else "falls"
        answer = f"In {town} the temperature {verb} by {abs(change)} degrees."
        request = ask({"town": town, "change": change})
        out.append(Example(id=str(n), request=request, content=answer, group=str(n)))
    return out


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("micro_lm")
    context = TrainContext(seed=0, seconds=8, work=root / "work", monotonic=lambda: 0.0)
    train_micro_lm(weather(150), weather(20), root / "model", context)
    seal(root / "model", {"kind": "micro_lm"})
    return root / "model"


@pytest.fixture(scope="module")
def engine(folder: Path) -> MicroLmEngine:
    return MicroLmEngine.load(folder)


UNSEEN = [("Ærøskøbing", -40), ("York (old town)", 88), ("3rd Mile Camp", 6), ("a", -1), ("Kiel", 123456)]


def test_unseen_values_stand_in_the_answer_with_the_right_sign(engine: MicroLmEngine) -> None:
    answers = engine.answer([ask({"town": town, "change": change}) for town, change in UNSEEN])
    for (town, change), answer in zip(UNSEEN, answers, strict=True):
        verb = "rises" if change > 0 else "falls"
        assert answer.content == f"In {town} the temperature {verb} by {abs(change)} degrees."
        assert 0.5 < answer.confidence <= 1


def test_answers_do_not_depend_on_the_batch_nor_on_the_thread(engine: MicroLmEngine) -> None:
    requests = [ask({"town": town, "change": change}) for town, change in UNSEEN] * 3
    together = engine.answer(requests)
    with ThreadPoolExecutor(4) as pool:
        alone = list(pool.map(lambda request: engine.answer([request])[0], requests))
    assert [a.content for a in alone] == [a.content for a in together]
    assert [a.confidence for a in alone] == pytest.approx([a.confidence for a in together], abs=1e-4)


def test_a_prompt_of_another_shape_lowers_the_confidence_and_says_why(engine: MicroLmEngine) -> None:
    known, other = engine.answer(
        [ask({"town": "Ulm", "change": 5}), ask({"town": "Ulm", "change": 5, "wind": "strong"})]
    )
    assert other.confidence <= known.confidence / 2
    assert "wind" in other.reason
    free = engine.answer([ask("Will it rain in Ulm tomorrow, or should I go out?")])[0]
    assert free.confidence < 0.05


@pytest.mark.parametrize(
    "record", ["", "{}", "x " * 20_000, {"rows": [{"town": "Ulm"}] * 60}, {"town": None}]
)
def test_odd_prompts_get_no_confident_answer(engine: MicroLmEngine, record: object) -> None:
    answer = engine.answer([ask(record)])[0]
    assert answer.confidence < 0.5


def job(engine: MicroLmEngine) -> _Job:
    request = ask({"town": "Ulm", "change": 5})
    prompt = engine.rules.prompt(request)
    slots = engine.rules.slots(prompt)
    return _Job(request, prompt, slots, engine.vocabulary.encode_prompt(prompt, slots))


def test_of_the_clean_drafts_that_one_is_the_answer_which_the_others_agree_with_most(
    engine: MicroLmEngine,
) -> None:
    drafts = [
        _Draft("Warm, Ulm.", -0.1, ()),
        _Draft("In Ulm it gets warmer by 5 degrees.", -0.4, ()),
        _Draft("In Ulm it gets warmer, by 5 degrees.", -0.5, ()),
        _Draft("In Ulm it gets warmer by 5 degrees today.", -0.5, ("invented value: today",)),
        _Draft("In Ulm it gets warmer by 5 degrees indeed.", -0.3, (), 1),
    ]
    answer = _judge(job(engine), drafts[0], drafts[1:])
    assert answer.content in (drafts[1].text, drafts[2].text)
    assert _judge(job(engine), drafts[0], []).content == "Warm, Ulm."
    assert _judge(job(engine), drafts[3], []).content is None


def test_of_a_record_of_an_unknown_kind_it_is_never_sure(engine: MicroLmEngine) -> None:
    known = job(engine)
    draft = _Draft("Warm, Ulm.", -0.1, ())
    assert _judge(known, draft, []).confidence > 0.5
    foreign = replace(known, encoded=replace(known.encoded, foreign=True))
    answer = _judge(foreign, draft, [])
    # what it would say can be looked at
    assert (answer.content, answer.confidence) == ("Warm, Ulm.", 0.0)


def test_drafts_of_one_prompt_are_the_same_alone_and_beside_others(engine: MicroLmEngine) -> None:
    work = job(engine).work((GREEDY, *range(DRAFTS)))
    other = job(engine).work((3,))
    with torch.inference_mode():
        alone = decode(engine.model, engine.vocabulary, [work])[0]
        beside = decode(engine.model, engine.vocabulary, [other, work])
    assert [written.ids for written in beside[1]] == [written.ids for written in alone]
    assert beside[0][0].ids == alone[1 + 3].ids
    assert len(alone) == 1 + DRAFTS


def test_no_requests_give_no_answers(engine: MicroLmEngine) -> None:
    assert engine.answer([]) == []


def test_a_single_answer_takes_well_under_a_second(engine: MicroLmEngine) -> None:
    started = time.monotonic()
    engine.answer([ask({"town": "Ulm", "change": 5})])
    assert time.monotonic() - started < 2


def test_the_folder_loads_by_its_card(folder: Path) -> None:
    assert isinstance(load(folder), MicroLmEngine)


def test_files_that_do_not_fit_together_are_a_corrupt_model(folder: Path, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors", "tokenizer.json", "vocabulary.json", "slots.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    MicroLmEngine.load(tmp_path)
    data = json.loads((tmp_path / "vocabulary.json").read_text())
    (tmp_path / "vocabulary.json").write_text(json.dumps({**data, "special": data["special"][:-1]}))
    with pytest.raises(CorruptModel, match="vocabulary"):
        MicroLmEngine.load(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(CorruptModel):
        MicroLmEngine.load(tmp_path)
