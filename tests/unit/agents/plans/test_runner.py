"""Runs on asyncio over a real store: whatever fails, is retried, killed or resumed, the result is that of an undisturbed run."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shoal.agents.fakes import FunctionPerformer
from shoal.agents.plans.drawing import draw_plan, draw_run
from shoal.agents.plans.plan import Plan, parse_plan
from shoal.agents.plans.run_state import Keep
from shoal.agents.plans.runner import PlanRunner
from shoal.agents.plans.store import SqlRuns
from shoal.agents.registry.database import Database
from shoal.errors import InvalidRequest, NotFound, SpecialistUnavailable, StepFailed
from shoal.nodes.spool import SystemClock

IDS = itertools.count()


def runner_over(folder: Path, performer: FunctionPerformer) -> PlanRunner:
    return PlanRunner(
        store=SqlRuns(Database(folder / "runs.db")),
        performer=performer,
        clock=SystemClock(),
        ids=lambda: f"r{next(IDS)}",
    )


def random_plan(seed: int) -> Plan:
    """A data-flow graph of models, tools and lists; each step's output depends on all that it refers to."""
    rng = random.Random(seed)
    steps: list[dict[str, Any]] = []
    for number in range(rng.randint(2, 7)):
        known = [step["id"] for step in steps]
        sources = [f"${name}" for name in rng.sample(known, k=min(len(known), rng.randint(0, 3)))]
        given = {f"x{n}": source for n, source in enumerate(sources or ["$input.q"])}
        use = rng.choice(("auto", "tool/hash"))
        step = {"id": f"s{number}", "use": use, "input": given, "retries": 3}
        if rng.random() < 0.4:
            step |= {"each": "$input.list", "input": {**given, "item": "$item", "n": "$index"}}
        steps.append(step)
    result = {step["id"]: f"${step['id']}" for step in steps}
    return parse_plan({"name": "p", "steps": steps, "result": result}, source="test")


def performer(**more: Any) -> FunctionPerformer:
    def say(body: Mapping[str, Any]) -> str:
        return f"said {hash_of(body['messages'][-1]['content'])}"

    return FunctionPerformer(
        answer=say, tools={"hash": lambda a: {"h": hash_of(repr(sorted(a.items())))}}, **more
    )


def hash_of(text: str) -> str:
    import hashlib

    return hashlib.sha256(text.encode()).hexdigest()[:8]


GIVEN = {"q": "why", "list": ["a", "b", "c"]}


async def undisturbed(plan: Plan, folder: Path) -> Any:
    runner = runner_over(folder, performer())
    view = await runner.result(await runner.start(plan, GIVEN))
    assert view["status"] == "done", view["error"]
    return view["output"]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10**6))
async def test_failures_that_pass_and_a_killed_process_change_nothing(seed: int) -> None:
    plan, rng = random_plan(seed), random.Random(seed)
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        expected = await undisturbed(plan, folder)

        def faults(name: str, label: str) -> None:
            if rng.random() < 0.15:
                raise rng.choice((SpecialistUnavailable("away"), StepFailed("broke")))

        flaky = performer(delay_s=0.001)
        first = runner_over(folder, flaky)
        run_id = await first.start(plan, GIVEN)
        await asyncio.sleep(rng.uniform(0, 0.03))
        await first.close()  # as a killed process: what was under way is lost
        store = SqlRuns(Database(folder / "runs.db"))
        kept = {(part.step, part.part) for part in store.load(run_id).parts}
        flaky.calls.clear()
        flaky.faults = faults
        second = runner_over(folder, flaky)
        await second.adopt()
        view = await second.result(run_id)
        while view["status"] == "failed":  # more retries than the plan has were needed
            await second.resume(run_id)
            view = await second.result(run_id)
        assert view["output"] == expected
        events = store.load(run_id).events
        assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
        done = Counter(event["step"] for event in events if event["type"] == "step_done")
        assert set(done.values()) == {1}
        after = {(part.step, part.part): part for part in store.load(run_id).parts}
        assert kept <= set(after)
        for step in view["steps"]:
            assert all(part["status"] == "done" for part in step["parts"])
        await second.close()


async def test_no_part_that_was_kept_is_performed_again_when_a_failed_run_is_resumed(tmp_path: Path) -> None:
    plan = parse_plan(
        {
            "name": "p",
            "steps": [
                {"id": "a", "use": "auto", "each": "$input.list", "input": "$item"},
                {"id": "b", "use": "tool/hash", "input": {"a": "$a"}, "retries": 0},
            ],
            "result": "$b",
        },
        source="test",
    )
    broken = True

    def faults(name: str, label: str) -> None:
        if name == "hash" and broken:
            raise StepFailed("the tool is away")

    fake = performer(faults=faults)
    runner = runner_over(tmp_path, fake)
    run_id = await runner.start(plan, GIVEN)
    view = await runner.result(run_id)
    assert (view["status"], view["error"]["step"]) == ("failed", "b")
    broken = False
    fake.calls.clear()
    await runner.resume(run_id)
    assert (await runner.result(run_id))["status"] == "done"
    assert [name for name, _, _ in fake.calls] == ["hash"]
    types = [event["type"] async for event in runner.events(run_id)]
    assert types[-1] == "run_done" and types.count("step_done") == 2


