"""The table of moves, and that the database carries out nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from shoal.agents.fakes import FakeClock
from shoal.agents.registry.evidence import Seen
from shoal.agents.registry.lifecycle import TRANSITIONS, Asker, Move, Place, check_move
from shoal.agents.registry.records import OutputKind, Task, TaskId, Version, VersionState
from shoal.agents.registry.store import SqlRegistry
from shoal.errors import Conflict, NotFound, StaleDecision

S = VersionState
TASK = Task(id=TaskId("t"), name="sort", output_kind=OutputKind.LABEL, calls=1)


def version(number: int, state: VersionState, **fields: Any) -> Version:
    return Version(
        task_id=TASK.id,
        number=number,
        kind="classifier",
        state=state,
        folder=f"t/{number}",
        sha256="0" * 64,
        threshold=0.5,
        alpha=0.05,
        delta=0.05,
        **fields,
    )


@pytest.fixture
def registry(database: str) -> Iterator[SqlRegistry]:
    registry = SqlRegistry(database, clock=FakeClock(100.0))
    registry.put_tasks([TASK])
    yield registry
    registry.close()


def move(key: str, before: VersionState, after: VersionState) -> Move:
    return Move(version_key=key, before=before, after=after, reason="why")


def chains(registry: SqlRegistry) -> dict[str, list[tuple[str, str]]]:
    found: dict[str, list[tuple[str, str]]] = {}
    for event in registry.events():
        found.setdefault(event["version"], []).append((event["from"], event["to"]))
    return found


def test_evidence_skips_no_state_and_nobody_but_the_owner_may() -> None:
    every: list[Place] = [None, *VersionState]
    by_evidence = {(a, b) for a in every for b in every if Asker.EVIDENCE in TRANSITIONS.get((a, b), ())}
    assert by_evidence == {
        (S.SHADOW, S.CANARY),
        (S.CANARY, S.SERVING),
        (S.CANARY, S.RETIRED),
        (S.SERVING, S.RETIRED),
    }
    assert TRANSITIONS[S.SHADOW, S.SERVING] == {Asker.OWNER}
    assert not [pair for pair in TRANSITIONS if pair[0] is S.REJECTED], "the gate's no is final"
    ways_to_answer = {pair[0] for pair in TRANSITIONS if pair[1] in (S.CANARY, S.SERVING)}
    assert ways_to_answer == {S.SHADOW, S.CANARY, S.PAUSED, S.RETIRED}


@pytest.mark.parametrize(
    ("before", "after", "asker", "said"),
    [
        (
            S.SHADOW,
            S.SERVING,
            Asker.EVIDENCE,
            r"from shadow to serving at the word of evidence: only of owner",
        ),
        (S.REJECTED, S.SERVING, Asker.OWNER, r"from rejected to serving.*owner may ask for nothing"),
        (S.PAUSED, S.CANARY, Asker.OWNER, r"from paused to canary.*may ask for .*serving"),
        (None, S.SERVING, Asker.OWNER, r"from nowhere to serving"),
    ],
)
def test_a_move_that_the_table_does_not_have_is_refused_with_the_rule_and_the_way(
    before: Place, after: Place, asker: Asker, said: str
) -> None:
    with pytest.raises(Conflict, match=said):
        check_move("t@1", before, after, asker)


def test_a_refused_move_changes_nothing_of_what_was_to_move_with_it(registry: SqlRegistry) -> None:
    registry.add_version(version(1, S.SERVING))
    registry.add_version(version(2, S.SHADOW))
    epoch, events = registry.epoch(), registry.events()
    both = [move("t@1", S.SERVING, S.RETIRED), move("t@2", S.SHADOW, S.SERVING)]
    with pytest.raises(Conflict, match="only of owner"):
        registry.move(both, asker=Asker.EVIDENCE)
    with pytest.raises(NotFound):
        registry.move([both[0], move("t@9", S.SHADOW, S.CANARY)], asker=Asker.EVIDENCE)
    assert [v.state for v in registry.versions()] == [S.SERVING, S.SHADOW]
    assert (registry.epoch(), registry.events()) == (epoch, events)


def test_a_version_and_the_one_that_it_replaces_move_in_one_epoch(registry: SqlRegistry) -> None:
    registry.add_version(version(1, S.SERVING))
    registry.add_version(version(2, S.CANARY))
    epoch = registry.epoch()
    both = [move("t@2", S.CANARY, S.SERVING), move("t@1", S.SERVING, S.RETIRED)]
    assert registry.move(both, asker=Asker.EVIDENCE, epoch=epoch) == epoch + 1 == registry.epoch()
    told = [(e["version"], e["from"], e["to"], e["asker"], e["epoch"]) for e in registry.events()[2:]]
    assert told == [
        ("t@2", "canary", "serving", "evidence", epoch + 1),
        ("t@1", "serving", "retired", "evidence", epoch + 1),
    ]
    served = {v.number: v.served_at for v in registry.versions()}
    assert served == {1: 100.0, 2: 100.0}


def test_of_two_verdicts_at_one_epoch_the_second_is_refused(registry: SqlRegistry) -> None:
    registry.add_version(version(1, S.CANARY))
    registry.add_version(version(2, S.SHADOW))
    epoch = registry.epoch()
    registry.move([move("t@1", S.CANARY, S.SERVING)], asker=Asker.EVIDENCE, epoch=epoch)
    with pytest.raises(StaleDecision, match=rf"epoch {epoch} no longer holds: it is {epoch + 1}"):
        registry.move([move("t@1", S.CANARY, S.PAUSED)], asker=Asker.AUDIT, epoch=epoch)
    with pytest.raises(StaleDecision):  # of another version too: it was decided on what is no longer so
        registry.move([move("t@2", S.SHADOW, S.CANARY)], asker=Asker.EVIDENCE, epoch=epoch)
    with pytest.raises(StaleDecision, match="but is serving by now"):
        registry.move([move("t@1", S.CANARY, S.PAUSED)], asker=Asker.AUDIT)
    assert chains(registry)["t@1"] == [("", "canary"), ("canary", "serving")]


_RACER = """
import sys
from shoal.agents.registry.lifecycle import Asker, Move
from shoal.agents.registry.store import SqlRegistry
from shoal.agents.registry.records import VersionState as S
from shoal.errors import StaleDecision
registry = SqlRegistry(sys.argv[1])
epoch = registry.epoch()
print("ready", flush=True)
sys.stdin.readline()
after, asker = (S.SERVING, Asker.EVIDENCE) if sys.argv[2] == "evidence" else (S.PAUSED, Asker.AUDIT)
step = Move(version_key="t@1", before=S.CANARY, after=after, reason=sys.argv[2])
try:
    registry.move([step], asker=asker, epoch=epoch)
    print("moved")
