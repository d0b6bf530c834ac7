import itertools
from typing import Any

import pytest

from shoal.agents.contract.break_even import Price
from shoal.agents.fakes import FunctionEngine
from shoal.agents.feedback.accounts import Rates
from shoal.agents.learning.evaluate import Loaded, evaluate, todays_snapshot, todays_versions
from shoal.agents.ports import SpecialistAnswer
from shoal.agents.registry.records import Task, Version, VersionState
from shoal.agents.routing.router import Router
from shoal.agents.tasks.finder import find_tasks
from shoal.agents.traces.chat import ChatRequest
from shoal.agents.traces.trace import Trace, TraceId

PRICE = Price(tokens_in=10, tokens_out=20)
COLOURS = ("red", "blue")


def _trace(number: int, text: str, answer: str, *, system: str = "Name the colour of the thing.") -> Trace:
    messages = [{"role": "system", "content": system}, {"role": "user", "content": text}]
    message = {"role": "assistant", "content": answer}
    return Trace(
        id=TraceId(f"t{number}"),
        request={"model": "big", "messages": messages},
        response={
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 100, "completion_tokens": 10},
        },
        timestamp=float(number),
        latency_ms=200.0,
    )


LOG = [_trace(i, f"{COLOURS[i % 2]} thing number {i}", COLOURS[i % 2]) for i in range(300)]
TASKS = find_tasks(LOG, known=[], seed=0, now=0.0).tasks


def _version(task: Task, number: int, state: VersionState, threshold: float = 0.5) -> Version:
    return Version(
        task_id=task.id,
        number=number,
        kind="classifier",
        state=state,
        folder="x",
        sha256="",
        threshold=threshold,
        alpha=0.05,
        delta=0.05,
        evidence={"loss": "label"},
    )


def _echo(request: ChatRequest) -> SpecialistAnswer:
    """Right about red things; about blue ones sure and wrong, or unsure where they are new."""
    text = request.last_user_text
    return SpecialistAnswer(content="red", confidence=0.2 if "new" in text else 0.9)


