import tracemalloc
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from shoal.agents.learning.learning_log import LearningLog
from shoal.agents.learning.material import Material
from shoal.agents.learning.splits import fingerprint, split_examples
from shoal.agents.learning.survey import LogSurvey, survey_log
from shoal.agents.registry.records import TaskId
from shoal.agents.traces.chat import ChatRequest
from shoal.agents.traces.memory import MemoryTraceStore
from shoal.agents.traces.trace import Trace, TraceId
from shoal.errors import ConfigError

TASK = TaskId("t1")


def _trace(
    name: str,
    *,
    messages: list[dict[str, Any]] | None = None,
    answer: dict[str, Any] | None = None,
    conversation: str | None = None,
    served_by: str = "",
    finish: str = "stop",
) -> Trace:
    request: dict[str, Any] = {"messages": messages or [{"role": "user", "content": name}]}
    if conversation:
        request["metadata"] = {"conversation_id": conversation}
    message = {"role": "assistant", "content": "ok", **(answer or {})}
    response = {"choices": [{"index": 0, "message": message, "finish_reason": finish}]}
    return Trace(id=TraceId(name), request=request, response=response, timestamp=1.0, served_by=served_by)


def _nobody(request: ChatRequest) -> TaskId | None:
    return None


def may_train(traces: list[Trace], allowed: bool | None) -> list[Trace]:
    return list(LearningLog(MemoryTraceStore(traces), outputs_may_train=allowed))


def _surveyed(traces: Sequence[Trace], *, most: int = 1000, seed: int = 0) -> tuple[LogSurvey, LearningLog]:
    log = LearningLog(MemoryTraceStore(traces))
    assignment: dict[TraceId, TaskId | None] = {t.id: TASK for t in traces}
    return survey_log(log, assignment, _nobody, seed=seed, most=most), log


def _gathered(*traces: Trace) -> dict[TaskId, Material]:
    survey, log = _surveyed(traces)
    found = survey.material(log, TASK)
    assert survey.tasks[TASK].fingerprint == fingerprint([*found.examples, *found.calling])
    return {TASK: found}


def test_imported_logs_may_always_be_learnt_from() -> None:
    traces = [_trace("a"), _trace("b")]
    for allowed in (None, True, False):
        assert may_train(traces, allowed) == traces


def test_captured_traffic_asks_for_the_setting() -> None:
    with pytest.raises(ConfigError, match="1 traces are answers of the generalist") as caught:
        may_train([_trace("a"), _trace("b", served_by="generalist/big")], None)
    assert caught.value.param == "generalist.outputs_may_train"


def test_captured_traffic_that_may_not_be_learnt_from_is_refused() -> None:
    with pytest.raises(ConfigError, match="is false"):
        may_train([_trace("a", served_by="generalist/big")], False)


def test_beside_captured_traffic_imported_logs_stay() -> None:
    imported = _trace("a")
    assert may_train([imported, _trace("b", served_by="generalist/big")], False) == [imported]


def test_answers_that_were_broken_off_are_never_learnt_from() -> None:
    whole = _trace("a", served_by="generalist/big")
    broken = replace(_trace("b", served_by="generalist/big"), tags={"incomplete": "client_closed"})
    assert may_train([whole, broken], True) == [whole]


def test_what_a_specialist_answered_is_never_learnt_from() -> None:
    captured = _trace("b", served_by="generalist/big")
    assert may_train([_trace("a", served_by="specialist/x@1"), captured], True) == [captured]


def test_turns_of_one_conversation_share_a_group() -> None:
    examples = _gathered(_trace("a", conversation="c1"), _trace("b", conversation="c1"), _trace("d"))[
        TASK
    ].examples
    assert examples[0].group == examples[1].group != examples[2].group