except StaleDecision:
    print("stale")
"""


def test_of_processes_that_decide_at_once_one_is_heard(registry: SqlRegistry, database: str) -> None:
    registry.add_version(version(1, S.CANARY))
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", _RACER, database, name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ,
        )
        for name in ("evidence", "audit", "evidence", "audit")
    ]
    for racer in racers:
        assert racer.stdout is not None and racer.stdout.readline() == "ready\n"
    said = []
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    for racer in racers:
        said.append(racer.communicate(timeout=60)[0].strip())
    assert sorted(said) == ["moved", "stale", "stale", "stale"]
    assert len(chains(registry)["t@1"]) == 2


# -- training


def test_a_version_in_training_is_seen_until_it_is_registered_with_its_verdict(registry: SqlRegistry) -> None:
    registry.begin_training(TASK.id, 1)
    [training] = registry.trainings()
    assert (training.key, training.pid, training.started_at) == ("t@1", os.getpid(), 100.0)
    assert registry.versions() == [], "it has no folder yet: nobody may ask it"
    registry.add_version(version(1, S.SHADOW))
    assert registry.trainings() == []
    assert chains(registry) == {"t@1": [("", "training"), ("training", "shadow")]}
    askers = [event["asker"] for event in registry.history("t@1")]
    assert askers == ["learning", "gate"]


def test_a_version_that_was_trained_cannot_be_born_serving(registry: SqlRegistry) -> None:
    registry.begin_training(TASK.id, 1)
    with pytest.raises(Conflict, match="from training to serving"):
        registry.add_version(version(1, S.SERVING))
    assert [training.key for training in registry.trainings()] == ["t@1"]


def test_a_training_that_came_to_nothing_leaves_its_number_free(registry: SqlRegistry) -> None:
    registry.begin_training(TASK.id, 1)
    registry.end_training(TASK.id, 1, reason="it was stopped")
    registry.end_training(TASK.id, 1, reason="it was stopped")
    assert registry.next_number(TASK.id) == 1
    registry.begin_training(TASK.id, 1)
    assert chains(registry)["t@1"] == [("", "training"), ("training", ""), ("", "training")]


def test_a_training_dies_with_its_process(registry: SqlRegistry, database: str) -> None:
    code = (
        "import os, sys; from shoal.agents.registry.store import SqlRegistry\n"
        "SqlRegistry(sys.argv[1]).begin_training('t', 1); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, database], check=False, timeout=60)
    assert registry.trainings() == []
    assert [training.key for training in registry.trainings(gone=True)] == ["t@1"]
    registry.begin_training(TASK.id, 1)
    assert [training.pid for training in registry.trainings()] == [os.getpid()]
    assert chains(registry)["t@1"] == [("", "training"), ("training", ""), ("", "training")]


def test_a_newer_shadow_takes_the_place_of_an_older_one_as_it_is_born(registry: SqlRegistry) -> None:
    registry.add_version(version(1, S.SHADOW))
    registry.add_version(version(2, S.SHADOW), moves=[move("t@1", S.SHADOW, S.RETIRED)])
    assert [v.state for v in registry.versions()] == [S.RETIRED, S.SHADOW]
    assert [e["epoch"] for e in registry.events()] == [2, 3, 3]
    assert registry.versions()[0].served_at is None, "it never served: no rollback brings it back"


# -- comparisons


def test_comparisons_and_how_far_their_sender_is_counted_are_one_change(registry: SqlRegistry) -> None:
    assert registry.counted("gateway-1") == 0
    registry.keep(
        Seen(counts={("t@1", "shadow"): (3, 2), ("t@2", "audit"): (1, 1)}, senders={"gateway-1": 4})
    )
    registry.keep(Seen(counts={("t@1", "shadow"): (1, 1)}, senders={"gateway-1": 5, "gateway-2": 9}))
    assert registry.comparisons("t@1") == {"shadow": (4, 3)}
    assert (registry.counted("gateway-1"), registry.counted("gateway-2")) == (5, 9)
    assert registry.epoch() == 1, "no router decides by them"


def test_a_sender_that_is_long_gone_is_forgotten(database: str) -> None:
    clock = FakeClock(100.0)
    registry = SqlRegistry(database, clock=clock)
    registry.keep(Seen(senders={"old": 4}))
    clock.advance(31 * 86400.0)
    registry.keep(Seen(senders={"new": 1}))
    assert (registry.counted("old"), registry.counted("new")) == (0, 1)
    registry.close()
