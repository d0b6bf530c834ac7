"""What holds for every plan, whatever fails, whenever the process dies: tried on random data-flow graphs with planners among them.

A process dies here at a chosen write, before or after it is durable; what was under way is lost then, as by `kill -9`.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.agents.fakes import FunctionPerformer
from shoal.agents.plans.labels import ORDER, strictest
from shoal.agents.plans.plan import Plan, Step, parse_plan
from shoal.agents.plans.run_state import Keep
from shoal.agents.plans.runner import PlanRunner
from shoal.agents.plans.store import SqlRuns
from shoal.agents.registry.database import Database
from shoal.agents.traces.chat import Privacy
from shoal.errors import SpecialistUnavailable
from shoal.nodes.spool import SystemClock

RUN = "run"
GIVEN = {"q": "why", "list": ["a", "b", "c"]}
TOOLS = [f"t{number}" for number in range(6)]
#: what every planner writes: two steps, the second upon the first
BODY = {
    "steps": [
        {"id": "x", "use": "auto", "each": "$input.list", "input": "${item} of inner x ${index}"},
        {"id": "y", "use": "auto", "input": {"x": "$x", "me": "inner y"}},
    ],
    "result": {"y": "$y", "first": "$x.0"},
}


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Each step says in its input who it is, so that its parts can be told apart."""
    steps: list[dict[str, Any]] = []
    for number in range(draw(st.integers(2, 6))):
        known = [step["id"] for step in steps]
        sources = draw(st.lists(st.sampled_from(known), max_size=3, unique=True)) if known else []
        name = f"s{number}"
        use = draw(st.sampled_from(["auto", "auto", f"tool/t{number}", "planner"]))
        put: dict[str, Any] = {"me": name, **{f"x{n}": f"${source}" for n, source in enumerate(sources)}}
        step: dict[str, Any] = {"id": name, "use": use, "input": put, "retries": 1}
        if use != "planner" and draw(st.booleans()):
            step |= {"each": "$input.list", "input": {**put, "item": "$item", "n": "$index"}}
        if draw(st.integers(0, 4)) == 0:
            step["privacy"] = draw(st.sampled_from(ORDER))
        steps.append(step)
    result = {step["id"]: f"${step['id']}" for step in steps}
    return parse_plan({"name": "p", "steps": steps, "result": result}, source="test")


def answer(body: Mapping[str, Any]) -> str:
    if "You are the planner" in body["messages"][0]["content"]:
        return json.dumps(BODY)
    return "said " + hashlib.sha256(body["messages"][-1]["content"].encode()).hexdigest()[:8]


def use_tool(arguments: Mapping[str, Any]) -> Any:
    return {"h": hashlib.sha256(json.dumps(arguments, sort_keys=True).encode()).hexdigest()[:8]}


class Died(BaseException):
    """The process is gone. No Exception, so that nothing can go on after it."""


class MortalRuns(SqlRuns):
    """A store in whose process `die_at` writes go well, or all but the last one.

    Args:
        durable: the last write is there although nobody could be told.
    """

    def __init__(self, folder: Path, die_at: int | None, *, durable: bool = True) -> None:
        super().__init__(Database(folder / "runs.db"))
        self._left = die_at
        self._durable = durable
        self.died = False

    def keep(self, run_id: str, keeps: Sequence[Keep], view: dict[str, Any] | None) -> None:
        if self.died:
            raise Died
        if self._left is None or self._left > 0:
            super().keep(run_id, keeps, view)
            self._left = None if self._left is None else self._left - 1
            return
        if self._durable:
            super().keep(run_id, keeps, view)
        self.died = True
        raise Died


def runner_over(store: SqlRuns, performer: FunctionPerformer) -> PlanRunner:
    return PlanRunner(store=store, performer=performer, clock=SystemClock(), ids=lambda: RUN)


def performer(**more: Any) -> FunctionPerformer:
    return FunctionPerformer(answer=answer, tools=dict.fromkeys(TOOLS, use_tool), **more)


def done_parts(store: SqlRuns) -> set[tuple[str, int]]:
    return {(part.step, part.part) for part in store.load(RUN).parts}


def asked(call: tuple[str, Privacy, Mapping[str, Any]]) -> tuple[str, int]:
    """The step and part that a call was for: tools are named for their step, and each input says its part."""
    name, _, payload = call
    if "messages" not in payload:
        return f"s{name[1:]}", payload.get("n", 0)
    text = payload["messages"][-1]["content"]
    if "of inner x" in text:
        return name, int(text[-1])
    return name, json.loads(text).get("n", 0)


