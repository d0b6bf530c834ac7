from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import psutil
import pytest

from shoal.agents.contract.drift import bin_of, histogram
from shoal.agents.contract.sequential import Wager, risk_factors
from shoal.agents.fakes import FakeClock, ListLearner
from shoal.agents.feedback.feedback_loop import FeedbackLoop
from shoal.agents.feedback.feedback_state import ComparisonSeen
from shoal.agents.feedback.learning_runs import BY_HAND, SqlLearningRuns
from shoal.agents.feedback.rollout import Policy
from shoal.agents.feedback.schedule import LearningPolicy
from shoal.agents.feedback.seen import event_of
from shoal.agents.feedback.watching import InputsSeen
from shoal.agents.registry.evidence import Evidence
from shoal.agents.registry.lifecycle import Asker, Move
from shoal.agents.registry.records import Task, Version, VersionState
from shoal.agents.registry.store import SqlRegistry
from shoal.agents.tasks.finder import find_tasks
from shoal.agents.traces.memory import MemoryTraceStore
from shoal.agents.traces.trace import Trace, TraceId
from shoal.errors import NotFound, SiteError

START = 1_700_000_000.0


def trace(number: int, *, answer: str = "", at: float = START - 1000, served_by: str = "") -> Trace:
    text, label = [("my invoice", "billing"), ("my parcel", "shipping")][number % 2]
    message = {"role": "assistant", "content": answer or label}
    return Trace(
        id=TraceId(f"c{number}"),
        request={
            "model": "auto",
            "messages": [
                {"role": "system", "content": "Sort the ticket: billing or shipping."},
                {"role": "user", "content": f"Ticket {number}: {text}"},
            ],
        },
        response={"choices": [{"message": message, "finish_reason": "stop"}]},
        timestamp=at,
        served_by=served_by,
    )


class Site:
    """A feedback loop over a real registry, with a task that was found, and a clock that is moved by hand."""

    def __init__(self, database: str) -> None:
        self.clock = FakeClock(START)
        self.registry = SqlRegistry(database, clock=self.clock)
        self.traces = MemoryTraceStore(trace(n) for n in range(60))
        self.task: Task = find_tasks(self.traces.scan(), known=(), seed=0, now=1.0).tasks[0]
        self.registry.put_tasks([self.task])
        self.runs = SqlLearningRuns(self.registry.database)
        self.learner = ListLearner()
        self.policy = Policy(mode="auto", min_comparisons=30)
        self.learning = LearningPolicy(min_corrections=3)
        self.restart()

    def restart(self) -> None:
        numbers = iter(range(100))
        self.loop = FeedbackLoop(
            registry=self.registry,
            runs=self.runs,
            learner=self.learner,
            traces=lambda: self.traces,
            policy=self.policy,
            learning=self.learning,
            clock=self.clock,
            ids=lambda: f"r{self.clock.seconds}-{next(numbers)}",
        )

    def add(self, number: int, state: VersionState, **changes: Any) -> str:
        version = Version(
            task_id=self.task.id,
            number=number,
            kind="classifier",
            state=state,
            folder=f"t/{number}",
            sha256="0" * 64,
            threshold=0.5,
            alpha=0.05,
            delta=0.05,
            created_at=START - 500,
            served_at=START if state is VersionState.SERVING else None,
            **changes,
        )
        self.registry.add_version(version)
        return version.key

    def states(self) -> list[VersionState]:
        return [v.state for v in self.registry.versions()]

    def compare(self, key: str, *, agrees: bool, times: int, **changes: Any) -> None:
        event = ComparisonSeen(version_key=key, judged=True, agrees=agrees, accepted=True)
        for _ in range(times):
            self.loop.observe(replace(event, **changes))

    def correct(self, *numbers: int, right: str = "returns") -> None:
        for number in numbers:
            self.registry.add_feedback(f"c{number}", correction={"role": "assistant", "content": right})

    def go(self, seconds: float = 1.0) -> None:
        """Time passes, and both threads have a turn."""
        self.clock.advance(seconds)
        self.loop.tick()
        self.loop.read()
        self.clock.advance(1.0)
        self.loop.tick()

    def end(self, report: dict[str, Any] | None = None) -> None:
        """The run under way comes to its end."""
        run = self.runs.running()
        assert run is not None
        self.learner.alive.discard(run.id)
        self.runs.finish(run.id, "done", report or {"tasks": []}, at=self.clock.now())


@pytest.fixture
def site(database: str) -> Site:
    return Site(database)


# -- evidence on versions


def test_evidence_moves_a_shadow_in_auto_mode_and_is_kept_in_the_registry(site: Site) -> None:
    key = site.add(1, VersionState.SHADOW)
    site.loop.tick()
    site.compare(key, agrees=True, times=120)
    site.loop.tick()
    assert site.states() == [VersionState.CANARY]
    assert site.registry.comparisons(key)["shadow"] == (120, 120)
    assert site.loop.standing.compared == 120


