"""Roll-outs whose writers are killed, `kill -9`, at random moments: no state skipped, no two verdicts in one epoch, no event lost.

The feedback loop, the router's loop and somebody who trains versions and has the owner's say each run in a process of their own, over
one database; this process sends the comparisons, as a gateway does. What came of it is read from the durable history.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

import pytest

from shoal.agents.fakes import ListLearner
from shoal.agents.feedback.counting import Batch
from shoal.agents.feedback.feedback_loop import FeedbackLoop
from shoal.agents.feedback.governance import pause_version, promote_version, rollback_task
from shoal.agents.feedback.learning_runs import SqlLearningRuns
from shoal.agents.feedback.rollout import Policy
from shoal.agents.feedback.schedule import LearningPolicy
from shoal.agents.feedback.seen import event_of
from shoal.agents.registry.lifecycle import Asker, Move, history_faults
from shoal.agents.registry.records import OutputKind, Task, TaskId, Version, VersionState
from shoal.agents.registry.store import SqlRegistry
from shoal.agents.routing.router_loop import RouterLoop
from shoal.agents.routing.router_state import LoadFailed
from shoal.agents.traces.memory import MemoryTraceStore
from shoal.errors import ShoalError
from shoal.nodes.spool import SystemClock

KILLS = 50
LIVE = (VersionState.SHADOW, VersionState.CANARY, VersionState.SERVING)
TASKS = [Task(id=TaskId(f"t{n}"), name=f"task-{n}", output_kind=OutputKind.LABEL, calls=1) for n in range(4)]
#: its version serves, is always right, and nobody meddles with it: every comparison of it must be counted
STEADY = Task(id=TaskId("steady"), name="steady", output_kind=OutputKind.LABEL, calls=1)


def version(task_id: TaskId, number: int, state: VersionState) -> Version:
    return Version(
        task_id=task_id,
        number=number,
        kind="classifier",
        state=state,
        folder=f"{task_id}/{number}",
        sha256="0" * 64,
        threshold=0.5,
        alpha=0.3,
        delta=0.3,
    )


# -- the processes that are killed


def be_feedback(database: str, pipe: Connection, seed: int) -> None:
    registry = SqlRegistry(database)
    numbers = random.Random(seed)
    loop = FeedbackLoop(
        registry=registry,
        runs=SqlLearningRuns(registry.database),
        learner=ListLearner(),
        traces=MemoryTraceStore,
        policy=Policy(mode="auto", min_comparisons=5),
        learning=LearningPolicy(min_corrections=0),
        clock=SystemClock(),
        ids=lambda: f"{numbers.getrandbits(60):x}",
    )
    while True:
        while pipe.poll(0.002):
            first, sent = pipe.recv()

            def kept(upto: int = first + len(sent) - 1) -> None:
                pipe.send(upto)

            events = tuple(event_of(data) for data in sent)
            loop.observe_batch(Batch(events=events, sender="gateway", first=first, kept=kept))
        loop.tick()


class _Deployer:
    async def ensure(self, versions: object) -> None: ...

    def addresses(self) -> Mapping[str, str]:
        return {}

    def places(self) -> Mapping[str, Mapping[str, str]]:
        return {}

    async def loaded(self) -> frozenset[str]:
        return frozenset()

    async def failures(self) -> Mapping[str, str]:
        return {}


def be_router(database: str, pipe: Connection, seed: int) -> None:
    """Now and then a version cannot be loaded."""
    chance = random.Random(seed)
    registry = SqlRegistry(database)
    loop = RouterLoop(
        registry=registry,
        deployer=_Deployer(),
        canary_share=0.1,
        clock=SystemClock(),
        on_update=lambda update: None,
    )
    while True:
        loop.tick()
        if chance.random() < 0.1:
            keys = [v.key for v in registry.versions() if v.task_id != STEADY.id and v.state in LIVE]
            if keys:
                loop.observe(LoadFailed(version_key=chance.choice(keys), reason="its weights were altered"))
        time.sleep(0.005)


def be_owner(database: str, pipe: Connection, seed: int) -> None:
    """Trains versions, and says what the owner may say."""
    chance = random.Random(seed)
    registry = SqlRegistry(database)
    while True:
        task = chance.choice(TASKS)
        versions = registry.versions(task.id)
        with suppress(ShoalError):  # what may not be is refused: that is what the history must show
            said = chance.random()
            if said < 0.5 or not versions:
                _train(registry, task, versions)
            elif said < 0.65:
                promote_version(registry, chance.choice(versions))
            elif said < 0.8:
                pause_version(registry, chance.choice(versions))
            else:
                rollback_task(registry, task)
        time.sleep(0.02)


def _train(registry: SqlRegistry, task: Task, versions: list[Version]) -> None:
    number = max((v.number for v in versions), default=0) + 1
    registry.begin_training(task.id, number)
    older = [
        Move(version_key=v.key, before=v.state, after=VersionState.RETIRED, reason=f"{number} was learnt")
        for v in versions
        if v.state is VersionState.SHADOW
    ]
    registry.add_version(version(task.id, number, VersionState.SHADOW), moves=older)


# -- the process that kills


@dataclass
class Worker:
    """One process, started anew whenever it was killed."""

    be: Callable[[str, Connection, int], None]
    database: str
    seed: int
    process: Any = None
    pipe: Any = None
    deaths: int = 0

    def start(self) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["shoal.agents.routing.router_loop", "psycopg", __name__])
        self.pipe, its = context.Pipe()
        arguments = (self.database, its, self.seed + self.deaths)
        self.process = context.Process(target=self.be, args=arguments, daemon=True)
        self.process.start()
        its.close()

    def kill(self) -> None:
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.join(10)
        self.pipe.close()
        self.deaths += 1


@dataclass
class Sender:
    """Sends comparisons of live versions and, until it is told that they are kept, sends them again."""

    registry: SqlRegistry
    chance: random.Random
    kept: int = 0
    steady: int = 0
    made: int = 0
    waiting: list[dict[str, Any]] = field(default_factory=list)
    sent: bool = False

    def make(self) -> None:
        for v in self.registry.versions():
            if v.state in LIVE:
                # every other version is bad
                right = 1.0 if v.task_id == STEADY.id else 0.3 if v.number % 2 else 0.97
                self.steady += v.task_id == STEADY.id
                agrees = self.chance.random() < right
                said = {"version_key": v.key, "judged": True, "agrees": agrees, "accepted": True}
                self.waiting.append(said)
                self.made += 1

    def turn(self, worker: Worker) -> None:
        with suppress(EOFError, OSError):
            while worker.pipe.poll(0):
                upto = worker.pipe.recv()
                del self.waiting[: upto - self.kept]
                self.kept, self.sent = upto, False
            if self.waiting and not self.sent:
                worker.pipe.send((self.kept + 1, self.waiting[:200]))
                self.sent = True


@pytest.mark.timeout(240)
def test_roll_outs_survive_the_death_of_every_writer_at_any_moment(database: str) -> None:
    registry = SqlRegistry(database)
    registry.put_tasks([*TASKS, STEADY])
    registry.add_version(version(STEADY.id, 1, VersionState.SERVING))
    chance = random.Random(23)
    workers = [Worker(be, database, 1000 * n) for n, be in enumerate((be_feedback, be_router, be_owner))]
    feedback = workers[0]
    sender = Sender(registry, chance)
    for worker in workers:
        worker.start()
    try:
        for _ in range(KILLS):
            until = time.monotonic() + chance.uniform(0.02, 0.25)
            while time.monotonic() < until:
                sender.make()
                sender.turn(feedback)
                time.sleep(0.005)
            victim = chance.choice(workers)
            victim.kill()
            if victim is feedback:
                sender.sent = False
            victim.start()
        # on a slow machine processes have hardly begun when they are killed: go on until everybody has had a say
        until = time.monotonic() + 60
        while time.monotonic() < until and _askers(registry) != set(map(str, Asker)):
            sender.make()
            sender.turn(feedback)
            time.sleep(0.02)
        while time.monotonic() < until and sender.waiting:
            sender.turn(feedback)
            time.sleep(0.005)
    finally:
        for worker in workers:
            worker.kill()

    assert sum(worker.deaths for worker in workers) == KILLS + 3
    assert not sender.waiting, "what was sent was never kept"
    assert registry.counted("gateway") == sender.made
    assert registry.comparisons("steady@1") == {"audit": (sender.steady, sender.steady)}
    events = registry.events()
    assert history_faults(events, {v.key: v.state for v in registry.versions()}) == []
    assert _askers(registry) == set(map(str, Asker)), "too little happened"
    epochs = [event["epoch"] for event in events]
    assert epochs == sorted(epochs) and max(epochs) <= registry.epoch()
    registry.close()


def _askers(registry: SqlRegistry) -> set[str]:
    return {event["asker"] for event in registry.events()}


# -- the check can fail


def _event(key: str, before: str, after: str, epoch: int, asker: str = "owner") -> dict[str, Any]:
    return {"version": key, "from": before, "to": after, "epoch": epoch, "asker": asker}


@pytest.mark.parametrize(
    ("events", "fault"),
    [
        ([_event("t@1", "", "shadow", 1), _event("t@1", "canary", "serving", 2)], "but it was shadow"),
        (
            [_event("t@1", "", "shadow", 1), _event("t@1", "shadow", "serving", 2, "evidence")],
            "not at the word of evidence",
        ),
        ([_event("t@1", "", "shadow", 1), _event("u@1", "", "shadow", 1)], "had its verdict in this epoch"),
        ([_event("t@1", "", "serving", 1), _event("t@2", "", "serving", 2)], "t@1 and t@2 serve at once"),
    ],
)
def test_a_history_that_is_against_the_rules_is_found_out(events: list[dict[str, Any]], fault: str) -> None:
    states = {event["version"]: VersionState(event["to"]) for event in events}
    [found] = history_faults(events, states)
    assert fault in found


def test_a_version_that_stands_elsewhere_than_its_history_says_is_found_out() -> None:
    [found] = history_faults([_event("t@1", "", "shadow", 1)], {"t@1": VersionState.CANARY})
    assert "their history says" in found
    assert history_faults([_event("t@1", "", "shadow", 1)], {"t@1": VersionState.SHADOW}) == []
