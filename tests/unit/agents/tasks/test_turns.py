"""Kinds of turn inside one prompt."""

from __future__ import annotations

import json
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from shoal.agents.tasks import corrections
from shoal.agents.tasks.finder import Found, find_tasks
from shoal.agents.tasks.matcher import Matcher
from shoal.agents.tasks.turns import REST, Turn, kind_of, kinds_of_turn, marks_of
from shoal.agents.traces.chat import ChatRequest
from shoal.agents.traces.trace import Trace, TraceId

TOOLS = [
    {"type": "function", "function": {"name": name}} for name in ("find_order", "refund", "look_up_policy")
]


def called(name: str, **arguments: str) -> dict[str, Any]:
    function = {"name": name, "arguments": json.dumps(arguments)}
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "c1", "type": "function", "function": function}],
    }


def said(role: str, text: str) -> dict[str, Any]:
    return {"role": role, "content": text}


def request(*messages: dict[str, Any]) -> ChatRequest:
    return ChatRequest(body={"messages": list(messages), "tools": TOOLS})


def result(text: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": "c1", "content": text}


def agent_log(conversations: int, seed: int = 0) -> list[Trace]:
    """An agent that greets, looks the named order up, and then does one of several things."""
    random = Random(seed)
    traces: list[Trace] = []
    for n in range(conversations):
        order = f"AB{random.randrange(1000, 9999)}"
        history = [
            said("system", "You are the agent of a shop."),
            said("user", random.choice(["Hi", "Hello there", "I need help"])),
        ]
        then = random.choice(
            [
                called("refund", order=order),
                called("look_up_policy"),
                said("assistant", f"It comes on day {n}, says {order}."),
            ]
        )
        for answer, following in (
            (said("assistant", "Hello. Which order is it about?"), said("user", f"It is {order}")),
            (called("find_order", order=order), result(json.dumps({"order": order, "status": "sent"}))),
            (then, None),
        ):
            traces.append(
                Trace(
                    id=TraceId(f"s{seed}-{n}-{len(history)}"),
                    request={
                        "model": "big",
                        "messages": list(history),
                        "tools": TOOLS,
                        "metadata": {"conversation_id": f"s{seed}-{n}"},
                    },
                    response={"choices": [{"message": answer}]},
                    timestamp=float(n),
                )
            )
            if following is not None:
                history += [answer, following]
    return traces


@pytest.fixture(scope="module")
def log_and_found() -> tuple[list[Trace], Found]:
    traces = agent_log(250)
    return traces, find_tasks(traces, known=(), seed=0, now=1.0)


def test_marks_tell_the_stage() -> None:
    opening = marks_of(request(said("system", "x"), said("user", "Hi")))
    assert {"after the user", "nothing called", "no name given", "says hi", "says little"} <= opening
    assert "history" not in opening
    later = marks_of(
        request(
            said("user", "Order AB1234, mail a.b12@example.com"),
            called("find_order", order="AB1234"),
            result("Error: none"),
        )
    )
    assert {
        "after find_order",
        "called find_order",
        "each name given is used",
        "an error",
        "a short result",
        "history",
    } <= later


def test_marks_are_the_same_before_and_after_scrubbing() -> None:
    live = request(said("user", "I am a.b12@example.com, order AB1234"))
    logged = request(said("user", "I am <EMAIL_1>, order AB1234"))
    assert marks_of(live) == marks_of(logged)


def test_stages_after_which_one_thing_follows_are_tasks(log_and_found: tuple[list[Trace], Found]) -> None:
    _, found = log_and_found
    assert sorted((t.calls, str(t.output_kind)) for t in found.tasks) == [
        (250, "text"),
        (250, "tool_call"),
        (250, "tool_call"),
    ]
    assert {t.name for t in found.tasks} == {"shop-find_order", "shop-other-turns", "shop-reply"}
    rest = next(t for t in found.tasks if t.match["turn"] == [list(REST[0])])
    assert {i.rsplit("-", 1)[1] for i, task in found.assignment.items() if task == rest.id} == {"6"}


def test_a_new_call_is_recognised_by_its_stage(log_and_found: tuple[list[Trace], Found]) -> None:
    _, found = log_and_found
    matcher = Matcher([(t.id, t) for t in found.tasks])
    for trace in agent_log(20, seed=1):
        stage = trace.id.rsplit("-", 1)[1]
        like = next(task for i, task in found.assignment.items() if i.endswith(f"-{stage}"))
        match = matcher.match(trace.chat)
        assert (match.task_id, match.how) == (like, "turn")


def test_kinds_stay_when_a_day_is_added(log_and_found: tuple[list[Trace], Found]) -> None:
    traces, first = log_and_found
    second = find_tasks(traces + agent_log(30, seed=2), known=first.tasks, seed=0, now=2.0)
    assert {t.id: t.match["turn"] for t in second.tasks} == {t.id: t.match["turn"] for t in first.tasks}
    assert all(second.assignment[i] == task for i, task in first.assignment.items())


def test_an_excluded_task_that_is_divided_later_stays_excluded_in_all_its_parts() -> None:
    early = [t for t in agent_log(60)]  # too few for kinds of turn
    (whole,) = find_tasks(early, known=(), seed=0, now=1.0).tasks
    known = corrections.exclude([whole], whole.name)
    known += corrections.split(known, whole.name, name="greetings", contains=["hello there"], now=1.0)
    found = find_tasks(agent_log(250), known=known, seed=0, now=2.0)
    greetings = next(t for t in found.tasks if t.name == "greetings")
    kinds = [t for t in found.tasks if t.id != greetings.id]
    assert len(kinds) == 3
    assert all(t.excluded for t in kinds)
    assert whole.id in {t.id for t in kinds}
    traces = {t.id: t for t in agent_log(250)}
    split_off = {i for i, task in found.assignment.items() if task == greetings.id}
    assert split_off == {i for i, t in traces.items() if "Hello there" in t.chat.last_user_text}


def test_no_history_no_kinds_and_answers_that_nothing_foretells_are_one_kind() -> None:
    random = Random(0)
    blank = [Turn(frozenset({"after the user"}), random.choice("ab"), str(n)) for n in range(900)]
    assert kinds_of_turn(blank, known=(), seed=0) == []
    noise = [
        replace(turn, marks=frozenset({"history", random.choice(["p", "q"]), random.choice(["r", "s"])}))
        for turn in blank
    ]
    assert kinds_of_turn(noise, known=(), seed=0) == []


def test_a_known_split_stays_while_it_tells_as_much() -> None:
    turns = [
        Turn(
            frozenset({"history", "p" if n % 2 else "q", "p2" if n % 2 else "q2"}),
            "f" if n % 2 else "text",
            str(n % 50),
        )
        for n in range(900)
    ]
    known = [(("q2", False),), REST]
    assert kinds_of_turn(turns, known=known, seed=0) == known
    useless = [(("nowhere", True),), REST]
    fresh = kinds_of_turn(turns, known=useless, seed=0)
    assert fresh != useless
    assert len({kind_of(fresh, turn.marks) for turn in turns}) == 2