def _run(
    traces: list[Trace], version: Version, price: Price | None = PRICE
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    return evaluate(
        traces,
        router=Router(todays_snapshot(TASKS, [version])),
        load=lambda key: Loaded(version=version, engine=FunctionEngine(_echo)),
        price=price,
        rates=Rates(core_hour_usd={"": 3.6}),
        seconds=itertools.count().__next__,
    )


def test_the_version_that_serves_answers_else_the_newest_that_passed() -> None:
    task = TASKS[0]
    states = [VersionState.SHADOW, VersionState.REJECTED, VersionState.SHADOW, VersionState.RETIRED]
    versions = [_version(task, i + 1, s) for i, s in enumerate(states)]
    assert [v.number for v in todays_versions(TASKS, versions).values()] == [3]
    serving = [*versions, _version(task, 1, VersionState.SERVING)]
    assert [v.number for v in todays_versions(TASKS, serving).values()] == [1]
    rejected = [_version(task, 2, VersionState.REJECTED)]
    assert todays_versions(TASKS, rejected) == {}
    [asked] = todays_versions(TASKS, rejected, refused=True).values()
    assert asked.threshold > 1, "what it says is seen, and never given"


def test_rows_say_who_would_answer_and_what() -> None:
    traces = [
        _trace(0, "red thing number 7", "red"),
        _trace(1, "blue thing number 7 new", "blue"),
        _trace(2, "What is the capital of France?", "Paris", system="You are a travel guide."),
    ]
    _, rows = _run(traces, _version(TASKS[0], 4, VersionState.SHADOW))
    name = TASKS[0].name
    red = {"role": "assistant", "content": "red"}
    assert rows == [
        {
            "id": "t0",
            "task": name,
            "route": f"specialist/{name}@4",
            "confidence": 0.9,
            "raw": red,
            "wrong": False,
            "answer": red,
        },
        {
            "id": "t1",
            "task": name,
            "route": "generalist",
            "confidence": 0.2,
            "raw": red,
            "wrong": True,
            "answer": None,
        },
        {
            "id": "t2",
            "task": None,
            "route": "generalist",
            "confidence": None,
            "raw": None,
            "wrong": None,
            "answer": None,
        },
    ]


def test_the_report_counts_coverage_right_and_cost_by_task_and_in_all() -> None:
    traces = [
        *(_trace(i, f"red thing number {i}", "red") for i in range(6)),
        *(_trace(10 + i, f"blue thing number {i}", "blue") for i in range(2)),
        *(_trace(20 + i, f"red thing number {i} new", "red") for i in range(2)),
        _trace(30, "What is the capital of France?", "Paris", system="You are a travel guide."),
    ]
    report, _ = _run(traces, _version(TASKS[0], 1, VersionState.SHADOW))
    task = next(t for t in report["tasks"] if t["name"] == TASKS[0].name)
    assert (task["calls"], task["answered"], task["coverage"]) == (10, 8, 0.8)
    assert task["right"] == 0.75
    assert task["raw_right"] == 0.8
    low, high = task["right_interval"]
    assert 0.34 < low < 0.36 and 0.96 < high < 0.98
    assert task["generalist_ms"] == 200.0
    assert task["generalist_cost_usd"] == pytest.approx(10 * 0.0012)
    # a batch takes a second of the test's clock, and a core costs 0.001 USD a second
    assert task["compute_usd"] == pytest.approx(0.001)
    assert task["routed_cost_usd"] == pytest.approx(2 * 0.0012 + 0.001)
    assert task["saved_usd"] == pytest.approx(8 * 0.0012 - 0.001)
    assert (task["risk"], task["risk_interval"]) == (
        pytest.approx(1 - task["right"]),
        pytest.approx([1 - high for high in reversed(task["right_interval"])]),
    )
    assert report["total"]["calls"] == 11
    assert report["total"]["answered"] == 8
    other = next(t for t in report["tasks"] if t["name"] == "-")
    assert (other["calls"], other["coverage"], other["right"]) == (1, 0.0, None)


def test_a_threshold_above_one_means_that_nothing_is_answered() -> None:
    report, rows = _run(
        [_trace(0, "red thing number 7", "red")], _version(TASKS[0], 1, VersionState.SHADOW, 2.0)
    )
    assert rows[0]["answer"] is None
    assert rows[0]["raw"] is not None
    assert report["total"]["coverage"] == 0.0


def test_a_recorded_answer_that_is_broken_is_not_scored() -> None:
    broken = Trace(id=TraceId("b"), request=LOG[0].request, response={}, timestamp=0.0)
    report, rows = _run([broken], _version(TASKS[0], 1, VersionState.SHADOW))
    assert rows[0]["answer"] is not None
    assert report["total"]["right"] is None


def test_an_empty_log_makes_an_empty_report() -> None:
    report, rows = _run([], _version(TASKS[0], 1, VersionState.SHADOW))
    assert rows == []
    assert report["total"]["calls"] == 0


def test_without_a_price_money_is_unknown_and_not_nothing() -> None:
    version = _version(TASKS[0], 1, VersionState.SHADOW)
    report, _ = _run([_trace(0, "red thing number 7", "red")], version, price=None)
    total = report["total"]
    assert (total["generalist_cost_usd"], total["routed_cost_usd"], total["saved_usd"]) == (None, None, None)
    assert total["compute_usd"] == pytest.approx(0.001), "what a core costs is known"


def test_requests_are_put_to_a_specialist_in_batches() -> None:
    sizes: list[int] = []

    class _Counting:
        def answer(self, requests: list[ChatRequest]) -> list[SpecialistAnswer]:
            sizes.append(len(requests))
            return [_echo(r) for r in requests]

    version = _version(TASKS[0], 1, VersionState.SHADOW)
    evaluate(
        LOG,
        router=Router(todays_snapshot(TASKS, [version])),
        load=lambda key: Loaded(version=version, engine=_Counting()),  # type: ignore[arg-type]
    )
    assert sum(sizes) == 300
    assert len(sizes) <= 5
