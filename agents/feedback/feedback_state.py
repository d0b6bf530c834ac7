"""The feedback actor's decisions: which versions move, and when to learn. A pure state machine.

`handle(event) -> [commands]`; the shell (`feedback_loop.py`) reads the registry and the traces, carries commands out and feeds outcomes
back. Two machines that share nothing but the registry's readings: the roll-out (`rollout.py`) and the schedule (`schedule.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from shoal.agents.feedback import schedule
from shoal.agents.feedback.governance import MoveVersions
from shoal.agents.feedback.rollout import (
    Compared,
    CountComparison,
    Policy,
    Rollout,
    Tally,
    VersionsRead,
)
from shoal.agents.feedback.schedule import LearningPolicy, Schedule, StartLearning, TasksRead
from shoal.agents.registry.records import Task, Version


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryRead:
    """The registry as it is. `epoch`: from before it was read. `tallies`: version key -> stage -> counts, of live versions."""

    epoch: int
    tasks: Sequence[Task]
    versions: Sequence[Version]
    tallies: Mapping[str, Mapping[str, Tally]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonSeen:
    """A version and the generalist both answered a call; see `ComparisonMade` in `serve/ports.py` for the fields."""

    version_key: str
    judged: bool
    agrees: bool
    accepted: bool


Event: TypeAlias = RegistryRead | ComparisonSeen | schedule.Event
Command: TypeAlias = CountComparison | MoveVersions | StartLearning


class FeedbackState:
    """What the feedback actor knows."""

    def __init__(self, policy: Policy, learning: LearningPolicy) -> None:
        self._rollout = Rollout(policy)
        self.schedule = Schedule(learning)

    def handle(self, event: Event) -> list[Command]:
        if isinstance(event, RegistryRead):
            self.schedule.handle(TasksRead(tasks=event.tasks, versions=event.versions))
            read = VersionsRead(epoch=event.epoch, versions=event.versions, tallies=event.tallies)
            return [*self._rollout.handle(read)]
        if isinstance(event, ComparisonSeen):
            if not (event.judged and event.accepted):
                return []  # nothing can be said of it, or no client would ever have got it
            return [*self._rollout.handle(Compared(version_key=event.version_key, agrees=event.agrees))]
        return [*self.schedule.handle(event)]
