"""What a specialist cannot honour."""

from __future__ import annotations

from typing import Any

import pytest

from shoal.agents.registry.records import OutputKind, TaskId
from shoal.agents.routing.capability import unmet
from shoal.agents.routing.snapshot import Route
from shoal.agents.traces.chat import ChatRequest


def route(kind: OutputKind = OutputKind.LABEL, **asks: Any) -> Route:
    learnt = {"tools": False, "formats": [""], "answer_chars": 30, "last_roles": ["user"], "settings": {}}
    return Route(
        task_id=TaskId("t1"), name="sort", output_kind=kind, match={"v": 1, "asks": {**learnt, **asks}}
    )


def request(content: Any = "My lamp is late", role: str = "user", **settings: Any) -> ChatRequest:
    return ChatRequest(body={"model": "auto", "messages": [{"role": role, "content": content}], **settings})


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"n": 1, "temperature": 0.7, "top_p": 0.5, "seed": 3, "stream": True, "user": "ann"},
        {"max_tokens": 10, "logprobs": False, "stop": None, "logit_bias": {}},
        {
            "presence_penalty": 0,
            "frequency_penalty": 0.0,
            "tool_choice": "auto",
            "response_format": {"type": "text"},
        },
        {"metadata": {"conversation_id": "c"}, "store": True, "service_tier": "auto"},
    ],
)
def test_what_changes_nothing_is_honoured(settings: dict[str, Any]) -> None:
    assert unmet(request(**settings), route()) is None


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"n": 2}, "n = 2"),
        ({"logprobs": True}, "logprobs"),
        ({"top_logprobs": 3}, "logprobs"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format json_object"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}}, "json_schema"),
        ({"temperature": 1.2}, "temperature 1.2"),
        ({"max_tokens": 2}, "2 tokens"),
        ({"max_completion_tokens": 3}, "3 tokens"),
        ({"stop": ["\n"]}, "stop"),
        ({"logit_bias": {"50256": -100}}, "logit_bias"),
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"guided_regex": "a+"}, "guided_regex"),
    ],
)
def test_what_a_specialist_cannot_do_is_named(settings: dict[str, Any], said: str) -> None:
    reason = unmet(request(**settings), route())
    assert reason is not None
    assert said in reason


def test_what_the_logs_calls_asked_for_too_is_honoured() -> None:
    tools = [{"type": "function", "function": {"name": "f"}}]
    learnt = route(
        tools=True,
        formats=["json_object"],
        max_tokens=2,
        temperature=1.5,
        settings={"stop": ['["\\n"]'], "tool_choice": ['"required"']},
    )
    asked = request(
        tools=tools,
        response_format={"type": "json_object"},
        max_tokens=2,
        temperature=1.5,
        stop=["\n"],
        tool_choice="required",
    )
    assert unmet(asked, learnt) is None


def test_a_temperature_matters_sooner_for_free_text() -> None:
    cold = {"temperature": 0.2}
    assert unmet(request(temperature=0.9), route(OutputKind.LABEL, **cold)) is None
    assert "above 0.2" in (unmet(request(temperature=0.9), route(OutputKind.TEXT, **cold)) or "")
    assert unmet(request(temperature=0.2), route(OutputKind.TEXT, **cold)) is None
    assert unmet(request(temperature=0.9), route(OutputKind.TEXT)) is None


def test_images_are_not_read() -> None:
    parts = [
        {"type": "text", "text": "What is it?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,"}},
    ]
    assert unmet(request(parts), route()) == "it has a part of type image_url; a specialist reads text only"
    assert unmet(request(parts[:1]), route()) is None


def test_an_answer_that_the_client_began_is_not_continued() -> None:
    assert "to be continued" in (unmet(request("Sure, ", role="assistant"), route()) or "")
    assert unmet(request("Sure, ", role="assistant"), route(last_roles=["assistant"])) is None


@pytest.mark.parametrize(
    ("asked", "learnt", "honoured"),
    [
        (None, "auto", True),
        ("auto", "auto", True),
        ("required", "auto", False),
        ("none", "auto", False),
        ("required", "required", True),
        (None, "required", False),
        ({"type": "function", "function": {"name": "f"}}, "auto", False),
    ],
)
def test_tools_are_to_be_chosen_as_in_the_log(asked: Any, learnt: str, honoured: bool) -> None:
    tool = {"type": "function", "function": {"name": "f"}}
    settings = {} if asked is None else {"tool_choice": asked}
    learnt_settings = {} if learnt == "auto" else {"tool_choice": [f'"{learnt}"']}
    known = route(OutputKind.TOOL_CALL, tools=True, tool_choices=[f'"{learnt}"'], settings=learnt_settings)
    said = unmet(request(tools=[tool], parallel_tool_calls=False, **settings), known)
    assert (said is None) is honoured
    assert honoured or "tool_choice" in str(said)