def test_a_restarted_loop_goes_on_where_the_dead_one_was(site: Site) -> None:
    key = site.add(1, VersionState.SHADOW)
    site.loop.tick()
    site.compare(key, agrees=True, times=60)
    site.loop.tick()
    assert site.states() == [VersionState.SHADOW]
    site.restart()
    site.loop.tick()
    site.compare(key, agrees=True, times=60)
    site.loop.tick()
    assert site.states() == [VersionState.CANARY]


def test_only_judged_answers_that_a_client_would_have_got_are_evidence(site: Site) -> None:
    key = site.add(1, VersionState.SHADOW)
    site.loop.tick()
    site.compare(key, agrees=True, times=5, judged=False)
    site.compare(key, agrees=True, times=5, accepted=False)
    site.compare(key, agrees=True, times=1)
    site.loop.tick()
    assert site.registry.comparisons(key) == {"shadow": (1, 1)}


def test_a_comparison_is_read_from_the_plain_data_that_gateways_send() -> None:
    data = {
        "type": "comparison",
        "version_key": "t@1",
        "judged": True,
        "agrees": False,
        "accepted": True,
        "confidence": 0.9,
    }
    assert event_of(data) == ComparisonSeen(version_key="t@1", judged=True, agrees=False, accepted=True)


def test_a_registry_that_does_not_answer_is_said_and_tried_again(site: Site) -> None:
    class Broken:
        def __getattr__(self, name: str) -> object:
            raise SiteError("The database is locked.")

    registry = site.loop._registry
    site.loop._registry = Broken()  # type: ignore[assignment]
    site.loop.tick()
    assert "locked" in site.loop.standing.trouble
    site.loop._registry = registry
    site.loop.tick()
    assert site.loop.standing.trouble == ""


# -- the audit: what is broken is taken back, told and learnt again


def test_a_broken_contract_takes_a_version_back_and_begins_a_run_that_says_why(site: Site) -> None:
    key = site.add(1, VersionState.SERVING)
    site.go()
    site.compare(key, agrees=True, times=200)
    site.compare(key, agrees=False, times=20)
    site.go()
    assert site.states() == [VersionState.PAUSED]
    last = site.registry.history(key)[-1]
    assert (last["asker"], last["to"]) == ("audit", "paused")
    assert last["reason"].startswith("contract broken: ")
    run = site.runs.running()
    assert run is not None
    assert run.tasks == (site.task.id,)
    assert (
        run.reason
        == f"contract of {site.task.name}@1 broken: {last['reason'].removeprefix('contract broken: ')}"
    )


def test_the_last_good_version_serves_again_where_there_is_one(site: Site) -> None:
    old = site.add(1, VersionState.SERVING)
    new = site.add(2, VersionState.SHADOW)
    site.registry.move(
        [
            Move(version_key=new, before=VersionState.SHADOW, after=VersionState.SERVING, reason=""),
            Move(version_key=old, before=VersionState.SERVING, after=VersionState.RETIRED, reason=""),
        ],
        asker=Asker.OWNER,
    )
    site.go()
    site.compare(new, agrees=False, times=20)
    site.go()
    assert site.states() == [VersionState.SERVING, VersionState.PAUSED]


def test_a_run_for_a_broken_contract_is_begun_also_by_the_next_actor_and_only_once(site: Site) -> None:
    key = site.add(1, VersionState.SERVING)
    site.loop.tick()
    site.compare(key, agrees=False, times=20)
    site.loop._look = lambda: None  # type: ignore[method-assign]  # it dies before it looks at learning
    site.loop.tick()
    assert site.states() == [VersionState.PAUSED]
    assert site.runs.running() is None
    site.restart()
    site.go()
    assert site.runs.running() is not None
    site.end({"tasks": []})
    site.restart()
    site.go()
    assert len(site.runs.all()) == 1


def test_comparisons_that_could_not_be_judged_count_neither_way(site: Site) -> None:
    key = site.add(1, VersionState.SERVING)
    site.loop.tick()
    site.compare(key, agrees=False, times=200, judged=False)
    site.loop.tick()
    assert site.states() == [VersionState.SERVING]
    assert site.registry.evidence(key) == Evidence()


def test_bets_are_read_back_so_that_a_restart_changes_no_verdict(site: Site) -> None:
    key = site.add(1, VersionState.SERVING)
    site.loop.tick()
    wrong = [False] * 40 + [True, False, True, True, False, True] * 3
    for place, flag in enumerate(wrong):
        site.compare(key, agrees=not flag, times=1)
        site.loop.tick()
        if place % 7 == 0:
            site.restart()
            site.loop.tick()
    stage = site.registry.evidence(key).stages["audit"]
    expected = Wager()
    for flag in wrong[: stage.compared]:
        expected = expected.after(risk_factors(0.05, flag))
    assert Wager.from_dict(stage.bets) == expected
    assert site.states() == [VersionState.PAUSED]


