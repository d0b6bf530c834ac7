from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from shoal.agents.contract.loss import Judgement
from shoal.agents.fakes import FunctionGeneralist
from shoal.agents.learning.folder import seal
from shoal.agents.learning.second_opinions import Adviser
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


def plain(judge: SlotJudge) -> Callable[..., Judgement]:
    """A judge that has nobody to ask."""

    def verdict(*said: Any, **more: Any) -> Judgement:
        found = judge(*said, **more)
        assert isinstance(found, Judgement)
        return found

    return verdict


REFERENCE = Answer(content="Growth in Bonn: 7%.", model="big")


def test_a_text_is_judged_by_the_values_that_it_must_carry(folder: Path) -> None:
    judge = SlotJudge(lambda key: folder)
    right = plain(judge)("t@1", OutputKind.TEXT, request("Bonn", 7), "Bonn is up by 7%.", REFERENCE)
    assert right.defined and not right.wrong
    wrong = plain(judge)("t@1", OutputKind.TEXT, request("Bonn", 7), "Oslo is up by 7%.", REFERENCE)
    assert wrong.defined and wrong.wrong


def test_a_text_without_rules_is_not_judged(folder: Path) -> None:
    said = ("t@1", OutputKind.TEXT, request("Bonn", 7), "Oslo is up.", REFERENCE)
    assert not judge_plainly(*said).defined
    assert not plain(SlotJudge(lambda key: None))(*said).defined
    (folder / "slots.json").write_text("{}", encoding="utf-8")
    assert not plain(SlotJudge(lambda key: folder))(*said).defined


def test_labels_are_judged_without_any_folder() -> None:
    judge = plain(SlotJudge(lambda key: None))
    label = Answer(content="calm", model="big")
    assert not judge("t@1", OutputKind.LABEL, request("Bonn", 7), "Calm", label).wrong
    assert judge("t@1", OutputKind.LABEL, request("Bonn", 7), "angry", label).wrong


def test_a_version_that_a_judge_model_calibrated_is_audited_by_that_model(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(b"")
    seal(tmp_path, {"kind": "micro_lm", "evidence": {"judged": True}})
    fake = FunctionGeneralist(lambda r: "A" if "7%" in r.last_user_text.split("Answer B:")[0] else "B")
    who = Adviser(open=lambda: nullcontext(fake), calls=1)
    said = ("t@1", OutputKind.TEXT, request("Bonn", 7), "Bonn grew.", REFERENCE)

    async def heard() -> Judgement:
        found = SlotJudge(lambda key: tmp_path, who)(*said)
        assert not isinstance(found, Judgement)
        return await found

    assert asyncio.run(heard()).wrong and len(fake.requests) == 2
    # who may not see the call, or is no longer there, says nothing
    assert not plain(SlotJudge(lambda key: tmp_path, who))(*said, private=True).defined
    assert not plain(SlotJudge(lambda key: tmp_path))(*said).defined
