"""The router actor's decisions: what gateways are told, and what is loaded. A pure state machine.

`handle(event) -> [commands]`; the shell (`router_loop.py`) reads the registry, carries commands out and feeds outcomes back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from shoal.agents.feedback.rollout import MoveVersion
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


Command: TypeAlias = Publish | EnsureLoaded | MoveVersion


class RouterState:
    """What the router actor knows."""

    def __init__(self, *, canary_share: float) -> None:
        self._canary_share = canary_share
        self.snapshot: Snapshot | None = None
        #: keys of the versions that were last asked to be loaded; None before the first time
        self._ensured: tuple[str, ...] | None = None
        self._versions: dict[str, Version] = {}

    def handle(self, event: Event) -> list[Command]:
        if isinstance(event, RegistryRead):
            return self._read(event)
        version = self._versions.get(event.version_key)
        if version is None or version.state is VersionState.PAUSED:
            return []
        if isinstance(event, WrongVersionServed) and version.state not in LIVE_STATES:
            return []  # it is on its way out already
        return [MoveVersion(version_key=event.version_key, state=VersionState.PAUSED, reason=event.reason)]

    def _read(self, event: RegistryRead) -> list[Command]:
        commands: list[Command] = []
        self._versions = {v.key: v for v in event.versions}
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
            earlier = [
                v
                for v in versions
                if v.task_id == route.task_id
                and v.state is VersionState.RETIRED
                and v.number < performer.number
            ]
            if earlier:
                last_good = max(earlier, key=lambda v: v.number)
                wanted[last_good.key] = last_good
    return [wanted[key] for key in sorted(wanted)]
