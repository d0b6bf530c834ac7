from __future__ import annotations

from dataclasses import replace

import pytest

from shoal.agents.feedback.schedule import (
    NO_TASK,
    ContractBroken,
    DriftSeen,
    ErasedSeen,
    Event,
    FeedbackSeen,
    LearningAsked,
    LearningEnded,
    LearningPolicy,
    LearningStarted,
    Schedule,
    StartLearning,
    TasksRead,
    Ticked,
    TracesSeen,
)
from shoal.agents.registry.records import OutputKind, Task, TaskId, Version, VersionState

SORT, WRITE = TaskId("t1"), TaskId("t2")
TASKS = [
    Task(id=SORT, name="sort", output_kind=OutputKind.LABEL, calls=1),
    Task(id=WRITE, name="write", output_kind=OutputKind.TEXT, calls=1),
]
NEVER = LearningPolicy(min_corrections=0)


def version(created_at: float, task_id: TaskId = SORT) -> Version:
    return Version(
        task_id=task_id,
        number=1,
        kind="classifier",
        state=VersionState.SERVING,
        folder="f",
        sha256="0" * 64,
        threshold=0.5,
        alpha=0.05,
        delta=0.05,
        created_at=created_at,
    )


def made(policy: LearningPolicy, *versions: Version) -> Schedule:
    schedule = Schedule(policy)
    schedule.handle(TasksRead(tasks=TASKS, versions=versions))
    return schedule


def feed(schedule: Schedule, *events: Event) -> list[StartLearning]:
    return [command for event in events for command in schedule.handle(event)]


def contradicted(count: int, *, at: float, task_id: TaskId = SORT, first: int = 0) -> list[FeedbackSeen]:
    return [
        FeedbackSeen(trace_id=f"{task_id}-{n}", task_id=task_id, contradicts=True, at=at)
        for n in range(first, first + count)
    ]


def ended(
    *tasks: str, state: str = "done", started_at: float = 50.0, ended_at: float = 60.0
) -> LearningEnded:
    return LearningEnded(tasks=tasks, state=state, started_at=started_at, ended_at=ended_at)  # type: ignore[arg-type]


def test_enough_contradicted_answers_begin_a_run_of_their_task_with_the_reason() -> None:
    schedule = made(LearningPolicy(min_corrections=3))
    assert feed(schedule, *contradicted(2, at=10), Ticked(now=11)) == []
    assert feed(schedule, *contradicted(1, at=12, first=2), Ticked(now=13)) == [
        StartLearning(tasks=(SORT,), reason="3 answers of sort were contradicted")
    ]


def test_one_answer_counts_once_and_no_more_once_somebody_confirms_it() -> None:
    schedule = made(LearningPolicy(min_corrections=2))
    feed(schedule, *contradicted(1, at=10), *contradicted(1, at=11))
    assert schedule.contradictions() == {SORT: 1}
    feed(schedule, FeedbackSeen(trace_id="t1-0", task_id=SORT, contradicts=False, at=12))
    assert schedule.contradictions() == {}


def test_only_what_came_since_the_task_was_last_learnt_counts() -> None:
    schedule = made(LearningPolicy(min_corrections=2), version(created_at=20))
    feed(schedule, *contradicted(5, at=10))
    assert feed(schedule, Ticked(now=30)) == []
    feed(schedule, *contradicted(2, at=25, first=10))
    assert len(feed(schedule, Ticked(now=31))) == 1


def test_what_was_said_while_a_run_was_under_way_counts_for_the_next_one() -> None:
    schedule = made(LearningPolicy(min_corrections=2))
    feed(schedule, LearningStarted(started_at=50), *contradicted(2, at=55))
    schedule.handle(TasksRead(tasks=TASKS, versions=[version(created_at=58)]))
    assert schedule.contradictions() == {SORT: 2}
    feed(schedule, ended(SORT))
    assert [c.tasks for c in feed(schedule, Ticked(now=61))] == [(SORT,)]


