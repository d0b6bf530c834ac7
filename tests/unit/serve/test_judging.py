from __future__ import annotations

import json
from pathlib import Path

import pytest

from shoal.agents.learning.folder import seal
from shoal.agents.learning.slots import learn_slot_rules
from shoal.agents.learning.training import Example
from shoal.agents.registry.records import OutputKind
from shoal.agents.traces.chat import Answer, ChatRequest
from shoal.serve.judging import SlotJudge, judge_plainly

CITIES = ["Bonn", "Graz", "Lyon", "Oslo", "Riga", "Turin", "Vigo", "York", "Zadar", "Brno", "Cork", "Delft"]


def request(city: str, growth: int) -> ChatRequest:
    record = json.dumps({"city": city, "growth": growth})
    return ChatRequest(body={"model": "auto", "messages": [{"role": "user", "content": record}]})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    pairs = [(CITIES[i % len(CITIES)], 3 + i) for i in range(120)]
    rules = learn_slot_rules(
        [
            Example(
                id=f"t{i}", request=request(*pair), content=f"{pair[0]} grew by {pair[1]}%.", group=f"t{i}"
            )
            for i, pair in enumerate(pairs)
        ]
    )
    (tmp_path / "slots.json").write_text(json.dumps(rules.to_dict()), encoding="utf-8")
    seal(tmp_path, {"kind": "micro_lm"})
    return tmp_path


REFERENCE = Answer(content="Growth in Bonn: 7%.", model="big")


def test_a_text_is_judged_by_the_values_that_it_must_carry(folder: Path) -> None:
    judge = SlotJudge(lambda key: folder)
    right = judge("t@1", OutputKind.TEXT, request("Bonn", 7), "Bonn is up by 7%.", REFERENCE)
    assert right.defined and not right.wrong
    wrong = judge("t@1", OutputKind.TEXT, request("Bonn", 7), "Oslo is up by 7%.", REFERENCE)
    assert wrong.defined and wrong.wrong


def test_a_text_without_rules_is_not_judged(folder: Path) -> None:
    said = ("t@1", OutputKind.TEXT, request("Bonn", 7), "Oslo is up.", REFERENCE)
    assert not judge_plainly(*said).defined
    assert not SlotJudge(lambda key: None)(*said).defined
    (folder / "slots.json").write_text("{}", encoding="utf-8")
    assert not SlotJudge(lambda key: folder)(*said).defined


def test_labels_are_judged_without_any_folder() -> None:
    judge = SlotJudge(lambda key: None)
    label = Answer(content="calm", model="big")
    assert not judge("t@1", OutputKind.LABEL, request("Bonn", 7), "Calm", label).wrong
    assert judge("t@1", OutputKind.LABEL, request("Bonn", 7), "angry", label).wrong
