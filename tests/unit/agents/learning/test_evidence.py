"""Evidence: ids instead of texts, figures by output kind, coverage against alpha, costs."""

from __future__ import annotations

import json

import pytest

from shoal.agents.contract.gate import HeldOut
from shoal.agents.learning.evidence import (
    ALPHAS,
    Examined,
    calls_to_show,
    costs,
    coverage_by_alpha,
    held_out_and_calibration,
    measure,
)
from shoal.agents.learning.training import Example
from shoal.agents.learning.volume import Volume, VolumeCount
from shoal.agents.ports import SpecialistAnswer
from shoal.agents.registry.records import OutputKind, TaskId
from shoal.agents.traces.chat import ChatRequest
from shoal.agents.traces.trace import Trace, TraceId
from shoal.config import parse_config


def examined(contents: list[str], given: list[str | None], wrong: list[bool]) -> Examined:
    examples = [
        Example(
            id=f"e{i}",
            request=ChatRequest(body={"messages": [{"role": "user", "content": f"secret {i}"}]}),
            content=c,
            group=f"e{i}",
        )
        for i, c in enumerate(contents)
    ]
    answers = [SpecialistAnswer(content=g, confidence=1 - i / 100) for i, g in enumerate(given)]
    held = [HeldOut(confidence=a.confidence, wrong=w) for a, w in zip(answers, wrong, strict=True)]
    return Examined(examples=examples, answers=answers, held_out=held)


def test_calls_are_kept_by_id_and_bounded_never_by_text() -> None:
    wrong = [i % 3 == 0 for i in range(90)]
    shown = calls_to_show(examined(["secret a"] * 90, ["secret b"] * 90, wrong), threshold=0.5)
    assert [row["id"] for row in shown["wrong"]] == [f"e{i}" for i in range(0, 36, 3)]
    assert len(shown["right"]) == 4 and all(int(row["id"][1:]) % 3 for row in shown["right"])
    assert [row["id"] for row in shown["unsure"]] == ["e51", "e52", "e53", "e54"]
    assert "secret" not in json.dumps(shown)


def test_some_of_the_examined_calls_keep_what_belongs_together() -> None:
    part = examined(["a", "b", "c"], ["a", "x", "c"], [False, True, False]).only({"e1", "e2"})
    rows = zip(part.examples, part.answers, part.held_out, strict=True)
    assert [(e.content, a.content, h.wrong) for e, a, h in rows] == [("b", "x", True), ("c", "c", False)]


def test_each_output_kind_has_its_own_figures() -> None:
    one = examined(['{"a": 1}', "x"], ['{"a": 1}', None], [False, True])
    none = frozenset[str]()
    assert "macro_f1" in measure(OutputKind.LABEL, one, one.examples, calling=none).figures
    assert "json_valid" in measure(OutputKind.JSON, one, one.examples, calling=none).figures
    assert "slot_error" not in measure(OutputKind.TEXT, one, one.examples, calling=none).figures
    calls = examined(['[["find", "{}"]]', "WAIT"], ["WAIT", "WAIT"], [True, False])
    figures = measure(OutputKind.TOOL_CALL, calls, (), calling=frozenset({"e0"})).figures
    assert (figures["call_or_not"].value, figures["no_call"].value) == (0.5, 1.0)


def test_coverage_grows_with_what_may_be_wrong() -> None:
    held = [HeldOut(confidence=1 - i / 400, wrong=i > 200 and i % 4 == 0) for i in range(400)]
    rows = coverage_by_alpha(held, 0.05, start_share=0.4)
    assert [alpha for alpha, _ in rows] == list(ALPHAS)
    coverages = [coverage for _, coverage in rows]
    assert coverages == sorted(coverages)
    assert coverages[0] < 0.6 < coverages[-1]


def test_costs_name_the_break_even_only_where_there_is_a_price() -> None:
    volume = Volume(calls=100, prompt_tokens=100_000, completion_tokens=10_000, calls_per_day=50)
    priced = parse_config(
        {"generalist": {"base_url": "http://x", "model": "m", "price_in": 2.5, "price_out": 10}},
        source="test",
    )
    said = costs(core_seconds=7200, answer_ms=36, coverage=0.8, volume=volume, config=priced)
    assert said["break_even"]["calls"] == 36 and said["core_hour_usd"] == 0.05
    free = costs(
        core_seconds=7200, answer_ms=36, coverage=0.8, volume=volume, config=parse_config({}, source="test")
    )
    assert free["break_even"] is None and free["prompt_tokens"] == 1000


def trace(number: int, at: float, usage: dict[str, int] | None) -> Trace:
    response = {"model": "m", "choices": [{"message": {"role": "assistant", "content": "12345678"}}]}
    return Trace(
        id=TraceId(f"t{number}"),
        request={"messages": [{"role": "user", "content": "1234"}]},
        response=response if usage is None else {**response, "usage": usage},
        timestamp=at,
    )


def test_tokens_are_those_reported_else_estimated_and_a_day_is_of_the_whole_log() -> None:
    traces = [
        trace(0, 0.0, {"prompt_tokens": 100, "completion_tokens": 10}),
        trace(1, 43_200.0, None),
        trace(2, 86_400.0, None),
    ]
    task = TaskId("t")
    count = VolumeCount()
    count.add(traces[0], task)
    assert count.result()[task].calls_per_day is None
    count.add(traces[1], task)
    count.add(traces[2], None)
    found = count.result()[task]
    assert (found.calls, found.estimated, found.calls_per_day) == (2, 1, pytest.approx(2))
    # 1 token of text and 4 of the message's frame; 2 of the answer
    assert (found.prompt_tokens, found.completion_tokens) == (105, 12)


def test_the_gates_calls_and_those_that_calibrate_stand_side_by_side() -> None:
    right, wrong = HeldOut(confidence=0.9, wrong=False), HeldOut(confidence=0.9, wrong=True)
    alike = held_out_and_calibration([right] * 90 + [wrong] * 10, [right] * 180 + [wrong] * 20)
    assert alike["held_out"]["value"] == alike["calibration"]["value"] == 0.9  # type: ignore[index]
    assert alike["p"] == 1.0
    moved = held_out_and_calibration([right] * 60 + [wrong] * 40, [right] * 180 + [wrong] * 20)
    assert moved["p"] < 0.001  # type: ignore[operator]
    assert held_out_and_calibration([], [right])["p"] == 1.0
