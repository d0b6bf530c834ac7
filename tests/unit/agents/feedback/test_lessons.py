from __future__ import annotations

from dataclasses import replace
from typing import Any

from shoal.agents.feedback.lessons import OWNER, contradicts, lessons_of
from shoal.agents.learning.learning_log import LearningLog
from shoal.agents.traces.memory import MemoryTraceStore
from shoal.agents.traces.trace import Trace, TraceId


def trace(name: str, text: str, answer: str, *, served_by: str = "", **tags: Any) -> Trace:
    message = {"role": "assistant", "content": answer}
    return Trace(
        id=TraceId(name),
        request={"model": "auto", "messages": [{"role": "user", "content": text}]},
        response={"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]},
        timestamp=1.0,
        served_by=served_by,
        tags=tags,
    )


def said(
    trace_id: str, *, score: float | None = None, right: str | None = None, at: float = 1.0
) -> dict[str, Any]:
    correction = None if right is None else {"role": "assistant", "content": right}
    return {"trace_id": trace_id, "score": score, "correction": correction, "comment": "", "at": at}


def answers(traces: list[Trace]) -> dict[str, str | None]:
    return {t.id: t.answer.content for t in traces}


def with_lessons(traces: list[Trace], feedback: list[dict[str, Any]]) -> list[Trace]:
    lessons = lessons_of(feedback, pick=MemoryTraceStore(traces).pick)
    return [taught for trace in traces if (taught := lessons.taught(trace)) is not None]


def may_train(traces: list[Trace], allowed: bool | None) -> list[Trace]:
    return list(LearningLog(MemoryTraceStore(traces), outputs_may_train=allowed))


def test_without_feedback_the_traces_are_the_same() -> None:
    given = [trace("a", "hello", "greeting"), trace("b", "bye", "farewell")]
    assert with_lessons(given, []) == given


def test_a_correction_takes_the_answers_place_and_counts_as_the_owners_word() -> None:
    [learnt] = with_lessons(
        [trace("a", "refund", "billing", served_by="specialist/sort@1")], [said("a", right="returns")]
    )
    assert learnt.answer.content == "returns"
    assert learnt.served_by == OWNER
    assert may_train([learnt], None) == [learnt]


def test_an_answer_that_its_owner_confirms_may_train_although_a_specialist_gave_it() -> None:
    given = trace("a", "refund", "billing", served_by="specialist/sort@1")
    assert with_lessons([given], [said("a", right=" billing ")]) == [replace(given, served_by=OWNER)]


def test_other_calls_that_asked_the_same_give_way_to_the_newest_correction() -> None:
    given = [
        trace("a", "refund", "billing"),
        trace("b", "refund", "billing", served_by="generalist/big"),
        trace("c", "refund", "returns"),
        trace("d", "invoice", "billing"),
    ]
    feedback = [said("a", right="shipping", at=1.0), said("c", right="returns", at=2.0)]
    learnt = with_lessons(given, feedback)
    assert answers(learnt) == {"a": "returns", "b": "returns", "c": "returns", "d": "billing"}
    assert [t.served_by for t in learnt] == [OWNER, "generalist/big", OWNER, ""]


def test_of_two_corrections_of_one_answer_the_later_counts() -> None:
    learnt = with_lessons(
        [trace("a", "refund", "billing")], [said("a", right="x", at=1.0), said("a", right="y", at=1.0)]
    )
    assert answers(learnt) == {"a": "y"}


def test_an_answer_that_was_only_called_bad_is_left_out_until_it_is_called_good() -> None:
    given = [trace("a", "refund", "billing"), trace("b", "invoice", "billing")]
    assert answers(with_lessons(given, [said("a", score=-1)])) == {"b": "billing"}
    assert with_lessons(given, [said("a", score=-1), said("a", score=1)]) == given
    assert answers(with_lessons(given, [said("a", score=-1, right="returns")])) == {
        "a": "returns",
        "b": "billing",
    }


def test_personal_data_in_a_correction_is_replaced_as_in_any_trace() -> None:
    [learnt] = with_lessons([trace("a", "who?", "nobody")], [said("a", right="ask anna@example.com")])
    assert learnt.answer.content == "ask <EMAIL_1>"


def test_a_corrected_answer_that_had_been_broken_off_is_whole() -> None:
    [learnt] = with_lessons(
        [trace("a", "refund", "retu", incomplete="client_closed")], [said("a", right="returns")]
    )
    assert may_train([learnt], True) == [learnt]


def test_what_a_plan_answered_is_not_changed() -> None:
    given = [trace("a", "report", "text", served_by="agent/report")]
    assert with_lessons(given, [said("a", right="other")]) == given


def test_a_log_that_is_learnt_from_has_the_corrections_also_where_calls_are_picked() -> None:
    given = [trace("a", "refund", "billing"), trace("b", "refund", "billing"), trace("c", "hello", "bad")]
    store = MemoryTraceStore(given)
    lessons = lessons_of([said("a", right="returns"), said("c", score=-1)], pick=store.pick)
    log = LearningLog(store, lessons=lessons)
    assert answers(list(log)) == {"a": "returns", "b": "returns"}
    assert answers(list(log.pick({"b", "c"}))) == {"b": "returns"}
    assert (log.traces, log.usable) == (3, 2)


def test_feedback_contradicts_where_it_says_something_else_or_that_it_was_bad() -> None:
    given = trace("a", "x", '{"b": 1, "a": 2}')
    assert contradicts(given, said("a", right='{"a": 2, "b": 2}'))
    assert not contradicts(given, said("a", right='{"a":2,"b":1}'))
    assert contradicts(given, said("a", score=-0.5))
    assert not contradicts(given, said("a", score=0.5))
