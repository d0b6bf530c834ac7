from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from shoal.agents.fakes import FakeClock
from shoal.agents.registry.records import OutputKind, Task, TaskId, Version, VersionState
from shoal.agents.registry.store import SqlRegistry
from shoal.agents.routing.router_loop import RouterLoop, Update
from shoal.errors import SiteError

TASK = Task(id=TaskId("t"), name="sort", output_kind=OutputKind.LABEL, calls=1)


class ListDeployer:
    """Loads at once what it is told to, but for what is corrupt."""

    def __init__(self) -> None:
        self.told: list[list[str]] = []
        self.corrupt: dict[str, str] = {}
        self.error: Exception | None = None

    async def ensure(self, versions: Sequence[Version]) -> None:
        if self.error is not None:
            raise self.error
        self.told.append([v.key for v in versions])

    def addresses(self) -> Mapping[str, str]:
        return {key: "host" for key in self.told[-1]} if self.told else {}

    def places(self) -> Mapping[str, Mapping[str, str]]:
        return {"host": {"node": "head", "tier": "local"}}

    async def loaded(self) -> frozenset[str]:
        return frozenset(self.addresses()) - frozenset(self.corrupt)

    async def failures(self) -> Mapping[str, str]:
        return self.corrupt


class Site:
    def __init__(self, folder: Path) -> None:
        self.registry = SqlRegistry(folder / "shoal.db")
        self.deployer = ListDeployer()
        self.updates: list[Update] = []
        self.loop = RouterLoop(
            registry=self.registry,
            deployer=self.deployer,
            canary_share=0.1,
            clock=FakeClock(),
            on_update=self.updates.append,
        )

    def add(self, number: int, state: VersionState) -> None:
        self.registry.add_version(
            Version(
                task_id=TASK.id,
                number=number,
                kind="classifier",
                state=state,
                folder=f"t/{number}",
                sha256="0" * 64,
                threshold=0.5,
                alpha=0.05,
                delta=0.05,
            )
        )

    def states(self) -> list[VersionState]:
        return [v.state for v in self.registry.versions()]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    made = Site(tmp_path)
    made.registry.put_tasks([TASK])
    return made


def test_a_change_by_another_process_is_published_on_the_next_tick(site: Site) -> None:
    site.loop.tick()
    site.add(1, VersionState.SERVING)
    site.loop.tick()
    performers = site.updates[-1].snapshot["routes"][0]["performers"]
    assert [p["key"] for p in performers] == ["t@1"]


def test_a_tick_without_a_change_tells_nobody(site: Site) -> None:
    site.loop.tick()
    told = len(site.updates)
    site.loop.tick()
    assert len(site.updates) == told


async def test_gateways_are_told_where_a_version_is_asked_once_it_is_deployed(site: Site) -> None:
    site.add(1, VersionState.SERVING)
    site.loop.tick()
    assert site.updates[-1].where == {}
    await site.loop.deploy_once()
    assert site.updates[-1].where == {"t@1": "host"}
    assert len({u.token for u in site.updates}) == len(site.updates)
    assert site.loop.standing.loaded == ["t@1"]


async def test_the_deployer_is_told_again_only_when_what_is_wanted_changes(site: Site) -> None:
    site.add(1, VersionState.SHADOW)
    site.loop.tick()
    await site.loop.deploy_once()
    await site.loop.deploy_once()
    site.registry.set_state("t@1", VersionState.SERVING, reason="promoted")
    site.loop.tick()
    await site.loop.deploy_once()
    assert site.deployer.told == [["t@1"]]


async def test_a_corrupt_version_is_paused_in_the_registry_with_its_reason_and_others_stay(
    site: Site,
) -> None:
    site.add(1, VersionState.SERVING)
    site.add(2, VersionState.SHADOW)
    site.deployer.corrupt = {"t@2": "card.json was altered"}
    site.loop.tick()
    await site.loop.deploy_once()
    site.loop.tick()
    assert site.states() == [VersionState.SERVING, VersionState.PAUSED]
    assert site.registry.versions()[1].reason == "card.json was altered"
    assert site.loop.standing.failed == {"t@2": "card.json was altered"}


def test_a_registry_that_does_not_answer_leaves_the_last_snapshot_and_says_so(site: Site) -> None:
    class Broken:
        def __getattr__(self, name: str) -> object:
            raise SiteError("The database is locked.")

    site.loop.tick()
    before = site.loop.update
    loop = site.loop
    loop._registry = Broken()  # type: ignore[assignment]
    loop.tick()
    assert loop.update is before
    assert "locked" in loop.standing.trouble


async def test_a_deployment_that_fails_is_tried_again(site: Site) -> None:
    site.add(1, VersionState.SERVING)
    site.loop.tick()
    site.deployer.error = RuntimeError("no controller")
    with pytest.raises(RuntimeError):
        await site.loop.deploy_once()
    site.deployer.error = None
    site.loop.want_again()
    await site.loop.deploy_once()
    assert site.deployer.told == [["t@1"]]
