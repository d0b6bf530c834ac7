from typing import Any

import pytest

from shoal.agents.curation.outcome import BREAKS_SCHEMA, BREAKS_TOOL, RUN_FAILED, failed_outcome
from shoal.agents.traces.chat import Answer, ChatRequest

TOOL = {
    "type": "function",
    "function": {
        "name": "book",
        "parameters": {
            "type": "object",
            "properties": {"seats": {"type": "integer"}},
            "required": ["seats"],
        },
    },
}


def _reason(
    content: str | None = "ok", *, call: tuple[str, str] | None = None, tags: Any = None, **request: Any
) -> str:
    calls = [] if call is None else [{"function": {"name": call[0], "arguments": call[1]}}]
    asked = ChatRequest(body={"messages": [{"role": "user", "content": "hi"}], **request})
    return failed_outcome(asked, Answer(content=content, model="m", tool_calls=calls), tags or {})


@pytest.mark.parametrize("reward", [0, 0.0, -1, False])
def test_a_run_without_reward_failed(reward: Any) -> None:
    assert _reason(tags={"reward": reward}) == RUN_FAILED


@pytest.mark.parametrize("tags", [{}, {"reward": 1.0}, {"reward": "unknown"}, {"reward": None}])
def test_any_other_run_did_not(tags: dict[str, Any]) -> None:
    assert _reason(tags=tags) == ""


def _format(schema: Any) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}}


def test_an_answer_must_keep_to_the_schema_that_was_asked_for() -> None:
    wanted = _format({"type": "object", "required": ["a"]})
    assert _reason('{"a": 1}', **wanted) == ""
    assert _reason('{"b": 1}', **wanted) == BREAKS_SCHEMA
    assert _reason("a: 1", **wanted) == BREAKS_SCHEMA
    assert _reason("a: 1", response_format={"type": "json_object"}) == BREAKS_SCHEMA
    assert _reason("a: 1", response_format={"type": "text"}) == ""


@pytest.mark.parametrize("schema", [{"type": "no such type"}, {"$ref": "https://example.com/s.json"}, None])
def test_a_schema_that_cannot_judge_condemns_nothing(schema: Any) -> None:
    assert _reason('{"b": 1}', **_format(schema)) == ""


def test_a_call_must_keep_to_its_tool() -> None:
    assert _reason(None, call=("book", '{"seats": 2}'), tools=[TOOL]) == ""
    for broken in (("book", '{"seats": "two"}'), ("book", "{"), ("book", ""), ("fly", "{}"), ("book", "[]")):
        assert _reason(None, call=broken, tools=[TOOL]) == BREAKS_TOOL
    assert _reason(None, call=("fly", "{}")) == "", "a log without tools cannot tell"
