"""Recognising a request's task from the request alone."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import pytest

from shoal.agents.registry.records import Task
from shoal.agents.tasks.finder import find_tasks
from shoal.agents.tasks.matcher import Matcher, Novelty
from shoal.agents.traces.chat import ChatRequest
from shoal.agents.traces.trace import Trace

SORT = "You sort complaints of a shop's customers. Answer with the name of the one issue that fits, nothing else."
WRITE = "Write one sentence about the sales figures in this record."
WATCH = "You watch a conversation with {}. Name what the user now wants done: {}."
SERVICES = {
    "the biggest bus line in town": "FindBus, BuyTicket",
    "a dentist next door": "BookVisit, FindDentist",
    "the city's cinemas": "FindMovies, BuyTicket",
    "a place to rent cars": "FindCar, BookCar",
    "the weather service": "TellWeather",
    "a bank for students": "CheckBalance, SendMoney",
    "a music box": "FindSong, PlaySong",
}


def tool(name: str, *parameters: str) -> dict[str, Any]:
    properties = {parameter: {"type": "string"} for parameter in parameters}
    return {
        "type": "function",
        "function": {"name": name, "parameters": {"type": "object", "properties": properties}},
    }


def learnt(traces: Sequence[Trace]) -> tuple[list[Task], Matcher]:
    tasks = find_tasks(traces, known=(), seed=0, now=0.0).tasks
    return tasks, Matcher([(task.id, task) for task in tasks])


def request(system: str, user: str, **settings: Any) -> ChatRequest:
    messages = [{"role": "system", "content": system}, {"role": "user", "content": user}]
    return ChatRequest(body={"messages": messages, **settings})


@pytest.fixture
def sorting(log: Any) -> tuple[Task, Matcher]:
    tasks, matcher = learnt([log.trace(SORT, *log.complaint()) for _ in range(60)])
    return tasks[0], matcher


def test_a_known_prompt_is_recognised_whatever_the_model(sorting: tuple[Task, Matcher]) -> None:
    task, matcher = sorting
    match = matcher.match(request(SORT, "My sofa has not arrived", model="anything"))
    assert (match.task_id, match.how, match.novelty, match.reason) == (task.id, "fingerprint", None, "")


def test_an_unknown_prompt_belongs_to_no_task(sorting: tuple[Task, Matcher]) -> None:
    match = sorting[1].match(request("Write a poem.", "My sofa has not arrived"))
    assert (match.task_id, match.how, match.novelty) == (None, "none", Novelty.SYSTEM_PROMPT)
    assert match.reason == "its system prompt fits no known task"


def test_a_request_without_a_prompt_belongs_to_no_task(sorting: tuple[Task, Matcher]) -> None:
    match = sorting[1].match(ChatRequest(body={"messages": [{"role": "user", "content": "Hello"}]}))
    assert match.reason == "it has no system prompt, and so fits no known task"


def test_offered_tools_make_it_another_call(sorting: tuple[Task, Matcher]) -> None:
    task, matcher = sorting
    match = matcher.match(request(SORT, "My sofa has not arrived", tools=[tool("refund")]))
    assert (match.task_id, match.novelty) == (None, Novelty.TOOLS)
    assert match.reason == f"it has the prompt of {task.name} but offers tools"


def test_another_response_format_makes_it_another_call(sorting: tuple[Task, Matcher]) -> None:
    match = sorting[1].match(
        request(SORT, "My sofa has not arrived", response_format={"type": "json_object"})
    )
    assert (match.task_id, match.novelty) == (None, Novelty.FORMAT)


def test_another_language_belongs_to_no_task(sorting: tuple[Task, Matcher]) -> None:
    match = sorting[1].match(request(SORT, "Meine Lampe ist nicht angekommen, was kann ich tun?"))
    assert (match.task_id, match.novelty) == (None, Novelty.LANGUAGE)
    assert "(de)" in match.reason


def test_another_layout_of_the_input_belongs_to_no_task(sorting: tuple[Task, Matcher]) -> None:
    match = sorting[1].match(request(SORT, '{"item": "sofa", "problem": "late"}'))
    assert (match.task_id, match.novelty) == (None, Novelty.INPUT)
    assert match.reason.startswith("its input (json) is laid out as in no call of ")


def test_a_record_with_other_keys_belongs_to_no_task(log: Any) -> None:
    tasks, matcher = learnt([log.trace(WRITE, *log.record()) for _ in range(60)])
    assert (
        matcher.match(request(WRITE, '{"region": "Mars", "growth": 900, "driver": "dust"}')).task_id
        == tasks[0].id
    )
    match = matcher.match(request(WRITE, '{"invoice": 7, "payee": "Ann"}'))
    assert (match.task_id, match.novelty) == (None, Novelty.INPUT)
    assert match.reason == (
        f"its input is a record with keys that no call of {tasks[0].name} had (invoice, payee)"
    )


@pytest.fixture
def watching(log: Any) -> tuple[list[Task], Matcher]:
    traces = []
    for service, labels in SERVICES.items():
        for n in range(30):
            label = labels.split(", ")[n % len(labels.split(", "))]
            traces.append(log.trace(WATCH.format(service, labels), f"I would like {service} {n}", label))
    return learnt(traces)


def test_a_new_prompt_of_a_template_is_matched_and_flagged(watching: tuple[list[Task], Matcher]) -> None:
    tasks, matcher = watching
    assert [task.calls for task in tasks] == [210]
    match = matcher.match(request(WATCH.format("a hotel", "FindRoom, BookRoom"), "I would like a room"))
    assert (match.task_id, match.how, match.novelty) == (tasks[0].id, "template", Novelty.PROMPT)
    known = matcher.match(request(WATCH.format("a music box", "FindSong, PlaySong"), "I would like a song"))
    assert (known.how, known.novelty) == ("fingerprint", None)


def test_a_tool_that_no_call_offered_is_flagged_also_under_a_known_name(log: Any) -> None:
    prompt = "Call the function that the user needs, or say WAIT."
    tools = [tool("find_bus", "to"), tool("book_bus", "to", "day")]
    tasks, matcher = learnt([log.trace(prompt, f"I go to town {n}", "WAIT", tools=tools) for n in range(60)])
    assert matcher.match(request(prompt, "I go home", tools=tools[:1])).novelty is None
    match = matcher.match(request(prompt, "I go home", tools=[tool("find_bus", "to", "from")]))
    assert (match.task_id, match.novelty) == (tasks[0].id, Novelty.TOOLS)
    assert match.reason == f"no call of {tasks[0].name} offered the tool find_bus(from, to)"


def test_a_task_without_match_data_matches_nothing(log: Any, sorting: tuple[Task, Matcher]) -> None:
    from dataclasses import replace

    bare = replace(sorting[0], match={})
    retired = replace(sorting[0], match={**sorting[0].match, "retired": True})
    for task in (bare, retired):
        assert Matcher([(task.id, task)]).match(request(SORT, "My sofa is late")).task_id is None


def test_a_prompt_in_parts_and_a_developer_message_are_read_like_a_system_prompt(
    sorting: tuple[Task, Matcher],
) -> None:
    messages = [
        {"role": "developer", "content": [{"type": "text", "text": SORT}]},
        {"role": "user", "content": [{"type": "text", "text": "My sofa has not arrived"}]},
    ]
    assert sorting[1].match(ChatRequest(body={"messages": messages})).task_id == sorting[0].id


def test_a_scrubbed_trace_and_the_live_request_have_the_same_prompt(log: Any) -> None:
    from shoal.agents.curation.scrub import scrub

    prompt = f"{SORT} Doubts go to help@northwind.example or +49 30 901820, for {{}}."
    traces = [
        scrub(log.trace(prompt.format(f"u{n % 9}@northwind.example"), *log.complaint()))[0] for n in range(60)
    ]
    assert "help@" not in str(traces[0].request)
    tasks, matcher = learnt(traces)
    assert len(tasks) == 1
    match = matcher.match(request(prompt.format("new@northwind.example"), "My sofa has not arrived"))
    assert (match.task_id, match.how) == (tasks[0].id, "fingerprint")


def test_the_layout_or_the_words_decide_between_tasks_of_one_prompt(log: Any) -> None:
    prompt = "You are a helpful assistant."
    traces = [log.trace(prompt, *make()) for make in (log.record, log.complaint, log.film) for _ in range(80)]
    tasks, matcher = learnt(traces)
    assert len(tasks) == 3
    hows = {matcher.match(request(prompt, make()[0])).how for make in (log.record, log.complaint, log.film)}
    assert hows == {"layout", "text"}


def test_a_known_prompt_among_hundreds_of_tasks_is_matched_in_well_under_a_millisecond(
    sorting: tuple[Task, Matcher],
) -> None:
    from dataclasses import replace

    from shoal.agents.registry.records import TaskId
    from shoal.agents.tasks.template import Template

    task, _ = sorting
    others = [
        replace(
            task,
            id=TaskId(f"t{n}"),
            match={
                **task.match,
                "fingerprints": [f"f{n}"],
                "templates": [Template.exact(["You", "do", f"job{n}"]).to_dict()],
            },
        )
        for n in range(400)
    ]
    matcher = Matcher([(t.id, t) for t in [*others, task]])
    asked = request(SORT, "My sofa has not arrived and I am not pleased with that")
    matcher.match(asked)
    took = []
    for _ in range(300):
        start = time.perf_counter()
        matcher.match(asked)
        took.append(time.perf_counter() - start)
    assert sorted(took)[len(took) // 2] < 0.3e-3
