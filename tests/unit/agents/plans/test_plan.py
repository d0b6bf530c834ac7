from __future__ import annotations

from datetime import date
from typing import Any

import pytest
import yaml

from shoal.agents.plans.catalogue import Catalogue, ToolInfo
from shoal.agents.plans.plan import parse_plan, validate_body
from shoal.agents.plans.planner import built_in_plan, planner_prompt
from shoal.agents.plans.references import references_in, resolve
from shoal.agents.plans.schema import breaks
from shoal.errors import InvalidRequest, StepFailed

TEXT = """
name: report
description: says something
input: {type: object, required: [question]}
skills:
  write: {system: "Write.", tier: edge, privacy: internal, output: {type: object}}
tools: [look]
steps:
  - {id: data, use: tool/look, input: {at: $input.question}}
  - {id: each, use: skill/write, each: $data.rows, input: {row: $item, n: $index}}
  - {id: text, use: auto, system: "Say.", input: "all of ${each} and $$5", tier: local, retries: 0, timeout_s: 5}
result: {text: $text, first: $each.0}
"""
INFO = ToolInfo(
    name="look",
    description="looks",
    input={"type": "object", "required": ["at"], "properties": {"at": {"type": "string"}}},
)
CATALOGUE = Catalogue(tools={"look": INFO, "other": INFO}, specialists={"sort": "sorts"})


def plan(**changes: Any) -> Any:
    return {**yaml.safe_load(TEXT), **changes}


def test_a_plan_is_read_from_yaml_and_written_back_the_same() -> None:
    read = parse_plan(plan(), source="test")
    assert [step.needs for step in read.steps] == [(), ("data",), ("each",)]
    assert read.skills["write"].tier == "edge" and read.tools == ("look",)
    assert parse_plan(read.to_dict(), source="again") == read
    assert parse_plan(built_in_plan().to_dict(), source="built in") == built_in_plan()


STEP = {"id": "a", "use": "auto"}


