import json
from typing import Any

import pytest

from shoal.agents.learning.answer_forms import AnswerForm, call_schema
from shoal.agents.learning.json_schema import in_order, infer_schema
from shoal.agents.learning.training import Example
from shoal.agents.plans.schema import breaks
from shoal.agents.traces.chat import ChatRequest

PLACE = {
    "type": "object",
    "properties": {"city": {"$ref": "#/$defs/city"}, "days": {"type": "integer"}},
    "required": ["city"],
    "$defs": {"city": {"type": "string"}},
}
TOOLS = [
    {"type": "function", "function": {"name": "weather", "parameters": PLACE}},
    {"type": "function", "function": {"name": "stop"}},
]


def _example(content: str, **body: Any) -> Example:
    messages = [{"role": "user", "content": "x"}]
    return Example(
        id="1", request=ChatRequest(body={"messages": messages, **body}), content=content, group="1"
    )


def test_a_schema_inferred_from_values_holds_for_them_and_not_for_others() -> None:
    values = [{"a": n, "b": "x" if n % 2 else None, "c": [1.5, n]} for n in range(9)]
    values[0]["d"] = True
    schema = infer_schema(values)
    assert all(not breaks(v, schema) for v in values)
    assert schema["required"] == ["a", "b", "c"]
    for wrong in ({"a": 1, "b": "x"}, {**values[1], "e": 1}, {**values[1], "a": "1"}, [1]):
        assert breaks(wrong, schema), wrong


def test_a_field_is_a_closed_choice_only_where_each_value_was_seen_often() -> None:
    often = infer_schema(["red", "blue"] * 8)
    seldom = infer_schema([f"name {n}" for n in range(16)])
    assert often["enum"] == ["blue", "red"]
    assert "enum" not in seldom and not breaks("name 99", seldom)


def test_keys_are_brought_into_the_schema_s_order_also_behind_references() -> None:
    schema = {
        "properties": {"b": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/p"}]}, "a": {}},
        "$defs": {"p": {"properties": {"y": {}, "x": {}}}},
    }
    assert json.dumps(in_order({"a": 1, "z": 0, "b": {"x": 1, "y": 2}}, schema)) == (
        '{"b": {"y": 2, "x": 1}, "a": 1, "z": 0}'
    )


@pytest.mark.parametrize(
    ("contents", "kind"),
    [
        (["yes", "No"] * 10, "label"),
        (['{"a": 1}', '```json\n{"a": 2}\n```'] * 10, "json"),
        ([f"text {n}" for n in range(20)], "text"),
    ],
)
def test_the_form_follows_from_the_answers(contents: list[str], kind: str) -> None:
    form = AnswerForm.fit([_example(c) for c in contents])
    assert form.kind == kind
    assert AnswerForm.from_dict(json.loads(json.dumps(form.to_dict()))) == form


def test_calls_are_written_under_their_tool_s_parameters_and_read_back() -> None:
    logged = '[["weather", "{\\"days\\":2,\\"city\\":\\"Ulm\\"}"]]'
    call = _example(logged, tools=TOOLS)
    form = AnswerForm.fit([call, _example("Which city?", tools=TOOLS)])
    text = form.teach(call)
    assert text == '{"name": "weather", "arguments": {"city": "Ulm", "days": 2}}'
    (given,) = form.read(text, call.request).tool_calls
    assert given == {
        "type": "function",
        "function": {"name": "weather", "arguments": '{"city": "Ulm", "days": 2}'},
    }
    said = form.teach(_example("Which city?", tools=TOOLS))
    assert said is not None and form.read(said, call.request).content == "Which city?"
    assert (
        "breaks its schema" in form.read('{"name": "weather", "arguments": {"days": 2}}', call.request).reason
    )


def test_the_choice_of_tool_that_a_request_makes_is_kept() -> None:
    forced = {"type": "function", "function": {"name": "stop"}}
    request = _example("", tools=TOOLS, tool_choice=forced).request
    assert not breaks({"name": "stop", "arguments": {}}, call_schema(request))
    assert breaks({"name": "weather", "arguments": {"city": "Ulm"}}, call_schema(request))
    assert breaks({"text": "no"}, call_schema(request))
    none = _example("", tools=TOOLS, tool_choice="none").request
    assert not breaks({"text": "no"}, call_schema(none)) and breaks(
        {"name": "stop", "arguments": {}}, call_schema(none)
    )


def test_what_breaks_the_schema_asked_for_is_no_answer() -> None:
    asked = {"type": "json_schema", "json_schema": {"schema": {"type": "object", "required": ["n"]}}}
    form = AnswerForm.fit([_example('{"a": 1}')] * 3)
    request = _example("", response_format=asked).request
    assert form.read('{"n": 1}', request).content == '{"n": 1}'
    assert "breaks its schema" in form.read('{"a": 1}', request).reason
