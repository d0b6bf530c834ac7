"""The state machine of a run, event by event: what it commands, and in which order."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from shoal.agents.plans.catalogue import Catalogue, ToolInfo
from shoal.agents.plans.machine import PlanRun
from shoal.agents.plans.plan import parse_plan
from shoal.agents.plans.run_state import (
    Command,
    Fault,
    Keep,
    PartFailed,
    PartPerformed,
    Perform,
    RunBegun,
    RunCancelled,
    RunStatus,
    StopParts,
)
from shoal.agents.ports import Performed

CATALOGUE = Catalogue(
    tools={"look": ToolInfo(name="look", description="", input={"type": "object"}, output={"type": "object"})}
)
MAY_PASS = Fault(code="specialist_unavailable", message="away", may_pass=True)
NEVER = Fault(code="privacy_violation", message="nobody may see it")


def run_of(steps: Sequence[dict[str, Any]], result: Any, **more: Any) -> PlanRun:
    label = more.pop("label", "internal")
    plan = parse_plan({"name": "p", "steps": list(steps), "result": result, **more}, source="test")
    given = {"q": "why", "list": [1, 2]}
    return PlanRun("r", plan, given, label=label, catalogue=CATALOGUE, created_at=0.0)


def said(step: str, text: Any, part: int = 0, performer: str = "specialist/s@1") -> PartPerformed:
    return PartPerformed(step=step, part=part, performed=Performed(output=text, performer=performer), at=2.0)


def kinds(commands: Sequence[Command]) -> list[str]:
    return [event["type"] for command in commands if isinstance(command, Keep) for event in command.events]


def performs(commands: Sequence[Command]) -> list[tuple[str, int]]:
    return [(command.step, command.part) for command in commands if isinstance(command, Perform)]


A = {"id": "a", "use": "auto", "system": "Do.", "input": "$input.q"}


def test_what_is_done_is_kept_before_anything_follows_from_it() -> None:
    run = run_of([A, {"id": "b", "use": "tool/look", "input": {"said": "$a"}}], "$b")
    first = run.handle(RunBegun(at=1.0))
    assert [type(command) for command in first] == [Keep, Perform]
    assert kinds(first) == ["run_started", "step_started"]
    asked = first[1]
    assert isinstance(asked, Perform)
    assert asked.payload["messages"] == [
        {"role": "system", "content": "Do."},
        {"role": "user", "content": "why"},
    ]
    second = run.handle(said("a", "because"))
    assert [type(command) for command in second] == [Keep, Perform]
    kept = second[0]
    assert isinstance(kept, Keep) and [(p.step, p.part) for p in kept.parts] == [("a", 0)]
    assert kinds(second) == ["step_done", "step_started"]
    assert isinstance(second[1], Perform) and second[1].payload == {"said": "because"}
    last = run.handle(said("b", {"x": 1}, performer="tool/look"))
    assert kinds(last) == ["step_done", "run_done"]
    assert (run.status, run.output) == (RunStatus.DONE, {"x": 1})
    assert run.handle(said("b", {"x": 2})) == [], "nothing follows once it is over"


def test_steps_that_wait_for_nobody_start_together_and_each_has_a_part_for_every_element() -> None:
    run = run_of(
        [
            A,
            {"id": "b", "use": "auto", "each": "$input.list", "input": "$item"},
            {"id": "c", "use": "auto", "input": "$b"},
        ],
        "$c",
    )
    assert performs(run.handle(RunBegun(at=1.0))) == [("a", 0), ("b", 0), ("b", 1)]
    assert performs(run.handle(said("b", "two", 1))) == []
    third = run.handle(said("b", "one", 0))
    assert performs(third) == [("c", 0)]
    asked = next(command for command in third if isinstance(command, Perform))
    assert json.loads(asked.payload["messages"][-1]["content"]) == ["one", "two"]


def test_an_empty_list_is_done_at_once() -> None:
    run = run_of([{"id": "a", "use": "auto", "each": "$input.none", "input": "$item"}], "$a")
    run.input["none"] = []
    assert kinds(run.handle(RunBegun(at=1.0)))[-1] == "run_done"
    assert run.output == []


def test_a_failure_that_may_pass_is_tried_again_later_and_others_are_not() -> None:
    run = run_of([{**A, "retries": 2}], "$a")
    run.handle(RunBegun(at=1.0))
    delays = []
    for _ in range(2):
        [again] = run.handle(PartFailed(step="a", part=0, fault=MAY_PASS, at=2.0))
        assert isinstance(again, Perform)
        delays.append(again.delay_s)
    assert delays == [0.2, 0.4]
    last = run.handle(PartFailed(step="a", part=0, fault=MAY_PASS, at=3.0))
    assert kinds(last) == ["step_failed", "run_failed"]
    other = run_of([A], "$a")
    other.handle(RunBegun(at=1.0))
    assert kinds(other.handle(PartFailed(step="a", part=0, fault=NEVER, at=2.0))) == [
        "step_failed",
        "run_failed",
    ]
    assert other.error == {"code": "privacy_violation", "message": "step a: nobody may see it", "step": "a"}


def test_what_needs_a_failed_step_is_skipped_and_what_does_not_goes_on() -> None:
    steps = [A, {"id": "b", "use": "auto", "input": "$a"}, {"id": "c", "use": "auto", "input": "$input.q"}]
    run = run_of(steps, "$c")
    run.handle(RunBegun(at=1.0))
    failed = run.handle(PartFailed(step="a", part=0, fault=NEVER, at=2.0))
    assert kinds(failed) == ["step_failed", "step_skipped"]
    assert any(isinstance(command, StopParts) for command in failed)
    assert kinds(run.handle(said("c", "fine")))[-1] == "run_done"
    assert run.output == "fine"


def test_an_answer_that_breaks_its_schema_is_asked_of_the_generalist_once() -> None:
    schema = {"type": "object", "required": ["k"]}
    run = run_of([{**A, "output": schema}], "$a.k")
    run.handle(RunBegun(at=1.0))
    [again] = run.handle(said("a", "no JSON"))
    assert isinstance(again, Perform) and again.payload["model"] == "generalist"
    assert (
        kinds(run.handle(said("a", '```json\n{"k": 5}\n```', performer="generalist/big")))[-1] == "run_done"
    )
    assert run.output == 5
    other = run_of([{**A, "output": schema}], "$a.k")
    other.handle(RunBegun(at=1.0))
    other.handle(said("a", "{}"))
    assert kinds(other.handle(said("a", "{}", performer="generalist/big"))) == ["step_failed", "run_failed"]
    assert "'k' is a required property" in str(other.error)


BODY = {"steps": [{"id": "x", "use": "auto", "input": "$input.q"}], "result": {"got": "$x"}}


def test_a_planners_steps_become_part_of_the_run() -> None:
    run = run_of([{"id": "plan", "use": "planner", "input": "$input.q"}], "$plan.got")
    run.handle(RunBegun(at=1.0))
    planned = run.handle(said("plan", json.dumps(BODY)))
    assert kinds(planned) == ["step_planned", "step_started"]
    assert performs(planned) == [("plan.x", 0)]
    done = run.handle(said("plan.x", "because"))
    assert kinds(done) == ["step_done", "step_done", "run_done"]
    assert run.output == "because"


def test_a_plan_that_may_not_be_run_is_asked_of_the_generalist_and_then_refused() -> None:
    run = run_of([{"id": "plan", "use": "planner", "input": "$input.q"}], "$plan")
    run.handle(RunBegun(at=1.0))
    bad = json.dumps({"steps": [{"id": "x", "use": "tool/none"}], "result": "$x"})
    [again] = run.handle(said("plan", bad))
    assert isinstance(again, Perform) and again.payload["model"] == "generalist"
    assert "there is no tool 'none'" in str(run.handle(said("plan", bad, performer="generalist/big")))


def test_labels_spread_to_all_that_is_made_of_labelled_data_and_to_nothing_else() -> None:
    steps = [
        {**A, "privacy": "local-only"},
        {"id": "b", "use": "auto", "input": "about ${a}"},
        {"id": "c", "use": "auto", "each": "$input.list", "input": {"b": "$b"}},
        {"id": "d", "use": "auto", "input": "$input.q"},
    ]
    run = run_of(steps, "$c", label="public")
    begun = run.handle(RunBegun(at=1.0))
    labels = {c.step: c.label for c in begun if isinstance(c, Perform)}
    for step in ("a", "b"):
        labels |= {c.step: c.label for c in run.handle(said(step, "x")) if isinstance(c, Perform)}
    assert labels == {"a": "local-only", "b": "local-only", "c": "local-only", "d": "public"}


def test_a_planners_steps_have_at_least_its_label() -> None:
    run = run_of([{"id": "plan", "use": "planner", "input": "$input.q", "privacy": "local-only"}], "$plan")
    run.handle(RunBegun(at=1.0))
    [perform] = [c for c in run.handle(said("plan", json.dumps(BODY))) if isinstance(c, Perform)]
    assert perform.label == "local-only"


def test_what_a_planners_private_step_gave_keeps_its_label_outside_of_the_planner() -> None:
    steps = [
        {"id": "plan", "use": "planner", "input": "$input.q"},
        {"id": "b", "use": "auto", "input": "about ${plan}"},
        {"id": "c", "use": "auto", "input": "$b"},
    ]
    skills = {"own": {"system": "Look.", "privacy": "local-only"}}
    run = run_of(steps, "$c", label="public", skills=skills)
    run.handle(RunBegun(at=1.0))
    body = {"steps": [{"id": "x", "use": "skill/own", "input": "$input.q"}], "result": "$x"}
    labels = {}
    for step, text in (("plan", json.dumps(body)), ("plan.x", "a secret"), ("b", "told")):
        labels |= {c.step: c.label for c in run.handle(said(step, text)) if isinstance(c, Perform)}
    assert labels == dict.fromkeys(["plan.x", "b", "c"], "local-only")


def test_a_run_that_fails_names_the_step_that_its_result_lacks() -> None:
    steps = [A, {**A, "id": "b"}, {"id": "c", "use": "auto", "input": "$b"}]
    run = run_of(steps, "$c")
    run.handle(RunBegun(at=1.0))
    for step in ("a", "b"):
        fault = Fault(code="privacy_violation", message=f"{step} may not")
        run.handle(PartFailed(step=step, part=0, fault=fault, at=2.0))
    assert run.error == {"code": "privacy_violation", "message": "step b: b may not", "step": "b"}


@pytest.mark.parametrize("given", [{1, 2}, float("nan"), b"x", {"k": "\ud800"}, {1: 2}])
def test_a_tools_answer_that_is_no_json_fails_the_step_and_is_never_kept(given: Any) -> None:
    run = run_of([{"id": "b", "use": "tool/look"}], "$b")
    run.handle(RunBegun(at=1.0))
    commands = run.handle(said("b", given, performer="tool/look"))
    assert kinds(commands) == ["step_failed", "run_failed"]
    assert not any(command.parts for command in commands if isinstance(command, Keep))


def test_a_models_json_that_nobody_could_be_told_is_asked_of_the_generalist() -> None:
    for text in ('{"k": NaN}', '{"k": "\\ud800"}', '{"k": ' + "[" * 200 + "]" * 200 + "}"):
        run = run_of([{**A, "output": {"type": "object"}}], "$a")
        run.handle(RunBegun(at=1.0))
        [again] = run.handle(said("a", text))
        assert isinstance(again, Perform) and again.payload["model"] == "generalist"


def test_a_cancelled_run_stops_what_is_under_way() -> None:
    run = run_of([A, {"id": "b", "use": "auto", "input": "$a"}], "$b")
    run.handle(RunBegun(at=1.0))
    commands = run.handle(RunCancelled(at=2.0))
    assert kinds(commands) == ["run_cancelled"]
    assert StopParts(steps=("a", "b")) in commands
    assert run.view()["status"] == "cancelled"


def test_arguments_that_break_a_tools_schema_never_reach_it() -> None:
    run = run_of([A, {"id": "b", "use": "tool/look", "input": "$a"}], "$b")
    run.handle(RunBegun(at=1.0))
    assert kinds(run.handle(said("a", "text"))) == ["step_done", "step_failed", "run_failed"]