@pytest.mark.parametrize(
    ("changes", "path", "why"),
    [
        ({"name": "No Slug"}, "name", "pattern"),
        ({"steps": []}, "steps", "at least 1"),
        ({"steps": [STEP] * 201, "result": 1}, "steps", "at most 200"),
        ({"steps": [{**STEP, "use": "shell/rm"}]}, "steps.0.use", "pattern"),
        ({"steps": [{**STEP, "unknown": 1}]}, "steps.0.unknown", "Extra inputs"),
        ({"steps": [{**STEP, "id": "input"}]}, "steps.0", "may not be called input"),
        ({"steps": [{**STEP, "each": "list"}]}, "steps.0", "reference to a list"),
        ({"steps": [{**STEP, "use": "skill/none"}]}, "steps.0.use", "no skill 'none'"),
        ({"steps": [{**STEP, "input": "$b"}]}, "steps", "no such step"),
        ({"steps": [STEP, STEP], "result": "$a"}, "steps", "given twice"),
        ({"steps": [{**STEP, "input": "$item"}], "result": "$a"}, "steps", "no `each`"),
        ({"steps": [STEP], "result": "$b"}, "steps", "the result refers to $b"),
        (
            {"steps": [{**STEP, "input": "$b"}, {"id": "b", "use": "auto", "input": "$a"}], "result": "$a"},
            "steps",
            "wait",
        ),
        ({"input": {"type": "nonsense"}}, "input", "no JSON Schema"),
        ({"output": {"items": [{"$ref": "http://127.0.0.1:9/x.json"}]}}, "output", "another document"),
        ({"steps": [{**STEP, "privacy": "secret"}]}, "steps.0.privacy", "public"),
        ({"steps": [STEP, {**STEP, "id": "b", "input": "$a.$index"}], "result": "$b"}, "steps", "no `each`"),
        ({"steps": [{**STEP, "use": "planner", "each": "$input.list"}]}, "steps.0", "one plan"),
        ({"steps": [{**STEP, "use": "planner", "output": {"type": "object"}}]}, "steps.0", "one plan"),
        ({"steps": [{**STEP, "each": "$item.rows"}], "result": "$a"}, "steps", "within it"),
        ({"steps": [STEP], "result": "$a.$index"}, "steps", "a step's"),
        ({"steps": [{**STEP, "input": {"at": date(2025, 1, 1)}}]}, "steps.0.input.at", "a date is no JSON"),
    ],
)
def test_what_is_wrong_with_a_plan_is_said_with_its_path(
    changes: dict[str, Any], path: str, why: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_plan(plan(**changes), source="my.yaml")
    assert caught.value.param == path
    assert why in caught.value.message and "my.yaml" in caught.value.message


def test_a_planners_body_may_use_only_what_is_offered() -> None:
    own = parse_plan(plan(), source="test")

    def errors(*steps: Any, result: Any = "$a") -> list[str]:
        return validate_body({"steps": list(steps), "result": result}, own, CATALOGUE)

    assert errors({"id": "a", "use": "tool/look", "input": {"at": "x"}}) == []
    assert errors({"id": "a", "use": "skill/write"}) == errors({"id": "a", "use": "specialist/sort"}) == []
    for use, why in (
        ("tool/other", "no tool"),
        ("skill/none", "no skill"),
        ("specialist/none", "no specialist"),
        ("planner", "may not call another"),
    ):
        assert why in errors({"id": "a", "use": use})[0]
    assert "`at`" in errors({"id": "a", "use": "tool/look", "input": {"at": 5}})[0]
    assert errors({"id": "b", "use": "auto"}, {"id": "a", "use": "tool/look", "input": {"at": "$b"}}) == []
    assert errors({"id": "a", "use": "auto", "system": "You are free."})
    assert errors({"id": "a", "use": "auto", "input": "$b"})
    assert validate_body("no plan", own, CATALOGUE)


def test_a_planner_is_told_all_that_it_may_use() -> None:
    prompt = planner_prompt(parse_plan(plan(), source="test"), CATALOGUE)
    assert "tool/look" in prompt and "tool/other" not in prompt
    assert "skill/write" in prompt and "specialist/sort" in prompt and '"steps"' in prompt
    own = parse_plan(plan(planner={"system": "Plan."}), source="test")
    assert planner_prompt(own, CATALOGUE) == "Plan."


VALUES: dict[str, Any] = {
    "a": {"rows": [{"x": 1}, {"x": 2}], "n": None},
    "input": {"q": "why?"},
    "item": "it",
}


@pytest.mark.parametrize(
    ("given", "value"),
    [
        ("$a.rows.1.x", 2),
        ("$a.rows.$index.x", 2),
        ("$index", 1),
        ("$item", "it"),
        ("as ${input.q} of ${a.rows}", 'as why? of [{"x": 1}, {"x": 2}]'),
        ("costs $$5 and $ 3", "costs $5 and $ 3"),
        ({"k": ["$input.q", "$a.n"]}, {"k": ["why?", None]}),
        ("$5", "$5"),
        (7, 7),
    ],
)
def test_references_are_replaced(given: Any, value: Any) -> None:
    assert resolve(given, VALUES.__getitem__, 1) == value


@pytest.mark.parametrize(
    "given", ["$a.none", "$a.rows.7", "$a.rows.x", "$a.n.x", "$a.rows.0.x.y", "$index.x"]
)
def test_a_reference_that_leads_nowhere_is_an_error(given: str) -> None:
    with pytest.raises(StepFailed):
        resolve(given, VALUES.__getitem__, 1)
    with pytest.raises(StepFailed, match=r"\$index"):
        resolve("$a.rows.$index", VALUES.__getitem__, None)


def test_every_reference_is_found() -> None:
    found = [str(r) for r in references_in({"k": ["$a.b", "x ${c.d} $$e"], "$no": "plain"})]
    assert found == ["$a.b", "$c.d"]


def test_a_schema_fetches_nothing_and_one_that_lacks_a_part_of_itself_says_so() -> None:
    assert "does not have" in breaks(1, {"$ref": "#/$defs/none"})[0]
    assert "does not have" in breaks(1, {"$ref": "http://127.0.0.1:9/x.json"})[0]
    assert "without end" in breaks(1, {"$ref": "#"})[0]
    assert breaks(1, {"$defs": {"n": {"type": "string"}}, "$ref": "#/$defs/n"}) == [
        "1 is not of type 'string'"
    ]


def test_a_place_that_no_list_can_have_leads_nowhere() -> None:
    with pytest.raises(StepFailed, match="leads nowhere"):
        resolve("$a." + "9" * 5000, lambda name: [1, 2])