def test_turns_without_a_conversation_id_are_grouped_by_their_opening() -> None:
    opening = {"role": "user", "content": "I lost my card"}
    later = [opening, {"role": "assistant", "content": "Which?"}, {"role": "user", "content": "the blue one"}]
    other = {"role": "user", "content": "I lost my keys"}
    examples = _gathered(
        _trace("a", messages=[opening]), _trace("b", messages=later), _trace("c", messages=[other])
    )[TASK].examples
    assert examples[0].group == examples[1].group != examples[2].group


def test_equal_single_calls_are_not_one_conversation() -> None:
    messages = [{"role": "user", "content": "hello"}]
    examples = _gathered(_trace("a", messages=messages), _trace("b", messages=messages))[TASK].examples
    assert examples[0].group != examples[1].group


def test_answers_that_teach_nothing_are_left_out_and_counted() -> None:
    broken = Trace(
        id=TraceId("x"), request={"messages": [{"role": "user", "content": "x"}]}, response={}, timestamp=1.0
    )
    material = _gathered(
        _trace("a"), _trace("b", finish="length"), _trace("c", answer={"content": " "}), broken
    )[TASK]
    assert [e.id for e in material.examples] == ["a"]
    assert material.left_out == {"answer cut off": 1, "empty answer": 1, "no answer": 1}


def test_function_calls_are_kept_apart() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "find", "arguments": "{}"}}
    material = _gathered(_trace("a"), _trace("b", answer={"content": None, "tool_calls": [call]}))[TASK]
    assert [e.id for e in material.examples] == ["a"]
    assert [e.content for e in material.calling] == ['[["find", "{}"]]']


def test_unclustered_traces_belong_to_no_task() -> None:
    log = LearningLog(MemoryTraceStore([_trace("a")]))
    assert survey_log(log, {TraceId("a"): None}, _nobody, seed=0, most=10).tasks == {}


def test_reasoning_is_no_part_of_what_a_specialist_learns_to_say() -> None:
    trace = _trace("a", answer={"content": "yes", "reasoning_content": "Because."})
    assert trace.reasoning == "Because."
    assert [e.content for e in _gathered(trace)[TASK].examples] == ["yes"]


def test_failed_calls_are_neither_trained_on_nor_calibrated_with() -> None:
    won, lost = replace(_trace("a"), tags={"reward": 1.0}), replace(_trace("b"), tags={"reward": 0.0})
    material = _gathered(won, lost)[TASK]
    assert [e.id for e in material.examples] == ["a"]
    assert material.left_out == {"its run failed": 1}


def test_one_call_under_two_ids_counts_once_and_calls_that_merely_say_the_same_count() -> None:
    one = replace(_trace("a"), response={**_trace("a").response, "id": "cmpl-1"})
    copy = replace(one, id=TraceId("b"))
    later = replace(one, id=TraceId("c"), timestamp=2.0)
    other = replace(one, id=TraceId("d"), response={**one.response, "id": "cmpl-2"})
    material = _gathered(one, copy, later, other)[TASK]
    assert [e.id for e in material.examples] == ["a", "c", "d"]
    assert material.left_out == {"recorded twice": 1}


def _conversations(count: int, turns: int) -> list[Trace]:
    """Every third conversation is about b."""
    return [
        _trace(f"c{c}t{t}", conversation=f"c{c}", answer={"content": "b" if c % 3 == 0 else "a"})
        for t in range(turns)
        for c in range(count)
    ]


def test_a_task_with_more_calls_than_training_takes_is_sampled_by_whole_conversations() -> None:
    survey, log = _surveyed(_conversations(600, 5), most=1000)
    material = survey.material(log, TASK)
    sizes = Counter(e.group for e in material.examples)
    assert len(material.examples) == 1000 and set(sizes.values()) == {5}
    assert material.left_out == {"beyond learning.max_calls_per_task": 2000}
    assert sum(e.content == "b" for e in material.examples) == pytest.approx(333, abs=70)
    assert survey.tasks[TASK].volume.calls == 3000
    assert survey.tasks[TASK].fingerprint == fingerprint(material.examples)
    places = [(int(t), int(c)) for c, t in (e.id[1:].split("t") for e in material.examples)]
    assert places == sorted(places)  # as they stand in the log