async def _undisturbed(plan: Plan, folder: Path) -> Any:
    runner = runner_over(SqlRuns(Database(folder / "calm.db")), performer())
    view = await runner.result(await runner.start(plan, GIVEN))
    assert view["status"] == "done", view["error"]
    return view["output"]


async def _until_it_dies_or_ends(runner: PlanRunner, store: MortalRuns) -> None:
    while not store.died and RUN in store.running():
        await asyncio.sleep(0.001)
    await runner.close()


def _forget_the_dead(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    if not isinstance(context.get("exception"), Died):
        loop.default_exception_handler(context)


@settings(max_examples=30, deadline=None)
@given(plan=plans(), deaths=st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=1, max_size=4))
async def test_a_process_that_dies_at_any_write_changes_nothing_and_nothing_kept_is_performed_again(
    plan: Plan, deaths: list[tuple[int, bool]]
) -> None:
    asyncio.get_running_loop().set_exception_handler(_forget_the_dead)
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        expected = await _undisturbed(plan, folder)
        fake = performer()
        for number, (die_at, durable) in enumerate(deaths):
            store = MortalRuns(folder, die_at, durable=durable)
            runner = runner_over(store, fake)
            before = done_parts(store) if number else set()
            fake.calls.clear()
            if number:
                await runner.adopt()
            else:
                await runner.start(plan, GIVEN, privacy="internal", caller="key-7")
            await _until_it_dies_or_ends(runner, store)
            assert not before & set(map(asked, fake.calls))
            assert before <= done_parts(store)
        store = MortalRuns(folder, None)
        before = done_parts(store)
        fake.calls.clear()
        runner = runner_over(store, fake)
        await runner.adopt()
        view = await runner.result(RUN)
        assert (view["status"], view["output"]) == ("done", expected)
        assert not before & set(map(asked, fake.calls))
        kept = store.load(RUN)
        assert (kept.row.label, kept.row.caller) == ("internal", "key-7")
        assert [event["seq"] for event in kept.events] == list(range(1, len(kept.events) + 1))
        told = [(event["type"], event.get("step")) for event in kept.events]
        assert len(told) == len(set(told)), "nothing is told twice"
        assert told[-1] == ("run_done", None)
        await runner.close()


@settings(max_examples=40, deadline=None)
@given(plan=plans(), label=st.sampled_from(ORDER), failing=st.sets(st.integers(0, 40), max_size=6))
async def test_labels_reach_all_that_is_made_of_labelled_data_and_no_step_comes_before_its_inputs(
    plan: Plan, label: Privacy, failing: set[int]
) -> None:
    own = {step.id: step for step in plan.steps}
    with tempfile.TemporaryDirectory() as text:
        store = SqlRuns(Database(Path(text) / "runs.db"))
        tries = 0

        def faults(name: str, seen: Privacy) -> None:
            nonlocal tries
            tries += 1
            step = name if name[0] == "s" else f"s{name[1:]}"
            at_least = _label(own, step.partition(".")[0], label)
            assert ORDER.index(seen) >= ORDER.index(at_least), f"{name} was asked with {seen}"
            told = {(event["type"], event.get("step")) for event in store.load(RUN).events}
            for need in _needs(own, step):
                assert ("step_done", need) in told, f"{step} came before {need}"
            if tries in failing:
                raise SpecialistUnavailable("away")

        fake = performer(faults=faults)
        runner = runner_over(store, fake)
        await runner.start(plan, GIVEN, privacy=label)
        view = await runner.result(RUN)
        while view["status"] == "failed":
            assert view["error"]["code"] == "specialist_unavailable", view["error"]
            await runner.resume(RUN)
            view = await runner.result(RUN)
        assert view["status"] == "done"
        by_id = {step["id"]: step["label"] for step in view["steps"]}
        assert {name: by_id[name] for name in own} == {name: _label(own, name, label) for name in own}
        await runner.close()


def _label(steps: Mapping[str, Step], name: str, run: Privacy) -> Privacy:
    """The definition, by recursion: the run's, the step's own, and those of all that it refers to."""
    step = steps[name]
    return strictest([run, step.privacy, *(_label(steps, need, run) for need in step.needs)])


def _needs(steps: Mapping[str, Step], name: str) -> Sequence[str]:
    if name.endswith(".y"):
        return [name[:-1] + "x"]
    return () if "." in name else steps[name].needs