def test_a_run_that_changed_nothing_is_not_begun_again_for_the_same_feedback() -> None:
    schedule = made(LearningPolicy(min_corrections=2))
    feed(schedule, *contradicted(2, at=10))
    assert len(feed(schedule, Ticked(now=50))) == 1
    assert feed(schedule, LearningStarted(started_at=50), ended(SORT), Ticked(now=1e9)) == []


def test_a_run_counts_for_its_tasks_by_id_or_by_name_and_one_over_all_for_all() -> None:
    schedule = made(NEVER)
    feed(schedule, ended("sort", started_at=5))
    assert (schedule.learnt_at(SORT), schedule.learnt_at(WRITE)) == (5, 0)
    feed(schedule, ended(started_at=7))
    assert schedule.learnt_at(WRITE) == schedule.learnt_at(NO_TASK) == schedule.learnt_before() == 7


def test_new_calls_of_a_task_begin_a_run_and_calls_of_no_task_begin_one_over_all() -> None:
    schedule = made(LearningPolicy(every_traces=3, min_corrections=0), version(created_at=20))
    feed(schedule, TracesSeen(times={SORT: [1, 2, 3, 21, 22], WRITE: [1.0]}))
    assert schedule.growth() == {SORT: 2, WRITE: 1}
    assert feed(schedule, Ticked(now=30)) == []
    feed(schedule, TracesSeen(times={SORT: [23]}))
    assert feed(schedule, Ticked(now=30)) == [StartLearning(tasks=(SORT,), reason="3 new calls of sort")]
    feed(schedule, ended(SORT), TracesSeen(times={NO_TASK: [61.0] * 3}))
    assert feed(schedule, Ticked(now=70)) == [
        StartLearning(tasks=(), reason="3 new calls of no known task"),
    ]


def test_the_clock_begins_a_run_over_all_tasks() -> None:
    schedule = made(LearningPolicy(every_hours=2, min_corrections=0))
    assert feed(schedule, Ticked(now=0), Ticked(now=7199)) == []
    assert feed(schedule, Ticked(now=7200)) == [StartLearning(tasks=(), reason="every 2 hours")]
    feed(schedule, ended(started_at=7200, ended_at=7300))
    assert feed(schedule, Ticked(now=14_399)) == []
    assert len(feed(schedule, Ticked(now=14_400))) == 1


def test_one_run_at_a_time_and_what_is_asked_for_meanwhile_comes_next() -> None:
    schedule = made(NEVER)
    assert feed(schedule, LearningAsked(tasks=("t1",)), Ticked(now=1)) == [
        StartLearning(tasks=("t1",), reason="asked for")
    ]
    assert feed(schedule, LearningAsked(tasks=("t2",)), LearningAsked(tasks=("t1",)), Ticked(now=2)) == []
    feed(schedule, ended("t1"))
    assert feed(schedule, Ticked(now=61)) == [StartLearning(tasks=("t2", "t1"), reason="asked for")]


@pytest.mark.parametrize(
    "asked",
    [(LearningAsked(), LearningAsked(tasks=("t1",))), (LearningAsked(tasks=("t1",)), LearningAsked())],
)
def test_who_asks_for_all_tasks_gets_all(asked: tuple[LearningAsked, ...]) -> None:
    assert [c.tasks for c in feed(made(NEVER), *asked, Ticked(now=1))] == [()]


def test_a_run_that_failed_is_tried_again_later_and_later_but_at_once_where_it_is_asked_for() -> None:
    schedule = made(LearningPolicy(min_corrections=1))
    feed(schedule, *contradicted(1, at=10), ended(SORT, state="failed", started_at=50, ended_at=60))
    assert feed(schedule, Ticked(now=659)) == []
    assert len(feed(schedule, Ticked(now=660))) == 1
    feed(schedule, ended(SORT, state="failed", started_at=660, ended_at=661))
    assert feed(schedule, Ticked(now=1860)) == []
    assert len(feed(schedule, LearningAsked(), Ticked(now=1860))) == 1


def test_a_run_that_was_stopped_is_not_begun_again_at_once() -> None:
    schedule = made(LearningPolicy(min_corrections=1))
    feed(schedule, *contradicted(1, at=10), ended(SORT, state="stopped"))
    assert feed(schedule, Ticked(now=61)) == []
    assert len(feed(schedule, Ticked(now=700))) == 1