def test_the_sample_depends_on_the_seed_and_not_on_the_order_of_the_log() -> None:
    traces = _conversations(600, 5)
    one, other, turned = (
        set(_surveyed(log, most=1000, seed=seed)[0].tasks[TASK].ids)
        for log, seed in ((traces, 0), (traces, 1), (traces[::-1], 0))
    )
    assert one == turned != other


def test_a_sample_says_nothing_of_what_calibrates() -> None:
    survey, log = _surveyed(_conversations(600, 5), most=1500)
    kept = {e.group for e in survey.material(log, TASK).examples}
    everything, _ = _surveyed(_conversations(600, 5), most=10_000)
    split = split_examples(everything.material(log, TASK).examples, seed=0)
    calibrating = {e.group for e in split.calibration}
    assert len(kept & calibrating) == pytest.approx(len(calibrating) / 2, abs=20)


def test_one_conversation_that_is_larger_than_the_sample_is_cut() -> None:
    traces = [_trace(f"a{i}", conversation="all") for i in range(50)]
    survey, log = _surveyed(traces, most=20)
    assert len(survey.material(log, TASK).examples) == 20


def test_equal_single_calls_are_sampled_one_by_one() -> None:
    messages = [{"role": "user", "content": "hello"}]
    survey, _ = _surveyed([_trace(f"a{i}", messages=messages) for i in range(50)], most=20)
    other, _ = _surveyed([_trace(f"a{i}", messages=messages) for i in range(50)], most=20, seed=1)
    assert len(survey.tasks[TASK].ids) == 20 and survey.tasks[TASK].ids != other.tasks[TASK].ids


def test_calls_that_were_erased_after_the_survey_are_missing_and_no_fault() -> None:
    traces = [_trace("a"), _trace("b"), _trace("c")]
    survey, _ = _surveyed(traces)
    left = LearningLog(MemoryTraceStore([traces[0], traces[2], _trace("new")]))
    assert [e.id for e in survey.material(left, TASK).examples] == ["a", "c"]


def test_local_only_calls_that_a_specialist_answered_make_their_task_private() -> None:
    secret = replace(_trace("s", served_by="specialist/x@1"), privacy="local-only")
    for extra, private in (([], False), ([secret], True)):
        log = LearningLog(MemoryTraceStore([_trace("a"), *extra]))
        found = survey_log(log, {TraceId("a"): TASK}, lambda request: TASK, seed=0, most=10)
        assert found.tasks[TASK].private is private


class _MadeAsRead(MemoryTraceStore):
    """A log whose calls exist only while they are read."""

    def __init__(self, count: int, chars: int) -> None:
        super().__init__()
        self._count, self._chars = count, chars

    def scan(self, *, since: float = float("-inf")) -> Iterator[Trace]:
        for i in range(self._count):
            yield _trace(f"a{i}", messages=[{"role": "user", "content": str(i) + "x" * self._chars}])


def test_the_memory_of_a_survey_does_not_grow_with_what_calls_say() -> None:
    log = LearningLog(_MadeAsRead(500, chars=20_000))
    assignment: dict[TraceId, TaskId | None] = {TraceId(f"a{i}"): TASK for i in range(500)}
    tracemalloc.start()
    try:
        survey = survey_log(log, assignment, _nobody, seed=0, most=100)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(survey.tasks[TASK].ids) == 100
    assert peak < 2_000_000  # the texts alone have 10 MB


def test_a_log_that_is_read_stops_where_the_run_does() -> None:
    log = LearningLog(MemoryTraceStore([_trace("a")]), stopped=lambda: True)
    with pytest.raises(KeyboardInterrupt):
        list(log)
