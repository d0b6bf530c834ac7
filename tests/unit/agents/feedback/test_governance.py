"""The owner's word on a version."""

from __future__ import annotations

import pytest

from shoal.agents.feedback.governance import pause_version, promote_version, rollback_task
from shoal.agents.registry.records import OutputKind, Task, TaskId, Version, VersionState
from shoal.agents.registry.store import SqlRegistry
from shoal.errors import Conflict

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
