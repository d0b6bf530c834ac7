"""The router actor's decisions: what gateways are told, and what is loaded. A pure state machine.

`handle(event) -> [commands]`; the shell (`router_loop.py`) reads the registry, carries commands out and feeds outcomes back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from shoal.agents.feedback.governance import (
    Governance,
    LoadingFailed,
    MoveVersions,
    VersionsRead,
    last_good_before,
)
from shoal.agents.registry.records import Task, Version, VersionState
from shoal.agents.routing.snapshot import LIVE_STATES, Snapshot, build_snapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryRead:
    """The registry as it is."""

    epoch: int
    tasks: Sequence[Task]
    versions: Sequence[Version]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadFailed:
    """A version cannot be loaded as it is; trying again is no use."""

    version_key: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WrongVersionServed:
    """A replica answered for a version as another one, or from other files. No client got that answer."""

    version_key: str
    reason: str


Event: TypeAlias = RegistryRead | LoadFailed | WrongVersionServed


@dataclass(frozen=True, slots=True, kw_only=True)
class Publish:
    """Tell every gateway."""

    snapshot: Snapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class EnsureLoaded:
    """Make exactly these versions loaded."""

    versions: Sequence[Version]


Command: TypeAlias = Publish | EnsureLoaded | MoveVersions


class RouterState:
    """What the router actor knows."""

    def __init__(self, *, canary_share: float) -> None:
        self._canary_share = canary_share
        self.snapshot: Snapshot | None = None
        #: keys of the versions that were last asked to be loaded; None before the first time
        self._ensured: tuple[str, ...] | None = None
        self._governance = Governance()

    def handle(self, event: Event) -> list[Command]:
        if isinstance(event, RegistryRead):
            return self._read(event)
        if isinstance(event, WrongVersionServed):
            version = self._governance.standing(event.version_key)
            if version is None or version.state not in LIVE_STATES:
                return []  # it is on its way out already
        return [*self._governance.handle(LoadingFailed(version_key=event.version_key, reason=event.reason))]

    def _read(self, event: RegistryRead) -> list[Command]:
        commands: list[Command] = []
        self._governance.handle(VersionsRead(epoch=event.epoch, versions=event.versions))
        snapshot = build_snapshot(
            epoch=event.epoch,
            tasks=event.tasks,
            versions=event.versions,
            canary_share=self._canary_share,
        )
        if self.snapshot is None or snapshot.epoch > self.snapshot.epoch:
            self.snapshot = snapshot
            commands.append(Publish(snapshot=snapshot))
        wanted = versions_to_load(snapshot, event.versions)
        keys = tuple(v.key for v in wanted)
        if keys != self._ensured:
            self._ensured = keys
            commands.append(EnsureLoaded(versions=wanted))
        return commands


def versions_to_load(snapshot: Snapshot, versions: Sequence[Version]) -> list[Version]:
    """Every performer, and for each task with a serving one the version that a rollback would bring back: it stays warm."""
    by_key = {v.key: v for v in versions}
    wanted: dict[str, Version] = {}
    for route in snapshot.routes:
        for performer in route.performers:
            wanted[performer.key] = by_key[performer.key]
            if performer.state is not VersionState.SERVING:
                continue
            last_good = last_good_before(by_key[performer.key], versions)
            if last_good is not None:
                wanted[last_good.key] = last_good
    return [wanted[key] for key in sorted(wanted)]