ONE = {"name": "p", "steps": [{"id": "a", "use": "auto", "input": "$input.q", "retries": 0}], "result": "$a"}


async def test_a_run_that_is_resumed_twice_at_once_is_driven_once(tmp_path: Path) -> None:
    broken = True

    def faults(name: str, label: str) -> None:
        if broken:
            raise StepFailed("away")

    fake = performer(faults=faults, delay_s=0.02)
    runner = runner_over(tmp_path, fake)
    run_id = await runner.start(parse_plan(ONE, source="t"), GIVEN)
    await runner.result(run_id)
    broken = False
    fake.calls.clear()
    await asyncio.gather(*(runner.resume(run_id) for _ in range(5)), runner.adopt())
    assert (await runner.result(run_id))["status"] == "done"
    assert len(fake.calls) == 1


async def test_a_run_that_ends_while_runs_are_adopted_is_left_alone(tmp_path: Path) -> None:
    class SlowRuns(SqlRuns):
        def running(self) -> list[str]:
            found = super().running()
            time.sleep(0.2)
            return found

    store, fake = SlowRuns(Database(tmp_path / "runs.db")), performer()
    runner = PlanRunner(store=store, performer=fake, clock=SystemClock(), ids=lambda: "r")
    run_id = await runner.start(parse_plan(ONE, source="t"), GIVEN)
    adopting = asyncio.create_task(runner.adopt())
    await runner.result(run_id)
    assert await adopting == [run_id]
    await runner.result(run_id)
    types = [event["type"] for event in store.load(run_id).events]
    assert types == ["run_started", "step_started", "step_done", "run_done"]
    assert len(fake.calls) == 1


async def test_a_run_that_was_left_is_cancelled_without_anything_being_performed(tmp_path: Path) -> None:
    first = runner_over(tmp_path, performer(delay_s=30))
    run_id = await first.start(parse_plan(ONE, source="t"), GIVEN)
    await asyncio.sleep(0.05)
    await first.close()
    fake = performer()
    assert (await runner_over(tmp_path, fake).cancel(run_id))["status"] == "cancelled"
    assert fake.calls == []


async def test_a_tool_that_is_gone_takes_nothing_from_what_it_has_done(tmp_path: Path) -> None:
    def faults(name: str, label: str) -> None:
        if name == "b":
            raise StepFailed("away")

    steps = [
        {"id": "a", "use": "tool/hash", "input": {}},
        {"id": "b", "use": "auto", "input": "$a", "retries": 0},
    ]
    plan = parse_plan({"name": "p", "steps": steps, "result": "$b"}, source="t")
    runner = runner_over(tmp_path, performer(faults=faults))
    run_id = await runner.start(plan, GIVEN)
    assert (await runner.result(run_id))["status"] == "failed"
    without = runner_over(tmp_path, FunctionPerformer())
    await without.resume(run_id)
    assert (await without.result(run_id))["status"] == "done"


async def test_nobody_is_told_of_what_is_not_durable_yet(tmp_path: Path) -> None:
    class SlowRuns(SqlRuns):
        def keep(self, run_id: str, keeps: Sequence[Keep], view: dict[str, Any] | None) -> None:
            time.sleep(0.05)
            super().keep(run_id, keeps, view)

    store = SlowRuns(Database(tmp_path / "runs.db"))
    runner = PlanRunner(store=store, performer=performer(), clock=SystemClock(), ids=lambda: "r")
    run_id = await runner.start(random_plan(3), GIVEN)
    looks = 0
    while run_id in store.running():
        seen = set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.005):
                async for event in runner.events(run_id):
                    seen.add(event["seq"])
        assert seen <= {event["seq"] for event in store.load(run_id).events}
        looks += bool(seen)
    assert looks


async def test_a_run_is_followed_live_and_again_from_the_store(tmp_path: Path) -> None:
    runner = runner_over(tmp_path, performer(delay_s=0.01))
    run_id = await runner.start(random_plan(3), GIVEN)
    live = [event async for event in runner.events(run_id)]
    again = [event async for event in runner.events(run_id)]
    assert live == again
    assert [event["seq"] async for event in runner.events(run_id, after=2)] == [e["seq"] for e in live[2:]]


async def test_cancelling_stops_parts_and_ends_the_run(tmp_path: Path) -> None:
    runner = runner_over(tmp_path, performer(delay_s=30))
    run_id = await runner.start(random_plan(3), GIVEN)
    await asyncio.sleep(0.05)
    assert (await runner.cancel(run_id))["status"] == "cancelled"
    assert (await runner.get(run_id))["status"] == "cancelled"
    assert (await runner.cancel(run_id))["status"] == "cancelled"


