"""Who moves a version, and where to: the owner, evidence, a broken contract, a version that cannot be loaded. A pure state machine.

`handle(event) -> [MoveVersions]`: one command is one change, so that a version which takes another's place and the one that leaves it
move together. It decides on the registry as it was last read (`VersionsRead`); its moves are carried out only if the registry is still
at that epoch. `agents/registry/lifecycle.py` is the table of what may be asked for at all; `rollout.py` weighs the evidence.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from shoal.agents.ports import Registry
from shoal.agents.registry.lifecycle import TRANSITIONS, Asker, Move, check_move
from shoal.agents.registry.records import Task, TaskId, Version, VersionState
from shoal.errors import Conflict, NotFound, StaleDecision

log = logging.getLogger("shoal.governance")

#: a version in one of these is asked
LIVE_STATES: Final = (VersionState.SHADOW, VersionState.CANARY, VersionState.SERVING)
#: so often is decided anew where others change the registry at the same time
_MOST_TRIES: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionsRead:
    """The registry was read: all versions, and the epoch from before they were read."""

    epoch: int
    versions: Sequence[Version]


@dataclass(frozen=True, slots=True, kw_only=True)
class ContractShown:
    """Comparisons show that a version keeps its contract."""

    version_key: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ContractRefuted:
    """Comparisons show that a version does not keep its contract."""

    version_key: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadingFailed:
    """A version cannot be loaded as it is; trying again is no use."""

    version_key: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PromotionAsked:
    """The owner wants a version to serve."""

    version_key: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PauseAsked:
    """The owner wants a version not to be asked."""

    version_key: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RollbackAsked:
    """The owner wants a task's newest version that answers to be taken back."""

    task_id: TaskId
    reason: str


Event: TypeAlias = (
    VersionsRead
    | ContractShown
    | ContractRefuted
    | LoadingFailed
    | PromotionAsked
    | PauseAsked
    | RollbackAsked
)


@dataclass(frozen=True, slots=True, kw_only=True)
class MoveVersions:
    """Move versions in one change, if the registry is still at `epoch`."""

    moves: tuple[Move, ...]
    asker: Asker
    epoch: int


class Governance:
    """All versions as they were last read. What was moved is not moved again before they are read anew."""

    def __init__(self) -> None:
        self._epoch = -1
        self._versions: dict[str, Version] = {}
        #: moved since they were read
        self._moved: set[str] = set()

    def handle(self, event: Event) -> list[MoveVersions]:
        """Raises Conflict where the owner asks for what may not be; NotFound for a version that is not there."""
        if isinstance(event, VersionsRead):
            self._epoch = event.epoch
            self._versions = {v.key: v for v in event.versions}
            self._moved = set()
            return []
        if isinstance(event, ContractShown):
            return self._advance(event)
        if isinstance(event, ContractRefuted):
            return self._take_back(event.version_key, event.reason, Asker.AUDIT)
        if isinstance(event, LoadingFailed):
            return self._take_back(event.version_key, event.reason, Asker.LOADING)
        if isinstance(event, PromotionAsked):
            return self._promote(event)
        if isinstance(event, PauseAsked):
            return self._pause(event)
        return self._roll_back(event)

    def standing(self, key: str) -> Version | None:
        """A version that may be moved; None where there is none, or it was moved since the registry was read."""
        return None if key in self._moved else self._versions.get(key)

    # -- what each event leads to

    def _advance(self, event: ContractShown) -> list[MoveVersions]:
        version = self.standing(event.version_key)
        if version is None:
            return []
        if version.state is VersionState.SHADOW:
            return self._command(Asker.EVIDENCE, [(version, VersionState.CANARY, event.reason)])
        if version.state is not VersionState.CANARY:
            return []
        steps = [(version, VersionState.SERVING, event.reason), *self._replaced(version)]
        return self._command(Asker.EVIDENCE, steps)

    def _take_back(self, key: str, reason: str, asker: Asker) -> list[MoveVersions]:
        version = self.standing(key)
        if version is None or (version.state, VersionState.PAUSED) not in TRANSITIONS:
            return []  # it was taken back meanwhile
        if asker not in TRANSITIONS[version.state, VersionState.PAUSED]:
            return []
        steps = [(version, VersionState.PAUSED, reason)]
        if version.state is VersionState.SERVING:
            steps += self._restored(version, f"{version.key} was taken back: last good version")
        return self._command(asker, steps)

    def _promote(self, event: PromotionAsked) -> list[MoveVersions]:
        version = self._find(event.version_key)
        if version.state is VersionState.REJECTED:
            raise Conflict(
                f"{version.key} cannot be promoted: {version.reason}.",
                remedy="Learn again when there are more calls, or relax the contract in shoal.yaml.",
            )
        if version.state is VersionState.SERVING:
            raise Conflict(f"{version.key} serves already.", remedy="shoal specialists ls")
        steps = [(version, VersionState.SERVING, event.reason), *self._replaced(version)]
        return self._command(Asker.OWNER, steps)

    def _pause(self, event: PauseAsked) -> list[MoveVersions]:
        version = self._find(event.version_key)
        if version.state not in LIVE_STATES:
            raise Conflict(
                f"{version.key} is {version.state}, so there is nothing to pause.",
                remedy="shoal specialists ls",
            )
        return self._command(Asker.OWNER, [(version, VersionState.PAUSED, event.reason)])

    def _roll_back(self, event: RollbackAsked) -> list[MoveVersions]:
        canaries = self._of(event.task_id, VersionState.CANARY)
        if canaries:
            return self._command(Asker.OWNER, [(v, VersionState.PAUSED, event.reason) for v in canaries])
        serving = self._of(event.task_id, VersionState.SERVING)
        if not serving:
            raise Conflict(
                f"No version of {event.task_id} answers calls, so there is nothing to roll back.",
                remedy="shoal specialists ls",
            )
        steps = [(v, VersionState.PAUSED, event.reason) for v in serving]
        steps += self._restored(serving[-1], f"{event.reason}: last good version")
        return self._command(Asker.OWNER, steps)

    # -- parts of a change

    def _replaced(self, by: Version) -> list[tuple[Version, VersionState, str]]:
        """Whoever answers the task's calls leaves."""
        others = [
            v
            for state in (VersionState.SERVING, VersionState.CANARY)
            for v in self._of(by.task_id, state)
            if v.key != by.key
        ]
        return [(v, VersionState.RETIRED, f"replaced by {by.key}") for v in others]

    def _restored(self, after: Version, reason: str) -> list[tuple[Version, VersionState, str]]:
        """The newest one that served before it serves again, if there is one."""
        last_good = last_good_before(after, self._versions.values())
        return [] if last_good is None else [(last_good, VersionState.SERVING, reason)]

    def _of(self, task_id: TaskId, state: VersionState) -> list[Version]:
        return [v for v in self._versions.values() if v.task_id == task_id and v.state is state]

    def _find(self, key: str) -> Version:
        if key not in self._versions:
            raise NotFound(f"There is no version {key!r}.", remedy="shoal specialists ls")
        return self._versions[key]

    def _command(
        self, asker: Asker, steps: Sequence[tuple[Version, VersionState, str]]
    ) -> list[MoveVersions]:
        moves = []
        for version, after, reason in steps:
            check_move(version.key, version.state, after, asker)
            moves.append(Move(version_key=version.key, before=version.state, after=after, reason=reason))
        self._moved |= {move.version_key for move in moves}
        return [MoveVersions(moves=tuple(moves), asker=asker, epoch=self._epoch)]


