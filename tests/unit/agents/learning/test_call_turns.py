from __future__ import annotations

import json
from typing import Any

from shoal.agents.learning.calls.cues import Cues
from shoal.agents.learning.calls.mentions import read
from shoal.agents.learning.calls.normal import COMPOUND, Manner, Readings
from shoal.agents.learning.calls.schema import functions_of, invalid
from shoal.agents.learning.calls.turns import conversation_of
from shoal.agents.learning.calls.values import Lore, values_of
from shoal.agents.traces.chat import ChatRequest

CALL = {"id": "c1", "type": "function", "function": {"name": "get_user", "arguments": '{"user_id": "ann_1"}'}}


def _read(*messages: dict[str, Any]) -> Any:
    return read(conversation_of(ChatRequest(body={"messages": list(messages)})))


def test_a_transcript_in_one_message_is_read_as_turns() -> None:
    text = "user: A bus, please.\nassistant: Where to?\nuser: To: Oslo\nand back"
    turns = conversation_of(ChatRequest(body={"messages": [{"role": "user", "content": text}]})).turns
    assert [(t.role, t.text) for t in turns] == [
        ("user", "A bus, please."),
        ("assistant", "Where to?"),
        ("user", "To: Oslo\nand back"),
    ]


def test_functions_called_and_what_they_gave_are_turns_with_values() -> None:
    result = json.dumps({"orders": ["A1", "B2"], "paid": True, "address": {"zip": "0150"}})
    seen = _read(
        {"role": "user", "content": "My orders?"},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": result},
    )
    assert [t.role for t in seen.conversation.turns] == ["user", "call", "tool"]
    leaves = [(m.key, m.surface) for m in seen.mentions if m.kind == "leaf"]
    assert leaves == [("get_user.user_id", "ann_1"), ("orders", "A1"), ("orders", "B2"), ("zip", "0150")]


def test_names_numbers_and_ids_are_found_where_they_stand() -> None:
    seen = _read({"role": "user", "content": "Book two seats for Harry O'Neil of San Jose, order HAT-139."})
    spans = {m.surface for m in seen.mentions if m.kind == "span"}
    assert {"Harry O'Neil", "San Jose", "HAT-139"} <= spans
    assert "2" in {m.surface for m in seen.mentions if m.kind == "number"}


def test_arguments_must_be_valid_under_the_functions_schema() -> None:
    parameters = {
        "type": "object",
        "properties": {"n": {"type": "integer", "maximum": 3}, "to": {"type": "string", "pattern": "^[A-Z]"}},
        "required": ["n"],
    }
    tool = {"type": "function", "function": {"name": "go", "parameters": parameters}}
    [function] = functions_of(ChatRequest(body={"messages": [], "tools": [tool, {"type": "web_search"}]}))
    assert function.signature == "go(n,to)"
    assert invalid(function, {"n": 2, "to": "Oslo"}) == ""
    assert "4 is greater than the maximum of 3" in invalid(function, {"n": 4})
    assert "'n' is a required property" in invalid(function, {"to": "Oslo"})
    broken = {"type": "function", "function": {"name": "go", "parameters": {"type": 7, "properties": {}}}}
    [function] = functions_of(ChatRequest(body={"messages": [], "tools": [broken]}))
    assert "schema of go cannot be used" in invalid(function, {})


def test_a_list_of_objects_is_taken_from_results_and_earlier_calls_cut_to_its_fields() -> None:
    legs = {"type": "array", "items": {"type": "object", "properties": {"no": {}, "day": {}}}}
    tool = {
        "type": "function",
        "function": {"name": "move", "parameters": {"type": "object", "properties": {"legs": legs}}},
    }
    [function] = functions_of(ChatRequest(body={"messages": [], "tools": [tool]}))
    result = json.dumps({"trip": {"legs": [{"no": "A1", "day": "Mon", "price": 9}]}})
    earlier = {"function": {"name": "move", "arguments": json.dumps({"legs": [{"no": "B2", "day": "Tue"}]})}}
    seen = _read(
        {"role": "tool", "content": result}, {"role": "assistant", "content": None, "tool_calls": [earlier]}
    )
    lore = Lore({}, Readings(), Cues())
    found = values_of(function.args[0], Manner(COMPOUND), seen, lore, None)
    assert [v.value for v in found] == [[{"no": "A1", "day": "Mon"}], [{"no": "B2", "day": "Tue"}]]
