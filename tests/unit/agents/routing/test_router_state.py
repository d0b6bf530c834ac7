from __future__ import annotations

from shoal.agents.feedback.governance import MoveVersions
from shoal.agents.registry.lifecycle import Asker, Move
from shoal.agents.registry.records import OutputKind, Task, TaskId, Version, VersionState
from shoal.agents.routing.router_state import (
    EnsureLoaded,
    LoadFailed,
    Publish,
    RegistryRead,
    RouterState,
    WrongVersionServed,
)

TASK = Task(id=TaskId("t"), name="sort", output_kind=OutputKind.LABEL, calls=1)


def version(number: int, state: VersionState) -> Version:
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
        served_at=1.0 if state in (VersionState.SERVING, VersionState.RETIRED) else None,
    )


def read(epoch: int, *versions: Version, task: Task = TASK) -> RegistryRead:
    return RegistryRead(epoch=epoch, tasks=[task], versions=versions)


def state() -> RouterState:
    return RouterState(canary_share=0.1)


def test_the_first_reading_is_published_and_its_performers_are_loaded() -> None:
    router = state()
    publish, ensure = router.handle(read(3, version(1, VersionState.SERVING)))
    assert isinstance(publish, Publish) and publish.snapshot.epoch == 3
    assert isinstance(ensure, EnsureLoaded) and [v.key for v in ensure.versions] == ["t@1"]


def test_an_epoch_that_changes_no_performer_is_published_and_loads_nothing_anew() -> None:
    router = state()
    router.handle(read(3, version(1, VersionState.SERVING)))
    assert [type(c) for c in router.handle(read(4, version(1, VersionState.SERVING)))] == [Publish]


def test_an_older_epoch_is_never_published_after_a_newer_one() -> None:
    router = state()
    router.handle(read(4, version(1, VersionState.SERVING)))
    assert router.handle(read(3, version(1, VersionState.SERVING))) == []


def test_the_version_that_a_rollback_would_bring_back_stays_loaded() -> None:
    commands = state().handle(
        read(
            1,
            version(1, VersionState.RETIRED),
            version(2, VersionState.RETIRED),
            version(3, VersionState.SERVING),
            version(4, VersionState.SHADOW),
            version(5, VersionState.REJECTED),
        )
    )
    ensure = next(c for c in commands if isinstance(c, EnsureLoaded))
    assert [v.key for v in ensure.versions] == ["t@2", "t@3", "t@4"]


def test_nothing_of_an_excluded_task_is_loaded() -> None:
    excluded = Task(id=TASK.id, name="sort", output_kind=OutputKind.LABEL, calls=1, excluded=True)
    commands = state().handle(read(1, version(1, VersionState.SERVING), task=excluded))
    assert next(c for c in commands if isinstance(c, EnsureLoaded)).versions == []


def test_a_version_that_cannot_be_loaded_is_paused_with_the_reason_once() -> None:
    router = state()
    router.handle(read(1, version(1, VersionState.SERVING)))
    assert router.handle(LoadFailed(version_key="t@1", reason="weights were altered")) == [
        MoveVersions(
            moves=(
                Move(
                    version_key="t@1",
                    before=VersionState.SERVING,
                    after=VersionState.PAUSED,
                    reason="weights were altered",
                ),
            ),
            asker=Asker.LOADING,
            epoch=1,
        )
    ]
    router.handle(read(2, version(1, VersionState.PAUSED)))
    assert router.handle(LoadFailed(version_key="t@1", reason="weights were altered")) == []
    assert router.handle(LoadFailed(version_key="gone@1", reason="x")) == []


def test_a_version_for_which_another_one_answers_is_paused_once() -> None:
    router = state()
    router.handle(read(1, version(1, VersionState.RETIRED), version(2, VersionState.CANARY)))
    why = "a replica answers as t@2 from files bbb, not aaa"
    assert router.handle(WrongVersionServed(version_key="t@2", reason=why)) == [
        MoveVersions(
            moves=(
                Move(
                    version_key="t@2",
                    before=VersionState.CANARY,
                    after=VersionState.PAUSED,
                    reason=why,
                ),
            ),
            asker=Asker.LOADING,
            epoch=1,
        )
    ]
    router.handle(read(2, version(2, VersionState.PAUSED)))
    assert router.handle(WrongVersionServed(version_key="t@2", reason=why)) == []
    assert router.handle(WrongVersionServed(version_key="t@9", reason=why)) == []


def test_a_version_that_is_retired_already_stays_so_whoever_answers_for_it() -> None:
    router = state()
    router.handle(read(1, version(1, VersionState.RETIRED)))
    assert router.handle(WrongVersionServed(version_key="t@1", reason="x")) == []


def test_gateways_are_told_the_digest_of_each_version() -> None:
    publish = state().handle(read(1, version(1, VersionState.SERVING)))[0]
    assert isinstance(publish, Publish)
    assert [p.sha256 for route in publish.snapshot.routes for p in route.performers] == ["0" * 64]