async def test_what_cannot_start_is_refused_before_anything_is_kept(tmp_path: Path) -> None:
    runner = runner_over(tmp_path, performer())
    plan = parse_plan(
        {"name": "p", "input": {"required": ["q"]}, "steps": [{"id": "a", "use": "auto"}], "result": "$a"},
        source="t",
    )
    with pytest.raises(InvalidRequest, match="'q' is a required property"):
        await runner.start(plan, {})
    with pytest.raises(InvalidRequest, match="half a surrogate") as caught:
        await runner.start(plan, {"q": ["\ud800"]})
    assert caught.value.param == "input.q.0"
    with pytest.raises(NotFound):
        await runner.start("none", {})
    with pytest.raises(NotFound):
        await runner.get("none")
    assert await runner.runs(10) == []
    assert await runner.names() == ["planner"]


async def test_a_step_that_takes_too_long_fails_by_its_deadline(tmp_path: Path) -> None:
    runner = runner_over(tmp_path, performer(delay_s=30))
    steps = [{"id": "a", "use": "auto", "timeout_s": 0.02, "retries": 0}]
    plan = parse_plan({"name": "p", "steps": steps, "result": "$a"}, source="t")
    view = await runner.result(await runner.start(plan, {}))
    assert view["error"]["code"] == "deadline_exceeded"


async def test_a_run_and_a_plan_are_drawn_within_eighty_columns(tmp_path: Path) -> None:
    for seed in range(12):
        plan = random_plan(seed)
        runner = runner_over(tmp_path, performer())
        view = await runner.result(await runner.start(plan, GIVEN))
        for drawn in (draw_plan(plan), draw_run(view)):
            assert max(map(len, drawn.splitlines())) <= 80
            assert all(step.id in drawn for step in plan.steps)


def test_plans_are_kept_replaced_and_removed(tmp_path: Path) -> None:
    store = SqlRuns(Database(tmp_path / "runs.db"))
    store.put_plan(random_plan(1), at=1.0)
    store.put_plan(random_plan(2), at=2.0)
    assert store.plan("p") == random_plan(2)
    assert [plan.name for plan in store.plans()] == ["p"]
    store.remove_plan("p")
    with pytest.raises(NotFound):
        store.remove_plan("p")


async def test_old_runs_are_erased(tmp_path: Path) -> None:
    runner = runner_over(tmp_path, performer())
    run_id = await runner.start(random_plan(1), GIVEN)
    await runner.result(run_id)
    store = SqlRuns(Database(tmp_path / "runs.db"))
    assert store.delete_before(0) == 0
    assert store.delete_before(9e9) == 1
    with pytest.raises(NotFound):
        store.load(run_id)


async def test_what_failed_in_a_run_that_was_left_stays_failed_and_is_tried_again_when_it_is_resumed(
    tmp_path: Path,
) -> None:
    broken = True

    def faults(name: str, label: str) -> None:
        if name == "a" and broken:
            raise StepFailed("broke")

    steps = [
        {"id": "a", "use": "auto", "input": "$input.q", "retries": 0},
        {"id": "c", "use": "auto", "input": "$a"},
        {"id": "b", "use": "tool/slow", "input": {}},
    ]
    plan = parse_plan({"name": "p", "steps": steps, "result": {"b": "$b", "c": "$c"}}, source="t")
    fake = FunctionPerformer(tools={"slow": lambda arguments: 1}, faults=faults)
    first = runner_over(tmp_path, fake)
    fake.delay_s = 0.05
    run_id = await first.start(plan, GIVEN)
    async for event in first.events(run_id):
        if event["type"] == "step_skipped":
            break
    await first.close()
    fake.calls.clear()
    second = runner_over(tmp_path, fake)
    await second.adopt()
    assert (await second.result(run_id))["error"]["step"] == "a"
    assert "a" not in [name for name, _, _ in fake.calls]
    store = SqlRuns(Database(tmp_path / "runs.db"))
    told = Counter(event["type"] for event in store.load(run_id).events)
    assert (told["step_failed"], told["step_skipped"], told["run_failed"]) == (1, 1, 1)
    broken = False
    await second.resume(run_id)
    assert (await second.result(run_id))["status"] == "done"


async def test_a_fault_of_the_machine_itself_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def burst(*arguments: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr("shoal.agents.plans.machine.PlanRun._performed", burst)
    runner = runner_over(tmp_path, performer())
    run_id = await runner.start(parse_plan(ONE, source="t"), GIVEN)
    view = await runner.result(run_id)
    assert (view["status"], view["error"]["code"]) == ("failed", "internal_error")
    assert SqlRuns(Database(tmp_path / "runs.db")).running() == []