def test_excluded_and_hidden_tasks_are_never_learnt_by_themselves() -> None:
    schedule = Schedule(LearningPolicy(min_corrections=1))
    hidden = replace(TASKS[1], match={"retired": True})
    schedule.handle(TasksRead(tasks=[replace(TASKS[0], excluded=True), hidden], versions=[]))
    feed(schedule, *contradicted(3, at=10), *contradicted(3, at=10, task_id=WRITE))
    assert feed(schedule, Ticked(now=11)) == []


DAY = 86_400.0


def test_a_task_whose_calls_were_erased_is_learnt_again_with_the_reason() -> None:
    live = version(created_at=10.0)
    schedule = made(NEVER, live)
    assert feed(schedule, ErasedSeen(known={live.key: 7}, at=100.0), Ticked(now=100.0)) == [], (
        "a day has not passed"
    )
    [command] = feed(schedule, Ticked(now=10.0 + DAY))
    assert command == StartLearning(tasks=(SORT,), reason="7 calls that sort was trained on were erased")
    feed(schedule, ended(SORT, started_at=10.0 + DAY, ended_at=20.0 + DAY))
    assert feed(schedule, Ticked(now=10.0 + 3 * DAY)) == [], "it was learnt since they were erased"


def test_erased_calls_that_a_newer_version_does_not_know_begin_nothing() -> None:
    old, new = (
        version(created_at=10.0),
        replace(version(created_at=50.0), number=2, state=VersionState.SHADOW),
    )
    refused = replace(new, state=VersionState.REJECTED)
    seen = ErasedSeen(known={old.key: 7}, at=2 * DAY)
    assert feed(made(NEVER, old, new), seen, Ticked(now=2 * DAY)) == []
    assert len(feed(made(NEVER, old, refused), seen, Ticked(now=2 * DAY))) == 1
    assert feed(made(replace(NEVER, after_erasure=False), old), seen, Ticked(now=2 * DAY)) == []


def test_drift_and_a_broken_contract_begin_a_run_of_their_tasks_once() -> None:
    schedule = made(NEVER, version(created_at=20))
    feed(schedule, DriftSeen(task_id=SORT, reason="inputs of sort drifted", at=30))
    feed(
        schedule, ContractBroken(task_id=WRITE, version_key="t2@1", reason="t2@1 was wrong too often", at=31)
    )
    assert feed(schedule, Ticked(now=40)) == [
        StartLearning(tasks=(SORT, WRITE), reason="inputs of sort drifted; t2@1 was wrong too often")
    ]
    assert feed(schedule, ended(SORT, WRITE), Ticked(now=1e9)) == []
    assert schedule.changes() == {}


def test_what_changed_before_the_task_was_last_learnt_begins_nothing() -> None:
    schedule = made(NEVER, version(created_at=20))
    feed(schedule, DriftSeen(task_id=SORT, reason="drifted", at=19))
    assert feed(schedule, Ticked(now=40)) == []


def test_drift_while_a_run_is_under_way_or_after_one_that_failed_is_not_forgotten() -> None:
    schedule = made(NEVER)
    drift = DriftSeen(task_id=SORT, reason="drifted", at=55)
    feed(schedule, LearningStarted(started_at=50), drift, ended(SORT, started_at=50, ended_at=60))
    again = feed(schedule, Ticked(now=61))
    assert [c.tasks for c in again] == [(SORT,)]
    feed(schedule, ended(SORT, state="failed", started_at=61, ended_at=62))
    assert feed(schedule, Ticked(now=62 + 599)) == []
    assert len(feed(schedule, Ticked(now=62 + 600))) == 1


def test_unknown_work_that_recurs_finds_all_tasks_anew() -> None:
    schedule = made(NEVER)
    feed(schedule, DriftSeen(task_id=NO_TASK, reason="40 calls of no known task recur", at=5))
    assert feed(schedule, Ticked(now=6)) == [
        StartLearning(tasks=(), reason="40 calls of no known task recur")
    ]