def last_good_before(version: Version, versions: Iterable[Version]) -> Version | None:
    """The newest earlier version of the task that has served and was replaced; it is what a rollback brings back."""
    earlier = [
        v
        for v in versions
        if v.task_id == version.task_id
        and v.state is VersionState.RETIRED
        and v.served_at is not None
        and v.number < version.number
    ]
    return max(earlier, key=lambda v: v.number, default=None)


def carry_out(registry: Registry, command: MoveVersions) -> None:
    """Raises StaleDecision where the registry has changed since: read it, and hand in the event again."""
    registry.move(command.moves, asker=command.asker, epoch=command.epoch)
    for move in command.moves:
        log.info(
            "%s: %s -> %s (%s): %s", move.version_key, move.before, move.after, command.asker, move.reason
        )


def read_versions(registry: Registry) -> VersionsRead:
    """Epoch first: what changes between the two readings makes the decision stale, never wrong."""
    epoch = registry.epoch()
    return VersionsRead(epoch=epoch, versions=registry.versions())


def promote_version(registry: Registry, version: Version, *, reason: str = "promoted by the owner") -> None:
    """Let a version serve, from shadow too: that is the owner's word. What answers the task's calls before retires.

    Raises:
        Conflict: its gate rejected the version, or it serves already.
    """
    _ask(registry, PromotionAsked(version_key=version.key, reason=reason))


def pause_version(registry: Registry, version: Version, *, reason: str = "paused by the owner") -> None:
    """Stop asking a version. Raises Conflict where it is not asked now."""
    _ask(registry, PauseAsked(version_key=version.key, reason=reason))


def rollback_task(
    registry: Registry, task: Task, *, reason: str = "rolled back by the owner"
) -> Version | None:
    """Take back the newest version that answers calls: a canary, else the serving one, whose predecessor serves again.

    Returns:
        the version that serves now, or None where the generalist answers.

    Raises:
        Conflict: no version of the task answers calls now.
    """
    _ask(registry, RollbackAsked(task_id=task.id, reason=reason))
    serving = [v for v in registry.versions(task.id) if v.state is VersionState.SERVING]
    return serving[-1] if serving else None


def _ask(registry: Registry, event: Event) -> None:
    """Decide on the registry as it is and carry it out; anew where somebody else has changed it meanwhile."""
    for left in reversed(range(_MOST_TRIES)):
        machine = Governance()
        machine.handle(read_versions(registry))
        try:
            for command in machine.handle(event):
                carry_out(registry, command)
            return
        except StaleDecision:
            if not left:
                raise
