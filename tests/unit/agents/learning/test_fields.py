from __future__ import annotations

import json
import random
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.agents.learning.fields import train_fields
from shoal.agents.learning.folder import seal
from shoal.agents.learning.json_fields import FieldPlan, cast_like, filled, find_value, skeleton_of
from shoal.agents.learning.training import Example, TrainContext
from shoal.agents.traces.chat import ChatRequest
from shoal.errors import CorruptModel, DataError
from shoal.serve.engines import load

SYSTEM = "Turn the wish into a booking."
CITIES = [
    "Berlin",
    "San Jose",
    "Rome",
    "New Orleans",
    "Oslo",
    "Cape Town",
    "Lima",
    "Kyoto",
    "Porto",
    "Tel Aviv",
]


def request(text: str, system: str = SYSTEM) -> ChatRequest:
    messages = [{"role": "system", "content": system}, {"role": "user", "content": text}]
    return ChatRequest(body={"model": "auto", "messages": messages})


def wish(rng: random.Random, cities: list[str] = CITIES) -> tuple[str, dict[str, Any]]:
    """A wish, and the booking that it means: a closed choice, a copied place, a number, a field that is there or not."""
    city, nights, kind = rng.choice(cities), rng.randint(2, 9), rng.choice(("hotel", "flat"))
    body: dict[str, Any] = {"kind": kind, "where": {"city": city}, "version": 1}
    text = rng.choice(
        ("I want a {kind} in {city} for {nights} nights", "Book {nights} nights in {city}, a {kind}")
    )
    text = text.format(kind=kind, city=city, nights=nights)
    body["nights"] = nights
    if rng.random() < 0.5:
        body["pets"] = True
        text += ", with my dog"
    return text + ".", body


def examples(count: int, seed: int = 0, style: Any = json.dumps) -> list[Example]:
    rng = random.Random(seed)
    made = [wish(rng) for _ in range(count)]
    return [
        Example(id=str(n), request=request(text), content=style(body), group=str(n))
        for n, (text, body) in enumerate(made)
    ]


def trained(folder: Path, train: list[Example]) -> Any:
    context = TrainContext(seed=0, seconds=10, work=folder, monotonic=time.monotonic)
    report = train_fields(train, [], folder / "m", context)
    seal(folder / "m", {"kind": "fields"})
    return load(folder / "m"), report


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return trained(tmp_path_factory.mktemp("fields"), examples(80))[0]


def test_unseen_combinations_are_right_and_the_surest_more_often(engine: Any) -> None:
    rng = random.Random(99)
    wishes = [wish(rng) for _ in range(200)]
    answers = engine.answer([request(text) for text, _ in wishes])
    right = [
        a.content is not None and json.loads(a.content) == body
        for a, (_, body) in zip(answers, wishes, strict=True)
    ]
    assert sum(right) / len(right) >= 0.95
    order = sorted(range(len(right)), key=lambda n: -answers[n].confidence)
    assert all(right[n] for n in order[:140])


def test_values_never_seen_are_copied(engine: Any) -> None:
    rng = random.Random(5)
    wishes = [wish(rng, ["Quito", "Windhoek", "Salt Lake City"]) for _ in range(60)]
    answers = engine.answer([request(text) for text, _ in wishes])
    right = sum(
        a.content is not None and json.loads(a.content) == b
        for a, (_, b) in zip(answers, wishes, strict=True)
    )
    assert right >= 54


def test_a_new_prompt_or_an_empty_one_is_not_believed(engine: Any) -> None:
    [new, empty] = engine.answer(
        [request("I want a hotel in Rome for 3 nights.", "Do something else."), request(" ")]
    )
    assert new.confidence == 0.0 and "never seen" in new.reason
    assert (empty.content, empty.confidence) == (None, 0.0)


def test_the_answer_is_written_as_the_log_writes_it(tmp_path: Path) -> None:
    compact, _ = trained(tmp_path, examples(60, style=lambda body: json.dumps(body, separators=(",", ":"))))
    [answer] = compact.answer([request("Book 3 nights in Rome, a flat.")])
    assert answer.content == '{"kind":"flat","where":{"city":"Rome"},"version":1,"nights":3}'


def test_what_stands_in_a_record_is_taken_from_there(tmp_path: Path) -> None:
    rng = random.Random(1)
    made = []
    for n in range(60):
        record = {"order": f"A-{rng.randint(10**5, 10**6)}", "total": rng.randint(1, 900)}
        answer = {"id": record["order"], "size": "large" if record["total"] > 2000 else "small"}
        made.append(
            Example(id=str(n), request=request(json.dumps(record)), content=json.dumps(answer), group=str(n))
        )
    engine, report = trained(tmp_path, made)
    assert report.details["leaves"]["record"] == 1
    [said] = engine.answer([request('{"order": "Z-1", "total": 5}')])
    assert json.loads(said.content or "") == {"id": "Z-1", "size": "small"}
    [missing] = engine.answer([request('{"total": 5}')])
    assert missing.content is None and "record has no `order`" in missing.reason


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (lambda n: f"text {n}", "JSON objects or lists"),
        (lambda n: json.dumps({f"k{n}": 1}), "shapes"),
        (lambda n: json.dumps({"k": f"secret {n * 7919}"}), "field `k` takes 40 values"),
    ],
)
def test_what_cannot_be_learnt_says_why(tmp_path: Path, content: Any, why: str) -> None:
    made = [
        Example(id=str(n), request=request(f"wish {n}"), content=content(n), group=str(n)) for n in range(40)
    ]
    with pytest.raises(DataError, match=why):
        trained(tmp_path, made)


def test_the_same_calls_give_the_same_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        trained(tmp_path / name, examples(50))
    for file in ("fields.json", "weights.safetensors", "taggers.json", "vocabulary.json"):
        assert (tmp_path / "a/m" / file).read_bytes() == (tmp_path / "b/m" / file).read_bytes()


@pytest.mark.parametrize("spoil", ["fields.json", "taggers.json", "weights.safetensors"])
def test_files_that_make_no_specialist_are_refused(tmp_path: Path, spoil: str) -> None:
    trained(tmp_path, examples(50))
    path = tmp_path / "m" / spoil
    path.write_bytes(b"{}")
    seal(tmp_path / "m", {"kind": "fields"})
    with pytest.raises(CorruptModel):
        load(tmp_path / "m")


SCALARS = st.one_of(st.none(), st.booleans(), st.integers(-5, 5), st.text(max_size=4))
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
)


@given(VALUES)
def test_a_value_taken_apart_and_put_together_is_the_same(value: Any) -> None:
    skeleton, leaves = skeleton_of(value)
    assert filled(skeleton, leaves.__getitem__) == value


def test_values_are_found_at_word_boundaries_and_written_as_they_were_seen() -> None:
    assert find_value("in romeo or Rome", "rome") == (12, 16)
    assert find_value("in romeo", "rome") is None
    assert cast_like("ROME", ("Rome", "Oslo")) == "Rome"
    assert cast_like("7", (3, 5)) == 7
    assert cast_like("x7", (3, 5)) == "x7"
    assert cast_like("2.5", (1.5, 2)) == 2.5


def test_a_plan_of_fields_that_lacks_a_leaf_is_refused() -> None:
    text = json.dumps(
        {"skeletons": ['{"a": "a"}'], "leaves": {}, "style": "plain", "models": 0, "taggers": 0}
    )
    with pytest.raises(ValueError, match="'a'"):
        FieldPlan.from_json(text)