def inputs(key: str, number: int, confidence: float, *, given: int = 0) -> InputsSeen:
    bins = (bin_of(confidence),) * 50
    return InputsSeen(
        version_key=key, bins=bins, given=given, key=f"b{number}", since=START - 2000, at=START + number
    )


def test_drift_is_told_in_the_history_begins_a_run_and_takes_nothing_back(site: Site) -> None:
    calibration = histogram([random.Random(n).betavariate(8, 2) for n in range(200)])
    key = site.add(1, VersionState.SERVING, evidence={"calibration": {"confidences": calibration}})
    site.go()
    for number in range(5):
        site.loop.observe(inputs(key, number, 0.2))
    site.go()
    assert site.states() == [VersionState.SERVING]
    told = [event for event in site.registry.history(key) if "drifted" in event["reason"]]
    assert [(event["from"], event["to"]) for event in told] == [("serving", "serving")]
    run = site.runs.running()
    assert run is not None and "drifted" in run.reason
    site.end({"tasks": []})
    site.restart()
    site.go()
    site.loop.observe(inputs(key, 9, 0.2))
    site.go()
    assert len(site.runs.all()) == 1
    assert len([e for e in site.registry.history(key) if "drifted" in e["reason"]]) == 1


def test_contradicted_answers_count_into_the_contract_against_all_that_were_given(site: Site) -> None:
    site.policy, site.learning = Policy(), LearningPolicy(min_corrections=0)
    site.restart()
    key = site.add(1, VersionState.SERVING)
    by = f"specialist/{site.task.name}@1"
    site.traces.add(
        replace(trace(2 * n, served_by=by), tags={"confidence": 0.9 if n < 80 else 0.1})
        for n in range(60, 90)
    )
    site.go()
    site.loop.observe(inputs(key, 1, 0.9, given=60))
    site.correct(*[2 * n for n in range(80, 90)])  # below the threshold: the client named the specialist
    site.go()
    assert site.registry.evidence(key).contradicted == ()
    site.correct(*[2 * n for n in range(60, 65)], right="billing")  # as it was answered
    site.correct(*[2 * n for n in range(65, 70)])
    site.go()
    assert len(site.registry.evidence(key).contradicted) == 5
    assert site.states() == [VersionState.SERVING]
    site.restart()
    site.go()
    assert len(site.registry.evidence(key).contradicted) == 5
    site.correct(*[2 * n for n in range(70, 80)])
    site.go()
    assert site.states() == [VersionState.PAUSED]
    assert "12 of 60 given were contradicted" in site.registry.history(key)[-1]["reason"]


# -- learning


def test_feedback_that_contradicts_begins_a_run_of_the_task_and_says_why(site: Site) -> None:
    site.go()
    site.correct(0, 2)
    site.go()
    assert site.runs.running() is None
    assert site.loop.standing.contradicted == {site.task.name: 2}
    site.correct(4)
    site.go()
    run = site.runs.running()
    assert run is not None
    assert (run.tasks, run.reason) == (
        (site.task.id,),
        f"3 answers of {site.task.name} were contradicted",
    )
    assert [r.id for r in site.learner.started] == [run.id]
    site.learner.said[run.id] = {"fraction": 0.5, "text": "training"}
    site.go()
    assert site.loop.standing.running is not None
    assert site.loop.standing.running["fraction"] == 0.5


def test_feedback_that_agrees_or_is_of_no_known_call_begins_nothing(site: Site) -> None:
    site.go()
    site.correct(0, 2, 4, 6, right="billing")
    for number in range(1000, 1010):
        site.correct(number)
    site.go()
    assert site.runs.all() == []
    site.go(4000)
    assert site.loop.standing.unknown == 10


def test_feedback_on_a_call_that_becomes_readable_later_is_heard_then(site: Site) -> None:
    site.go()
    site.correct(100, 102, 104)
    site.go()
    assert site.runs.running() is None
    site.traces.add(trace(n) for n in range(100, 105))
    site.go()
    assert site.runs.running() is not None


def test_once_a_run_has_ended_its_feedback_is_used_up_also_for_an_actor_that_starts_anew(site: Site) -> None:
    site.go()
    site.correct(0, 2, 4)
    site.go()
    site.end({"tasks": [{"name": site.task.name, "verdict": "pass"}]})
    site.go()
    assert site.loop.standing.running is None
    assert site.loop.standing.last is not None
    assert site.loop.standing.last["outcomes"] == {site.task.name: "pass"}
    site.restart()
    site.go()
    site.go()
    assert len(site.runs.all()) == 1
    assert site.loop.standing.last["state"] == "done"


