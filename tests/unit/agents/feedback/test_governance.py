"""The owner's word on a version."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest

from shoal.agents.fakes import FakeClock
from shoal.agents.feedback.governance import (
    ContractRefuted,
    ContractShown,
    Event,
    Governance,
    LoadingFailed,
    MoveVersions,
    PauseAsked,
    PromotionAsked,
    RollbackAsked,
    VersionsRead,
    pause_version,
    promote_version,
    rollback_task,
)
from shoal.agents.feedback.version_events import version_events
from shoal.agents.registry.lifecycle import TRANSITIONS
from shoal.agents.registry.records import OutputKind, Task, TaskId, Version, VersionState
from shoal.agents.registry.store import SqlRegistry
from shoal.errors import Conflict, NotFound, StaleDecision

S = VersionState

TASK = Task(id=TaskId("t-1"), name="sort", output_kind=OutputKind.LABEL, calls=500)


def version(number: int, state: VersionState) -> Version:
    return Version(
        task_id=TASK.id,
        number=number,
        kind="classifier",
        state=state,
        folder=f"t-1/{number}",
        sha256="0" * 64,
        threshold=0.5,
        alpha=0.05,
        delta=0.05,
        reason="Only 40% are right",
        served_at=1.0 if state is VersionState.RETIRED else None,
    )


@pytest.fixture
def registry(database: str) -> SqlRegistry:
    registry = SqlRegistry(database)
    registry.put_tasks([TASK])
    return registry


def states(registry: SqlRegistry) -> list[str]:
    return [str(v.state) for v in registry.versions(TASK.id)]


def test_promotion_retires_what_served_before(registry: SqlRegistry) -> None:
    for number, state in enumerate((VersionState.SERVING, VersionState.SHADOW), start=1):
        registry.add_version(version(number, state))
    promote_version(registry, registry.versions(TASK.id)[1])
    assert states(registry) == ["retired", "serving"]


def test_a_rejected_version_cannot_be_promoted_and_the_reason_is_given(registry: SqlRegistry) -> None:
    registry.add_version(version(1, VersionState.REJECTED))
    with pytest.raises(Conflict, match="Only 40% are right"):
        promote_version(registry, registry.versions(TASK.id)[0])
    assert states(registry) == ["rejected"]


def test_rollback_brings_the_predecessor_back(registry: SqlRegistry) -> None:
    registry.add_version(version(1, VersionState.RETIRED))
    registry.add_version(version(2, VersionState.SERVING))
    back_to = rollback_task(registry, TASK)
    assert back_to is not None and back_to.number == 1
    assert states(registry) == ["serving", "paused"]


def test_rollback_without_a_predecessor_leaves_the_generalist(registry: SqlRegistry) -> None:
    registry.add_version(version(1, VersionState.SERVING))
    assert rollback_task(registry, TASK) is None
    assert states(registry) == ["paused"]
    with pytest.raises(Conflict):
        rollback_task(registry, TASK)


def test_rollback_of_a_canary_leaves_the_serving_version_alone(registry: SqlRegistry) -> None:
    registry.add_version(version(1, VersionState.SERVING))
    registry.add_version(version(2, VersionState.CANARY))
    back_to = rollback_task(registry, TASK)
    assert back_to is not None and back_to.number == 1
    assert states(registry) == ["serving", "paused"]


def test_only_a_live_version_can_be_paused(registry: SqlRegistry) -> None:
    registry.add_version(version(1, VersionState.SHADOW))
    pause_version(registry, registry.versions(TASK.id)[0])
    assert states(registry) == ["paused"]
    with pytest.raises(Conflict, match="is paused"):
        pause_version(registry, registry.versions(TASK.id)[0])


# -- the machine


def machine(*versions: Version, epoch: int = 7) -> Governance:
    governance = Governance()
    governance.handle(VersionsRead(epoch=epoch, versions=versions))
    return governance


def told(commands: list[MoveVersions]) -> list[tuple[str, int, list[tuple[str, str, str]]]]:
    """(asker, epoch, [(version, before, after)]) of each command."""
    return [
        (str(c.asker), c.epoch, [(m.version_key, str(m.before), str(m.after)) for m in c.moves])
        for c in commands
    ]


def test_evidence_leads_from_shadow_to_canary_and_from_there_into_the_old_ones_place_at_once() -> None:
    old, new = version(1, S.SERVING), version(2, S.SHADOW)
    shown = ContractShown(version_key="t-1@2", reason="why")
    assert told(machine(old, new).handle(shown)) == [("evidence", 7, [("t-1@2", "shadow", "canary")])]
    canary = replace(new, state=S.CANARY)
    assert told(machine(old, canary).handle(shown)) == [
        ("evidence", 7, [("t-1@2", "canary", "serving"), ("t-1@1", "serving", "retired")])
    ]
    assert machine(old, new).handle(ContractShown(version_key="t-1@1", reason="why")) == []


def test_a_version_is_moved_once_until_the_registry_is_read() -> None:
    governance = machine(version(1, S.SHADOW))
    shown = ContractShown(version_key="t-1@1", reason="why")
    assert len(governance.handle(shown)) == 1
    assert governance.handle(shown) == []
    governance.handle(VersionsRead(epoch=8, versions=[version(1, S.SHADOW)]))
    assert [c.epoch for c in governance.handle(shown)] == [8]


@pytest.mark.parametrize(("event", "asker"), [(ContractRefuted, "audit"), (LoadingFailed, "loading")])
def test_what_is_broken_is_paused_and_the_last_good_version_serves_in_the_same_change(
    event: type[ContractRefuted] | type[LoadingFailed], asker: str
) -> None:
    never_served = replace(version(2, S.RETIRED), served_at=None)
    governance = machine(version(1, S.RETIRED), never_served, version(3, S.SERVING))
    assert told(governance.handle(event(version_key="t-1@3", reason="why"))) == [
        (asker, 7, [("t-1@3", "serving", "paused"), ("t-1@1", "retired", "serving")])
    ]


def test_a_version_that_is_kept_for_a_rollback_and_cannot_be_loaded_is_paused_but_never_for_its_answers() -> (
    None
):
    retired = version(1, S.RETIRED)
    cannot = LoadingFailed(version_key="t-1@1", reason="altered")
    assert told(machine(retired).handle(cannot)) == [("loading", 7, [("t-1@1", "retired", "paused")])]
    assert machine(retired).handle(ContractRefuted(version_key="t-1@1", reason="why")) == []
    for state in (S.PAUSED, S.REJECTED):
        assert machine(version(1, state)).handle(cannot) == []
    assert machine().handle(cannot) == []


@pytest.mark.parametrize("state", [S.SHADOW, S.CANARY, S.PAUSED, S.RETIRED])
def test_the_owner_may_promote_from_wherever_a_version_stands_and_is_recorded(state: VersionState) -> None:
    commands = machine(version(1, state)).handle(PromotionAsked(version_key="t-1@1", reason="why"))
    assert told(commands) == [("owner", 7, [("t-1@1", str(state), "serving")])]


def test_what_serves_cannot_be_promoted_and_what_is_not_there_cannot_be_moved() -> None:
    with pytest.raises(Conflict, match="serves already"):
        machine(version(1, S.SERVING)).handle(PromotionAsked(version_key="t-1@1", reason=""))
    with pytest.raises(NotFound, match="t-1@9"):
        machine().handle(PauseAsked(version_key="t-1@9", reason=""))


def test_every_command_of_the_machine_is_in_the_table() -> None:
    """Whatever two versions stand at and whatever happens: refused as a conflict, or moves that the table has, each at most once."""
    events: list[Event] = [
        ContractShown(version_key="t-1@2", reason="r"),
        ContractRefuted(version_key="t-1@2", reason="r"),
        LoadingFailed(version_key="t-1@2", reason="r"),
        PromotionAsked(version_key="t-1@2", reason="r"),
        PauseAsked(version_key="t-1@2", reason="r"),
        RollbackAsked(task_id=TASK.id, reason="r"),
    ]
    moved = 0
    for one, two, event in itertools.product(VersionState, VersionState, events):
        try:
            commands = machine(version(1, one), version(2, two)).handle(event)
        except Conflict:
            continue
        assert len(commands) <= 1
        for command in commands:
            keys = [m.version_key for m in command.moves]
            assert len(set(keys)) == len(keys)
            after = {1: one, 2: two}
            for m in command.moves:
                assert command.asker in TRANSITIONS[m.before, m.after], m
                number = int(m.version_key[-1])
                assert after[number] is m.before
                after[number] = m.after
                moved += 1
            if one is not S.SERVING or two is not S.SERVING:
                assert list(after.values()).count(S.SERVING) <= 1, "two would serve"
    assert moved > 50


# -- with others writing at the same time


class Meddling(SqlRegistry):
    """Somebody else changes the registry between the reading and the writing, so many times."""

    meddle = 0

    def move(self, *args: Any, **options: Any) -> int:
        if self.meddle > 0:
            self.meddle -= 1
            self.put_tasks([replace(TASK, reason=f"changed {self.meddle}")])
        return super().move(*args, **options)


def test_the_owners_word_is_carried_out_however_busy_the_registry_is(database: str) -> None:
    registry = Meddling(database)
    registry.put_tasks([TASK])
    registry.add_version(version(1, S.SHADOW))
    registry.meddle = 5
    promote_version(registry, registry.versions()[0])
    assert states(registry) == ["serving"]
    registry.meddle = 1000
    with pytest.raises(StaleDecision):
        pause_version(registry, registry.versions()[0])
    assert states(registry) == ["serving"]
    registry.close()


def test_a_reversal_is_in_the_registry_when_the_command_returns(registry: SqlRegistry) -> None:
    registry.add_version(version(1, S.RETIRED))
    registry.add_version(version(2, S.SERVING))
    epoch = registry.epoch()
    rollback_task(registry, TASK)
    assert registry.epoch() == epoch + 1, "one change: one epoch reaches the gateways"
    assert [(e["version"], e["to"], e["asker"]) for e in registry.events()[-2:]] == [
        ("t-1@2", "paused", "owner"),
        ("t-1@1", "serving", "owner"),
    ]


# -- the history


def test_the_history_is_asked_for_by_task_version_and_time(database: str) -> None:
    clock = FakeClock(100.0)
    registry = SqlRegistry(database, clock=clock)
    registry.put_tasks([TASK, replace(TASK, id=TaskId("t-2"), name="write")])
    registry.add_version(version(1, S.SHADOW))
    registry.add_version(replace(version(1, S.SHADOW), task_id=TaskId("t-2")))
    clock.advance(10)
    promote_version(registry, registry.versions(TASK.id)[0])
    registry.add_version(version(2, S.REJECTED))

    def asked(*args: Any) -> list[tuple[str, str]]:
        return [(e["specialist"], e["to"]) for e in version_events(registry, *args)]

    assert asked() == [
        ("sort@1", "shadow"),
        ("write@1", "shadow"),
        ("sort@1", "serving"),
        ("sort@2", "rejected"),
    ]
    assert asked("sort@1") == asked("specialist/t-1@1") == [("sort@1", "shadow"), ("sort@1", "serving")]
    assert asked("sort", 110.0) == [("sort@1", "serving"), ("sort@2", "rejected")]
    with pytest.raises(NotFound, match="sort@7"):
        asked("sort@7")
    registry.remove_tasks([TASK.id])
    assert asked()[0] == ("t-1@1", "shadow"), "what is gone keeps its history"
    registry.close()
