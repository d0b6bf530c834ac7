"""The feedback actor's decisions: which versions move, and when to learn. A pure state machine.

`handle(event) -> [commands]`; the shell (`feedback_loop.py`) reads the registry and the traces, carries commands out and feeds outcomes
back. Three machines: the watches over what comes in (`watching.py`), the roll-out (`rollout.py`), which hears from them what users said,
and the schedule (`schedule.py`), which hears of drift and of broken contracts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from shoal.agents.feedback import schedule, watching
from shoal.agents.feedback.governance import MoveVersions
from shoal.agents.feedback.rollout import (
    BROKEN,
    Compared,
    CountComparison,
    Policy,
    Rollout,
    Tally,
    VersionsRead,
)
from shoal.agents.feedback.schedule import (
    ContractBroken,
    DriftSeen,
    LearningPolicy,
    Schedule,
    StartLearning,
    TasksRead,
)
from shoal.agents.feedback.watching import (
    ContradictionsRead,
    InputsSeen,
    KeepWatch,
    ReportDrift,
    Watch,
    WatchesRead,
    Watching,
    WeighSaid,
)
from shoal.agents.registry.records import Task, TaskId, Version


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryRead:
    """The registry as it is.

    Attributes:
        epoch: from before it was read.
        tallies: version key -> stage -> counts, of live versions.
        watches: version key -> what comes in for it, of live versions.
        contradicted: version key -> when the answers were given that somebody contradicted.
        broken: contracts that were broken: version key -> why, and when (seconds since the epoch).
    """

    epoch: int
    tasks: Sequence[Task]
    versions: Sequence[Version]
    tallies: Mapping[str, Mapping[str, Tally]] = field(default_factory=dict)
    watches: Mapping[str, Watch] = field(default_factory=dict)
    contradicted: Mapping[str, Sequence[float]] = field(default_factory=dict)
    broken: Mapping[str, tuple[str, float]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonSeen:
    """A version and the generalist both answered a call; see `ComparisonMade` in `serve/ports.py` for the fields."""

    version_key: str
    judged: bool
    agrees: bool
    accepted: bool


Event: TypeAlias = RegistryRead | ComparisonSeen | InputsSeen | ContradictionsRead | schedule.Event
Command: TypeAlias = CountComparison | MoveVersions | StartLearning | KeepWatch | ReportDrift


class FeedbackState:
    """What the feedback actor knows."""

    def __init__(self, policy: Policy, learning: LearningPolicy) -> None:
        self._rollout = Rollout(policy)
        self._watching = Watching()
        self._names: Mapping[TaskId, str] = {}
        self.schedule = Schedule(learning)

    def handle(self, event: Event) -> list[Command]:
        if isinstance(event, RegistryRead):
            return self._read(event)
        if isinstance(event, InputsSeen | ContradictionsRead):
            return self._watched(self._watching.handle(event))
        if isinstance(event, ComparisonSeen):
            if not (event.judged and event.accepted):
                return []  # nothing can be said of it, or no client would ever have got it
            return [*self._rollout.handle(Compared(version_key=event.version_key, agrees=event.agrees))]
        return [*self.schedule.handle(event)]

    def _read(self, event: RegistryRead) -> list[Command]:
        self.schedule.handle(TasksRead(tasks=event.tasks, versions=event.versions))
        self._names = {task.id: task.name for task in event.tasks}
        for key, (why, at) in event.broken.items():
            reason = f"contract of {self._called(key)} broken: {why.removeprefix(BROKEN)}"
            self.schedule.handle(ContractBroken(task_id=_task_of(key), version_key=key, reason=reason, at=at))
        moves = self._rollout.handle(
            VersionsRead(epoch=event.epoch, versions=event.versions, tallies=event.tallies)
        )
        watches = WatchesRead(versions=event.versions, watches=event.watches, contradicted=event.contradicted)
        return [*moves, *self._watched(self._watching.handle(watches))]

    def _watched(self, commands: Sequence[watching.Command]) -> list[Command]:
        """What the watches say, to whom it is of use."""
        out: list[Command] = []
        for command in commands:
            if isinstance(command, WeighSaid):
                out += self._rollout.handle(command)
                continue
            out.append(command)
            if isinstance(command, ReportDrift):
                reason = f"{self._called(command.version_key)}: {command.reason}"
                self.schedule.handle(DriftSeen(task_id=command.task_id, reason=reason, at=command.at))
        return out

    def _called(self, key: str) -> str:
        """A version as people know it."""
        task_id = _task_of(key)
        return f"{self._names.get(task_id, task_id)}@{key.rpartition('@')[2]}"


def _task_of(key: str) -> TaskId:
    return TaskId(key.rpartition("@")[0])