def test_a_restarted_loop_watches_the_run_that_still_goes_on(site: Site) -> None:
    site.loop.learn()
    site.go()
    run = site.runs.running()
    assert run is not None
    site.runs.claim(run.id, psutil.Process())
    site.learner = ListLearner()
    site.restart()
    site.go()
    assert site.learner.started == []
    assert site.loop.standing.running is not None
    site.end()
    site.go()
    assert site.loop.standing.running is None


def test_a_run_whose_process_died_is_gone_on_with_and_given_up_after_three_deaths(site: Site) -> None:
    site.loop.learn()
    site.go()
    [first] = site.learner.started
    site.learner.alive.clear()
    site.go()
    assert {r.id for r in site.learner.started} == {first.id}
    site.learner.dies = True
    site.learner.alive.clear()
    for _ in range(5):
        site.go()
    assert len(site.learner.started) == 3
    ended = site.runs.get(first.id)
    assert ended.state == "failed"
    assert "died 3 times" in str(ended.report["error"])


def test_a_run_that_cannot_be_started_has_failed_with_the_reason(site: Site) -> None:
    site.learner.error = OSError("no memory")
    site.loop.learn()
    site.go()
    site.go()
    [run] = site.runs.all()
    assert run.state == "failed"
    assert "no memory" in str(run.report["error"])
    # and the next one is begun
    site.learner.error = None
    site.loop.learn()
    site.go(10)
    assert len(site.learner.started) == 1


def test_what_was_asked_for_and_waits_outlives_the_actor(site: Site) -> None:
    site.runs.begin("hand", tasks=(), reason=BY_HAND, at=site.clock.now())
    site.runs.claim("hand", psutil.Process())
    site.loop.learn([site.task.name])
    site.go()
    site.restart()
    site.runs.finish("hand", "done", {}, at=site.clock.now())
    site.go()
    site.go()
    assert [r.tasks for r in site.learner.started] == [(site.task.id,)]
    site.end()
    site.restart()
    site.go(20)
    assert len(site.learner.started) == 1, "it is asked for once"


def test_a_run_by_hand_is_watched_and_what_is_asked_for_meanwhile_waits(site: Site) -> None:
    site.runs.begin("hand", tasks=(), reason=BY_HAND, at=site.clock.now())
    site.runs.claim("hand", psutil.Process())
    site.loop.learn([site.task.name])
    site.go()
    assert site.learner.started == []
    assert site.loop.stop_learning() is False
    site.runs.finish("hand", "done", {}, at=site.clock.now())
    site.go()
    site.go()
    assert [r.tasks for r in site.learner.started] == [(site.task.id,)]


def test_a_run_by_hand_whose_process_is_gone_is_not_gone_on_with(site: Site) -> None:
    site.runs.begin("hand", tasks=(), reason=BY_HAND, at=site.clock.now())
    site.go()
    assert site.runs.running() is not None
    site.go(20)
    assert site.runs.get("hand").state == "stopped"
    assert site.learner.started == []


def test_a_run_can_be_stopped_for_good_or_left_to_the_next_actor(site: Site) -> None:
    site.loop.learn()
    site.go()
    assert site.loop.stop_learning() is True
    site.go()
    [stopped] = site.runs.all()
    assert stopped.state == "stopped"
    site.loop.learn()
    site.go()
    site.go()
    run = site.runs.running()
    assert run is not None
    site.loop.rest()
    site.go()
    assert site.learner.stopped == [stopped.id, run.id]
    assert len(site.learner.started) == 2
    site.restart()
    site.go()
    assert [r.id for r in site.learner.started] == [stopped.id, run.id, run.id]


def test_who_asks_for_a_task_that_is_not_there_is_told(site: Site) -> None:
    with pytest.raises(NotFound, match="nothing-such"):
        site.loop.learn(["nothing-such"])


def test_new_calls_that_may_be_learnt_from_are_counted_once_each(database: str) -> None:
    site = Site(database)
    site.learning = LearningPolicy(every_traces=10, min_corrections=0)
    site.add(1, VersionState.SERVING)
    site.restart()
    site.go()
    assert site.loop.standing.grown == {}  # all that is there came before its version
    new = [trace(n, at=START + n - 100, served_by="generalist/big") for n in range(100, 106)]
    own = [trace(n, at=START + n - 100, served_by="specialist/sort@1") for n in range(200, 230)]
    site.traces.add([*new, *own])
    site.go(30)
    site.go(30)
    assert site.loop.standing.grown == {site.task.name: 6}
    site.traces.add(trace(n, at=START + 50) for n in range(300, 304))
    site.go(30)
    run = site.runs.running()
    assert run is not None
    assert run.reason == f"10 new calls of {site.task.name}"
