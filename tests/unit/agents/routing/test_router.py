"""Who is asked, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from shoal.agents.registry.records import OutputKind, Task, TaskId, VersionState
from shoal.agents.routing.explain import explain
from shoal.agents.routing.router import Decision, Router
from shoal.agents.routing.snapshot import Performer, Route, Snapshot
from shoal.agents.tasks.finder import find_tasks
from shoal.agents.tasks.matcher import Novelty
from shoal.agents.traces.chat import ChatRequest
from shoal.agents.traces.trace import Trace, TraceId
from shoal.errors import InvalidRequest, NotFound

SORT = "You sort complaints of {}'s customers. Answer with the name of the one issue that fits, nothing else."
SHOPS = ("Northwind", "Contoso", "Fabrikam")
HELP = "Call the function that the user of the bus line needs."
TOOL = {"type": "function", "function": {"name": "find_bus", "parameters": {"properties": {"to": {}}}}}
SERVING = Performer(key="t1@2", number=2, state=VersionState.SERVING, threshold=0.8, share=1.0)
CANARY = Performer(key="t1@3", number=3, state=VersionState.CANARY, threshold=0.7, share=0.25)
SHADOW = Performer(key="t1@4", number=4, state=VersionState.SHADOW, threshold=0.9, share=0.0)


def request(
    system: str = SORT.format("Northwind"), user: str = "My lamp is late", **body: Any
) -> ChatRequest:
    messages = [{"role": "system", "content": system}, {"role": "user", "content": user}]
    return ChatRequest(body={"model": "auto", "messages": messages, **body})


def trace(number: int, system: str, answer: str, **body: Any) -> Trace:
    asked = request(system, f"My thing {number} is late and I am not pleased with that", **body)
    response = {"choices": [{"message": {"role": "assistant", "content": answer}}]}
    return Trace(id=TraceId(f"x{number}"), request=asked.body, response=response, timestamp=float(number))


@pytest.fixture(scope="module")
def tasks() -> list[Task]:
    traces = [trace(n, SORT.format(SHOPS[n % 3]), ["late", "broken"][n % 2]) for n in range(90)]
    traces += [trace(n, HELP, "WAIT", tools=[TOOL]) for n in range(100, 140)]
    found = find_tasks(traces, known=(), seed=0, now=0.0).tasks
    assert [task.output_kind for task in found] == [OutputKind.LABEL, OutputKind.LABEL]
    return [replace(found[0], name="sort"), replace(found[1], name="help")]


def router(tasks: Sequence[Task], *performers: Performer, reason: str = "") -> Router:
    routes = [
        Route(
            task_id=task.id,
            name=task.name,
            output_kind=task.output_kind,
            match=task.match,
            performers=performers,
            reason=reason,
        )
        for task in tasks
    ]
    return Router(Snapshot(epoch=4, routes=routes))


def decide(made: Router, asked: ChatRequest) -> Decision:
    return made.decide(asked, generalist_model="big")


def test_the_serving_version_is_asked_and_shadows_go_along(tasks: list[Task]) -> None:
    decision = decide(router(tasks, SERVING, SHADOW), request())
    assert (decision.performer, decision.shadows) == (SERVING, (SHADOW,))
    assert (decision.task_id, decision.task_name, decision.how) == (tasks[0].id, "sort", "fingerprint")
    assert decision.reasons == ("it is a call of sort, recognised by its prompt", "version 2 serves")


def test_an_answer_counts_from_the_threshold_on(tasks: list[Task]) -> None:
    decision = decide(router(tasks, SERVING), request())
    assert not decision.accept(0.799)
    assert decision.accept(0.8)
    nobody = decide(router(tasks), request())
    assert not nobody.accept(1.0)


@pytest.mark.parametrize(
    ("performers", "reason", "said"),
    [
        ((), "", "it has no specialist that answers"),
        ((), "excluded by the owner", "no specialist answers: excluded by the owner"),
        ((SHADOW,), "", "version 4 is in shadow; it answers once it is promoted"),
    ],
)
def test_the_reasons_say_why_nobody_answers(
    tasks: list[Task], performers: tuple[Performer, ...], reason: str, said: str
) -> None:
    decision = decide(router(tasks, *performers, reason=reason), request())
    assert decision.performer is None
    assert decision.shadows == performers
    assert decision.reasons[-1] == said


def test_an_unknown_call_goes_to_the_generalist(tasks: list[Task]) -> None:
    decision = decide(router(tasks, SERVING, SHADOW), request("Write a poem."))
    assert (decision.task_id, decision.performer, decision.shadows) == (None, None, ())
    assert decision.reasons == ("its system prompt fits no known task",)


def test_what_cannot_be_honoured_goes_to_the_generalist(tasks: list[Task]) -> None:
    decision = decide(router(tasks, SERVING, SHADOW), request(n=3))
    assert (decision.task_name, decision.performer, decision.shadows) == ("sort", None, ())
    assert decision.reasons[-1] == "it asks for n = 3 answers; a specialist gives one"


def test_a_new_prompt_of_a_label_task_whose_prompts_recur_goes_to_the_generalist(tasks: list[Task]) -> None:
    decision = decide(router(tasks, SERVING), request(SORT.format("Tailspin")))
    assert (decision.task_name, decision.how, decision.novelty) == ("sort", "template", Novelty.PROMPT)
    assert decision.performer is None
    assert decision.reasons[-1].endswith("sort is a label task whose prompts recur")


def test_a_new_prompt_of_a_text_task_is_left_to_the_specialists_confidence(tasks: list[Task]) -> None:
    text = [replace(tasks[0], output_kind=OutputKind.TEXT)]
    decision = decide(router(text, SERVING), request(SORT.format("Tailspin")))
    assert (decision.performer, decision.novelty) == (SERVING, Novelty.PROMPT)


def test_a_new_tool_goes_to_the_generalist(tasks: list[Task]) -> None:
    made = router(tasks, SERVING)
    assert decide(made, request(HELP, tools=[TOOL])).performer == SERVING
    other = {"type": "function", "function": {"name": "book_bus", "parameters": {}}}
    decision = decide(made, request(HELP, tools=[TOOL, other]))
    assert (decision.performer, decision.novelty) == (None, Novelty.TOOLS)


# --- canaries


def test_a_canary_gets_its_share_of_conversations_and_keeps_them(tasks: list[Task]) -> None:
    made = router(tasks, SERVING, CANARY)
    first = {}
    for n in range(800):
        asked = request(user=f"My lamp {n} is late", metadata={"conversation_id": f"c{n}"})
        first[n] = decide(made, asked).performer
    share = sum(performer == CANARY for performer in first.values()) / len(first)
    assert 0.2 < share < 0.3
    again = [
        decide(made, request(user="Another turn", metadata={"conversation_id": f"c{n}"})).performer
        for n in first
    ]
    assert again == list(first.values())


def test_without_a_conversation_the_same_request_goes_the_same_way(tasks: list[Task]) -> None:
    made = router(tasks, SERVING, CANARY)
    ways = {
        n: {decide(made, request(user=f"My lamp {n} is late")).performer for _ in range(3)} for n in range(40)
    }
    assert all(len(way) == 1 for way in ways.values())
    assert len({performer for way in ways.values() for performer in way}) == 2


def test_a_canary_alone_leaves_the_rest_to_the_generalist(tasks: list[Task]) -> None:
    made = router(tasks, replace(CANARY, share=0.0))
    decision = decide(made, request())
    assert decision.performer is None
    assert decision.reasons[-1] == "version 3 is a canary and this conversation is not in its 0%"


# --- names of models


def test_the_generalists_own_name_is_decided_like_auto(tasks: list[Task]) -> None:
    made = router(tasks, SERVING)
    assert decide(made, request(model="big")).performer == SERVING
    assert decide(made, request(model="auto")).performer == SERVING
    assert decide(made, request(model="generalist")).performer is None
    assert decide(made, request(model="generalist")).task_name == "sort"


def test_any_other_name_does_not_exist(tasks: list[Task]) -> None:
    made = router(tasks, SERVING)
    for name in ("gpt-unknown", "agent/report", "specialist/nobody", "specialist/sort@9"):
        with pytest.raises(NotFound) as caught:
            decide(made, request(model=name))
        assert caught.value.param == "model"
    with pytest.raises(NotFound, match="'big' does not exist"):
        made.decide(request(model="big"), generalist_model=None)


def test_a_logged_request_is_decided_whatever_model_it_names(tasks: list[Task]) -> None:
    made = router(tasks, SERVING)
    for name in ("gpt-unknown", "generalist", "specialist/nobody"):
        assert made.decide_logged(request(model=name)).performer == SERVING
        assert made.decide(request(model=name), generalist_model=None, any_model=True).performer == SERVING


def test_a_named_specialist_answers_whatever_its_confidence(tasks: list[Task]) -> None:
    made = router(tasks, SERVING, CANARY, SHADOW)
    decision = decide(made, request(model="specialist/sort"))
    assert (decision.performer, decision.how) == (SERVING, "named")
    assert decision.accept(0.0)
    assert decide(made, request(model="specialist/sort@4")).performer == SHADOW
    assert decide(made, request(model=f"specialist/{tasks[0].id}@3")).performer == CANARY


def test_a_named_specialist_refuses_what_it_cannot_honour(tasks: list[Task]) -> None:
    with pytest.raises(InvalidRequest, match="sort cannot honour the request: it asks for n = 2"):
        decide(router(tasks, SERVING), request(model="specialist/sort", n=2))


def test_a_named_specialist_of_a_task_that_nobody_answers_is_not_found(tasks: list[Task]) -> None:
    with pytest.raises(NotFound, match="excluded by the owner"):
        decide(router(tasks, reason="excluded by the owner"), request(model="specialist/sort"))


# --- snapshots and explanations


def test_a_router_over_a_snapshot_that_crossed_processes_decides_the_same(tasks: list[Task]) -> None:
    import msgpack

    made = router(tasks, SERVING, SHADOW)
    crossed = Router(Snapshot.from_dict(msgpack.unpackb(msgpack.packb(made.snapshot.to_dict()))))
    for asked in (request(), request("Write a poem."), request(n=2), request(SORT.format("Tailspin"))):
        assert decide(crossed, asked) == decide(made, asked)


def test_an_empty_snapshot_sends_everything_to_the_generalist() -> None:
    decision = Router(Snapshot()).decide(request(), generalist_model=None)
    assert (decision.task_id, decision.performer) == (None, None)


def test_an_explanation_has_the_decision_and_what_it_rests_on(tasks: list[Task]) -> None:
    told = explain(request(model="whatever", n=2), router(tasks, SERVING).snapshot)
    assert told["task"] == "sort"
    assert told["performer"] is None
    assert told["unmet"] == "it asks for n = 2 answers; a specialist gives one"
    assert told["reasons"][-1] == told["unmet"]
    assert told["input"] == {"structure": "text", "keys": [], "language": "en"}
    asked = explain(request(), router(tasks, SERVING).snapshot)
    assert asked["performer"] == {
        "specialist": "sort@2",
        "state": "serving",
        "answers_from_confidence": 0.8,
        "share": 1.0,
    }
    assert TaskId(asked["task_id"]) == tasks[0].id
