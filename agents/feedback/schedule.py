"""When to learn, and what: asked for, on a schedule, where a task's traces grew, where its answers were contradicted, where its inputs
drifted, where its contract was broken, where calls that it was learnt from were erased. A pure state machine.

`handle(event) -> [StartLearning]`. Knows neither what learning is nor how long it takes; one run at a time. A run over all tasks finds
the tasks anew, and that is how the router is retrained: it decides by what the tasks look like.
What counts is what came since a task was last learnt: since the start of the last run that included it, or since its newest version
was made where no known run made it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from shoal.agents.feedback.novelty import NovelKind
from shoal.agents.registry.records import Task, TaskId, Version, VersionState
from shoal.agents.tasks.corrections import is_hidden

#: stands for the calls that belong to no task yet
NO_TASK: Final = TaskId("")
#: the reason of a run that somebody asked the site for
ASKED: Final = "asked for"
#: after a run that failed, seconds until learning begins by itself again; doubled with each further failure
_RETRY_S = 600.0
_LONGEST_RETRY_S = 6 * 3600.0
#: versions that answer, or may
_LIVE = (VersionState.SHADOW, VersionState.CANARY, VersionState.SERVING, VersionState.PAUSED)
#: what is erased day by day, as `storage.retention_days` does, has a task learnt again no more often than this
_AFTER_ERASURE_S = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LearningPolicy:
    """What begins a run by itself; None or 0 for never.

    Attributes:
        every_hours: since the last run over all tasks.
        every_traces: calls of a task that may be learnt from, since it was last learnt.
        min_corrections: answers of a task that were contradicted, since it was last learnt.
        novelty_min_calls: calls of one kind that no task covers, half of them since all tasks were last learnt.
    """

    every_hours: float | None = None
    every_traces: int | None = None
    min_corrections: int = 20
    #: learn a task again when calls were erased that a version of it which may answer was trained on
    after_erasure: bool = True
    novelty_min_calls: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TasksRead:
    """The registry's tasks and versions as they are."""

    tasks: Sequence[Task]
    versions: Sequence[Version]


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedbackSeen:
    """Somebody said something of an answer. What is said later of the same trace takes its place.

    Attributes:
        at: when it was said, seconds since the epoch.
        answered_at: when the answer was given.
        number: of the version that gave it; None where it was no specialist's.
        confidence: that version's own.
    """

    trace_id: str
    task_id: TaskId
    contradicts: bool
    at: float
    answered_at: float = 0.0
    number: int | None = None
    confidence: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TracesSeen:
    """Calls that may be learnt from have become readable: task (`NO_TASK` for none) -> when each came in. Each call is seen once."""

    times: Mapping[TaskId, Sequence[float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ErasedSeen:
    """Erased calls that live versions were trained on: version key -> how many. `at`: of the last erasure."""

    known: Mapping[str, int]
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftSeen:
    """What comes in for a task is no longer what its specialist was trained on. `NO_TASK` where work that no task knows recurs.

    Attributes:
        reason: for people; it becomes the run's reason.
        at: seconds since the epoch; what was seen before the task was last learnt counts no more.
    """

    task_id: TaskId
    reason: str
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ContractBroken:
    """A version was taken back, because its answers were wrong more often than its contract allows. Fields as of `DriftSeen`."""

    task_id: TaskId
    version_key: str
    reason: str
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class NovelKindsSeen:
    """The recurring kinds among calls that no task covers, as they are now."""

    kinds: Sequence[NovelKind]


@dataclass(frozen=True, slots=True, kw_only=True)
class LearningAsked:
    """Somebody wants a run. `tasks`: ids; empty for all."""

    tasks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LearningStarted:
    """A run is under way, whoever began it."""

    started_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LearningEnded:
    """A run has ended. `tasks`: ids or names; empty for all."""

    tasks: tuple[str, ...]
    state: Literal["done", "failed", "stopped"]
    started_at: float
    ended_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticked:
    """Time passes: a run may begin only now."""

    now: float


Event: TypeAlias = (
    TasksRead
    | FeedbackSeen
    | TracesSeen
    | ErasedSeen
    | DriftSeen
    | ContractBroken
    | NovelKindsSeen
    | LearningAsked
    | LearningStarted
    | LearningEnded
    | Ticked
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StartLearning:
    """Begin a run. `tasks`: ids; empty for all."""

    tasks: tuple[str, ...]
    reason: str


class Schedule:
    """What has come since each task was last learnt."""

    def __init__(self, policy: LearningPolicy) -> None:
        self._policy = policy
        self._tasks: dict[TaskId, Task] = {}
        self._versions: Sequence[Version] = ()
        #: task -> trace -> when it was contradicted
        self._contradicted: dict[TaskId, dict[str, float]] = {}
        self._times: dict[TaskId, list[float]] = {}
        self._erased = ErasedSeen(known={}, at=0.0)
        #: task -> when its world was last seen to have changed, and how
        self._changed: dict[TaskId, tuple[float, str]] = {}
        self._kinds: Sequence[NovelKind] = ()
        #: spans of all runs that are known, from start to end
        self._runs: list[tuple[float, float]] = []
        #: task -> start of the last run that included it and came to its end
        self._learnt: dict[str, float] = {}
        self._learnt_all: float = 0.0
        #: start of the run that is under way
        self._running: float | None = None
        #: what was asked for and has not begun; empty for all tasks, None for nothing
        self._asked: tuple[str, ...] | None = None
        self._failures = 0
        self._not_before = float("-inf")
        self._first_tick: float | None = None

    def handle(self, event: Event) -> list[StartLearning]:
        if isinstance(event, Ticked):
            return self._tick(event.now)
        if isinstance(event, TasksRead):
            self._tasks = {task.id: task for task in event.tasks if not is_hidden(task)}
            self._versions = event.versions
        elif isinstance(event, FeedbackSeen):
            self._hear(event)
        elif isinstance(event, TracesSeen):
            for task_id, times in event.times.items():
                self._times.setdefault(task_id, []).extend(times)
        elif isinstance(event, ErasedSeen):
            self._erased = event
        elif isinstance(event, DriftSeen | ContractBroken):
            if event.at >= self._changed.get(event.task_id, (event.at, ""))[0]:
                self._changed[event.task_id] = (event.at, event.reason)
        elif isinstance(event, NovelKindsSeen):
            self._kinds = event.kinds
        elif isinstance(event, LearningAsked):
            both = bool(event.tasks) and self._asked != ()
            self._asked = tuple(dict.fromkeys((*(self._asked or ()), *event.tasks))) if both else ()
        elif isinstance(event, LearningStarted):
            self._running = event.started_at
        else:
            self._end(event)
        return []

    def learnt_at(self, task_id: TaskId) -> float:
        """When the task was last learnt, in seconds since the epoch; 0 for never."""
        if task_id == NO_TASK:
            return self._learnt_all
        task = self._tasks.get(task_id)
        by_run = max(self._learnt.get(name, 0.0) for name in (task_id, task.name if task else ""))
        made = [v.created_at for v in self._versions if v.task_id == task_id and not self._in_run(v)]
        return max(by_run, self._learnt_all, *made, 0.0)

    def learnt_before(self) -> float:
        """All tasks were learnt at this time or later: what is older counts for none."""
        return min((self.learnt_at(task_id) for task_id in (*self._tasks, NO_TASK)), default=0.0)

    def contradictions(self) -> dict[TaskId, int]:
        """Answers that were contradicted since each task was last learnt."""
        counts = {}
        for task_id, seen in self._contradicted.items():
            since = self.learnt_at(task_id)
            counts[task_id] = sum(at > since for at in seen.values())
        return {task_id: count for task_id, count in counts.items() if count and task_id in self._tasks}

    def growth(self) -> dict[TaskId, int]:
        """Calls that may be learnt from, since each task was last learnt."""
        for task_id, times in self._times.items():
            since = self.learnt_at(task_id)
            if times and min(times) <= since:
                times[:] = [at for at in times if at > since]
        return {task_id: len(times) for task_id, times in self._times.items() if times}

    def erasures(self) -> dict[TaskId, int]:
        """Erased calls that the newest live version of a task knows, where the task was not learnt since they were erased."""
        newest: dict[TaskId, Version] = {}
        for version in sorted(self._versions, key=lambda v: v.number):
            if version.state in _LIVE and version.task_id in self._tasks:
                newest[version.task_id] = version
        counts = {task_id: self._erased.known.get(v.key, 0) for task_id, v in newest.items()}
        return {t: n for t, n in counts.items() if n and self.learnt_at(t) < self._erased.at}

    def changes(self) -> dict[TaskId, str]:
        """Why each task's world has changed since it was last learnt; only tasks whose world has."""
        self._changed = {
            task_id: (at, reason)
            for task_id, (at, reason) in self._changed.items()
            if at > self.learnt_at(task_id)
        }
        return {task_id: reason for task_id, (_, reason) in self._changed.items()}

    def _in_run(self, version: Version) -> bool:
        spans = list(self._runs)
        if self._running is not None:
            spans.append((self._running, float("inf")))
        return any(start <= version.created_at <= end for start, end in spans)

    def _hear(self, event: FeedbackSeen) -> None:
        seen = self._contradicted.setdefault(event.task_id, {})
        if event.contradicts:
            seen[event.trace_id] = event.at
        else:
            seen.pop(event.trace_id, None)

    def _end(self, event: LearningEnded) -> None:
        self._running = None
        self._runs.append((event.started_at, event.ended_at))
        if event.state == "failed":
            wait_s = min(_RETRY_S * 2**self._failures, _LONGEST_RETRY_S)
            self._failures += 1
            self._not_before = event.ended_at + wait_s
            return
        self._failures = 0
        self._not_before = float("-inf")
        if event.state == "stopped":
            # whoever stopped it wants quiet for a while
            self._not_before = event.ended_at + _RETRY_S
        elif event.tasks:
            for name in event.tasks:
                self._learnt[name] = max(event.started_at, self._learnt.get(name, 0.0))
        else:
            self._learnt_all = max(event.started_at, self._learnt_all)

    def _tick(self, now: float) -> list[StartLearning]:
        if self._first_tick is None:
            self._first_tick = now
        if self._running is not None:
            return []
        command = self._due(now)
        if command is None:
            return []
        self._running = now
        return [command]

    def _due(self, now: float) -> StartLearning | None:
        if self._asked is not None:
            tasks, self._asked = self._asked, None
            return StartLearning(tasks=tasks, reason=ASKED)
        if now < self._not_before:
            return None
        hours = self._policy.every_hours
        begun = now if self._first_tick is None else self._first_tick
        if hours and now - max(self._learnt_all, begun) >= 3600 * hours:
            return StartLearning(tasks=(), reason=f"every {hours:g} hours")
        return self._grown(now)

    def _grown(self, now: float) -> StartLearning | None:
        """Tasks whose world has changed, or of which enough has come, or gone."""
        why: dict[TaskId, str] = {
            task_id: reason for task_id, reason in self.changes().items() if self._is_learnable(task_id)
        }
        if self._policy.after_erasure:
            for task_id, count in self.erasures().items():
                if self._is_learnable(task_id) and now - self.learnt_at(task_id) >= _AFTER_ERASURE_S:
                    why[task_id] = f"{count:,} calls that {self._name(task_id)} was trained on were erased"
        if self._policy.every_traces:
            for task_id, count in self.growth().items():
                if count >= self._policy.every_traces and self._is_learnable(task_id):
                    why.setdefault(task_id, f"{count:,} new calls of {self._name(task_id)}")
        if self._policy.min_corrections:
            for task_id, count in self.contradictions().items():
                if count >= self._policy.min_corrections and self._is_learnable(task_id):
                    why.setdefault(task_id, f"{count:,} answers of {self._name(task_id)} were contradicted")
        if new := self._new_kinds():
            why[NO_TASK] = "; ".join(filter(None, (why.get(NO_TASK), new)))
        if not why:
            return None
        tasks = () if NO_TASK in why else tuple(why)
        return StartLearning(tasks=tasks, reason="; ".join(why.values()))

    def _new_kinds(self) -> str:
        """The kinds of unknown work that a run is due for, in words; empty where there is none.

        What learning has seen already and made no task of must have grown as much again before it is tried anew.
        """
        least = self._policy.novelty_min_calls
        since = self.learnt_at(NO_TASK)
        due = [
            f"{kind.calls:,} calls of a new kind, {kind.name}"
            for kind in self._kinds
            if least and kind.calls >= least and 2 * sum(at > since for at in kind.times) >= kind.calls
        ]
        return "; ".join(due)

    def _is_learnable(self, task_id: TaskId) -> bool:
        return task_id == NO_TASK or (task_id in self._tasks and not self._tasks[task_id].excluded)

    def _name(self, task_id: TaskId) -> str:
        return self._tasks[task_id].name if task_id in self._tasks else "no known task"
