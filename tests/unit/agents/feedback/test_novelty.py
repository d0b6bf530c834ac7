"""Unknown work: what goes into the pool, which kinds recur in it, and what follows."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import pytest

from shoal.agents.fakes import FakeClock, ListLearner
from shoal.agents.feedback.feedback_loop import FeedbackLoop
from shoal.agents.feedback.learning_runs import SqlLearningRuns
from shoal.agents.feedback.novelty import NovelCall, NovelKind, NoveltyPool, kinds_in, kinds_of, novel_call
from shoal.agents.feedback.rollout import Policy
from shoal.agents.feedback.schedule import (
    LearningEnded,
    LearningPolicy,
    NovelKindsSeen,
    Schedule,
    StartLearning,
    Ticked,
)
from shoal.agents.registry.novelty import SqlNovelty
from shoal.agents.registry.records import TaskId
from shoal.agents.registry.store import SqlRegistry
from shoal.agents.routing.router import Router
from shoal.agents.routing.snapshot import build_snapshot
from shoal.agents.tasks.finder import find_tasks
from shoal.agents.tasks.matcher import Match, Novelty
from shoal.agents.traces.chat import ChatRequest
from shoal.agents.traces.memory import MemoryTraceStore
from shoal.agents.traces.trace import Trace, TraceId

START = 1_700_000_000.0
SORT = "Sort the ticket: billing or shipping. Answer with one word."
TELL = "Say in one sentence what the weather record tells."


def trace(name: str, system: str, user: str, *, at: float, answer: str = "ok", **fields: Any) -> Trace:
    messages = [{"role": "system", "content": system}] if system else []
    return Trace(
        id=TraceId(name),
        request={"model": "auto", "messages": [*messages, {"role": "user", "content": user}]},
        response={
            "choices": [{"message": {"role": "assistant", "content": answer}, "finish_reason": "stop"}]
        },
        timestamp=at,
        **fields,
    )


def ticket(n: int, *, at: float = START - 1000, **fields: Any) -> Trace:
    text, label = [("my invoice is wrong", "billing"), ("my parcel is late", "shipping")][n % 2]
    return trace(f"ticket-{n}", SORT, f"Ticket {n}: {text}", at=at, answer=label, **fields)


def weather(n: int, *, at: float = START, **fields: Any) -> Trace:
    user = f'{{"town": "Town{n % 7}", "degrees": {n % 30}, "sky": "clear"}}'
    return trace(f"weather-{n}", TELL, user, at=at, answer=f"It is {n % 30} degrees.", **fields)


# -- what is novel


@pytest.mark.parametrize(
    ("match", "fields", "why"),
    [
        (Match(task_id=None, how="none", novelty=Novelty.SYSTEM_PROMPT), {}, "system_prompt"),
        (Match(task_id=TaskId("t"), how="wording", novelty=Novelty.SYSTEM_PROMPT), {}, "system_prompt"),
        (Match(task_id=TaskId("t"), how="template", novelty=Novelty.TOOLS), {}, "tools"),
        (Match(task_id=TaskId("t"), how="fingerprint"), {}, None),
        (Match(task_id=TaskId("t"), how="fingerprint"), {"tags": {"fallback": "unsure"}}, None),
        (Match(task_id=TaskId("t"), how="template"), {}, None),
        # unseen work in a known domain: the prompt is new, and the specialist was not sure
        (Match(task_id=TaskId("t"), how="template"), {"tags": {"fallback": "unsure"}}, "prompt"),
        (
            Match(task_id=TaskId("t"), how="template", novelty=Novelty.PROMPT),
            {"served_by": "specialist/t@1"},
            None,
        ),
        (
            Match(task_id=None, how="none", novelty=Novelty.INPUT),
            {"tags": {"incomplete": "client_closed"}},
            None,
        ),
    ],
)
def test_a_call_is_novel_where_no_evidence_covers_it(
    match: Match, fields: dict[str, Any], why: str | None
) -> None:
    call = novel_call(weather(1, **fields), match)
    assert (None if call is None else call.why) == why
    if call is not None:
        assert (call.trace_id, call.near) == ("weather-1", str(match.task_id or ""))


# -- kinds


def pooled(traces: Sequence[Trace]) -> list[NovelCall]:
    return [NovelCall(trace_id=str(t.id), at=t.timestamp, why="system_prompt") for t in traces]


def test_calls_of_one_job_are_a_kind_and_stray_calls_are_none() -> None:
    recurring = [weather(n, at=START + n) for n in range(40)]
    stray = [
        trace(f"stray-{n}", f"Be a {job}.", "Hello there", at=START)
        for n, job in enumerate(["clown", "cook", "king"])
    ]
    kinds, calls = kinds_in(pooled(recurring + stray), recurring + stray, min_calls=30)
    assert [kind.calls for kind in kinds] == [40]
    assert kinds[0].times == tuple(START + n for n in range(40))
    assert {call.trace_id for call in calls if call.kind == kinds[0].name} == {t.id for t in recurring}


def test_a_kind_has_as_many_calls_as_are_asked_for() -> None:
    recurring = [weather(n) for n in range(40)]
    assert kinds_in(pooled(recurring), recurring, min_calls=41)[0] == []


def test_a_kind_is_near_the_task_that_most_of_its_calls_are_near() -> None:
    calls = [
        NovelCall(trace_id=str(n), at=0.0, why="tools", near="t1" if n < 3 else "t2", kind="k")
        for n in range(4)
    ]
    assert kinds_of(calls) == [NovelKind(name="k", times=(0.0,) * 4, example="3", near="t1")]
    assert kinds_of([*calls, *calls[3:] * 4])[0].near == "t2"


# -- the pool


def test_the_pool_outlives_the_process_is_bounded_and_holds_no_texts(tmp_path: Path) -> None:
    registry = SqlRegistry(tmp_path / "shoal.db")
    epoch = registry.epoch()
    calls = pooled([weather(n, at=START + n) for n in range(30)])
    SqlNovelty(registry.database).add(calls[:20], most=25)
    SqlNovelty(registry.database).add(calls[10:], most=25)
    registry.close()
    again = SqlRegistry(tmp_path / "shoal.db")
    assert SqlNovelty(again.database).all() == calls[5:]
    assert again.epoch() == epoch
    assert b"degrees" not in (tmp_path / "shoal.db").read_bytes()


def test_erased_calls_leave_the_pool(tmp_path: Path) -> None:
    registry = SqlRegistry(tmp_path / "shoal.db")
    pool = SqlNovelty(registry.database)
    pool.add(pooled([weather(1), weather(2)]), most=10)
    registry.delete_feedback(["weather-1"])
    assert [call.trace_id for call in pool.all()] == ["weather-2"]


def test_the_pool_lets_go_of_what_can_no_longer_be_read_or_is_covered_now(tmp_path: Path) -> None:
    store = SqlNovelty(SqlRegistry(tmp_path / "shoal.db").database)
    readable = {t.id: t for t in [weather(1), weather(2)]}

    def pick(ids: Collection[str]) -> list[Trace]:
        return [readable[TraceId(i)] for i in ids if i in readable]

    pool = NoveltyPool(store, pick=pick, min_calls=30)
    pool.take(pooled([weather(1), weather(2), weather(3)]))

    def match(found: Trace) -> Match:
        if found.id == "weather-1":
            return Match(task_id=TaskId("t"), how="fingerprint", confidence=1.0)
        return Match(task_id=None, how="none", novelty=Novelty.INPUT)

    assert pool.look(match, tasks_changed=True)
    assert [(call.trace_id, call.why) for call in store.all()] == [("weather-2", "input")]
    assert not pool.look(match, tasks_changed=False)


# -- when to learn


def kind(calls: int, *, at: float) -> NovelKind:
    return NovelKind(name="weather-record", times=(at,) * calls, example="x")


def due(schedule: Schedule, now: float = 100.0) -> list[StartLearning]:
    return schedule.handle(Ticked(now=now))


def test_a_new_kind_of_enough_calls_begins_learning_and_is_named() -> None:
    schedule = Schedule(LearningPolicy(min_corrections=0, novelty_min_calls=60))
    schedule.handle(NovelKindsSeen(kinds=[kind(59, at=10.0)]))
    assert due(schedule) == []
    schedule.handle(NovelKindsSeen(kinds=[kind(60, at=10.0)]))
    assert due(schedule) == [StartLearning(tasks=(), reason="60 calls of a new kind, weather-record")]


def test_a_kind_that_learning_has_seen_must_grow_as_much_again() -> None:
    schedule = Schedule(LearningPolicy(min_corrections=0, novelty_min_calls=60))
    seen = kind(60, at=10.0)
    schedule.handle(NovelKindsSeen(kinds=[seen]))
    assert len(due(schedule)) == 1
    schedule.handle(LearningEnded(tasks=(), state="done", started_at=20.0, ended_at=30.0))
    assert due(schedule) == []
    grown = NovelKind(name="weather-record", times=(*seen.times, *(40.0,) * 59), example="x")
    schedule.handle(NovelKindsSeen(kinds=[grown]))
    assert due(schedule) == []
    schedule.handle(NovelKindsSeen(kinds=[NovelKind(name="k", times=(*grown.times, 41.0), example="x")]))
    assert len(due(schedule)) == 1


def test_new_kinds_begin_nothing_where_the_owner_does_not_want_it() -> None:
    schedule = Schedule(LearningPolicy(min_corrections=0, novelty_min_calls=0))
    schedule.handle(NovelKindsSeen(kinds=[kind(10_000, at=10.0)]))
    assert due(schedule) == []


# -- the whole loop


class Site:
    """A feedback loop over a real registry with one task, and a clock that is moved by hand."""

    def __init__(self, folder: Path, *, least: int = 60) -> None:
        self.clock = FakeClock(START)
        self.registry = SqlRegistry(folder / "shoal.db", clock=self.clock)
        self.traces = MemoryTraceStore(ticket(n) for n in range(60))
        self.find()
        self.runs = SqlLearningRuns(self.registry.database)
        self.pool = SqlNovelty(self.registry.database)
        self.least = least
        self.restart()

    def find(self) -> None:
        """What `shoal learn` does first."""
        known = self.registry.tasks()
        self.registry.put_tasks(find_tasks(self.traces.scan(), known=known, seed=0, now=1.0).tasks)

    def restart(self) -> None:
        self.learner = ListLearner()
        self.loop = FeedbackLoop(
            registry=self.registry,
            runs=self.runs,
            learner=self.learner,
            traces=lambda: self.traces,
            policy=Policy(mode="manual", min_comparisons=30),
            learning=LearningPolicy(min_corrections=0, novelty_min_calls=self.least),
            clock=self.clock,
            ids=lambda: f"r{self.clock.seconds}",
            pool=self.pool,
        )

    def come(self, *traces: Trace) -> None:
        self.traces.add(traces)
        self.go()

    def go(self) -> None:
        for _ in range(2):
            self.clock.advance(30.0)
            self.loop.tick()
            self.loop.read()
            self.loop.tick()


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def captured(first: int, last: int) -> list[Trace]:
    return [weather(n, at=START + n, served_by="generalist/big") for n in range(first, last)]


def test_known_work_is_not_pooled(site: Site) -> None:
    site.come(*(ticket(n, at=START + n, served_by="generalist/big") for n in range(100, 160)))
    assert site.pool.all() == []
    assert site.loop.standing.novel == 0


def test_unknown_work_that_recurs_is_told_and_then_learnt(site: Site) -> None:
    site.come(*captured(0, 40), trace("odd", "", "Hello?", at=START, served_by="generalist/big"))
    assert (site.loop.standing.novel, site.runs.running()) == (41, None)
    site.come(*captured(40, 70))
    [name] = site.loop.standing.kinds
    assert site.loop.standing.kinds == {name: 70}
    run = site.runs.running()
    assert run is not None
    assert (run.tasks, run.reason) == ((), f"70 calls of a new kind, {name}")
    assert [started.id for started in site.learner.started] == [run.id]


def test_learning_makes_the_kind_a_task_of_the_router_and_empties_the_pool(site: Site) -> None:
    site.come(*captured(0, 70))
    asked = ChatRequest(body=weather(999).request)

    def decided() -> str:
        snapshot = build_snapshot(
            epoch=site.registry.epoch(), tasks=site.registry.tasks(), versions=[], canary_share=0.1
        )
        return Router(snapshot).decide(asked, generalist_model=None).task_name

    assert decided() == ""
    epoch = site.registry.epoch()
    run = site.runs.running()
    assert run is not None
    site.find()
    site.learner.alive.discard(run.id)
    site.runs.finish(run.id, "done", {"tasks": []}, at=site.clock.now())
    site.go()
    assert site.registry.epoch() > epoch
    assert "weather" in decided()
    assert (site.pool.all(), site.loop.standing.novel, site.loop.standing.kinds) == ([], 0, {})
    assert site.runs.running() is None


def test_a_restarted_loop_knows_the_pool(site: Site) -> None:
    site.come(*captured(0, 40))
    site.restart()
    site.go()
    assert site.loop.standing.novel == 40
    site.come(*captured(40, 60))
    assert site.runs.running() is not None


def test_before_there_are_tasks_nothing_is_pooled(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.registry.remove_tasks([task.id for task in site.registry.tasks()])
    site.come(*captured(0, 70))
    assert (site.pool.all(), site.runs.running()) == ([], None)


def test_calls_that_no_task_covers_are_pooled_where_they_begin_no_learning(tmp_path: Path) -> None:
    site = Site(tmp_path, least=0)
    site.come(*captured(0, 70))
    assert (site.loop.standing.novel, site.runs.running()) == (70, None)
    assert list(site.loop.standing.kinds.values()) == [70]
