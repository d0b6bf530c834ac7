"""Looks up what feedback and new calls are about: the trace, its task, whether its answer is contradicted, whether a task covers it at all.

Owns how far it has read. Feedback may come before its trace is readable, so what is not found yet is looked for again for a while.
Knows nothing of what follows.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, Protocol

from shoal.agents.feedback.lessons import contradicts
from shoal.agents.feedback.novelty import MOST_CALLS, NovelCall, NoveltyPool, PoolStore, novel_call
from shoal.agents.feedback.schedule import NO_TASK, Event, FeedbackSeen, NovelKindsSeen, TracesSeen
from shoal.agents.learning.learning_log import is_others_answer
from shoal.agents.ports import Clock
from shoal.agents.registry.records import Task, TaskId
from shoal.agents.tasks.matcher import Match, Matcher, Novelty
from shoal.agents.traces.trace import Trace

#: a trace that has not become readable in so long is not there
_GIVE_UP_S = 3600.0
#: calls become readable a little out of order
_OVERLAP_S = 300.0
#: how often new calls are counted
_COUNT_EVERY_S = 20.0


class FeedbackTraces(Protocol):
    """Readable traces, as far as feedback needs them."""

    def pick(self, ids: Collection[str]) -> list[Trace]:
        """The traces of these ids that are there."""
        ...

    def scan(self, *, since: float) -> Iterator[Trace]:
        """Those that came in at `since` or later, oldest first."""
        ...

    def count(self) -> int: ...


class FeedbackReader:
    """Used by one thread.

    Args:
        traces: opens the store, when it is needed first.
        observe: takes what is found.
        counts: whether new calls are counted.
        pool: takes in calls that no task covers; None for no pool.
        min_novel: calls of one kind that make a recurring kind of unknown work.
    """

    def __init__(
        self,
        traces: Callable[[], FeedbackTraces],
        *,
        clock: Clock,
        observe: Callable[[Event], object],
        counts: bool,
        pool: PoolStore | None = None,
        min_novel: int = 0,
    ) -> None:
        self._open = traces
        self._opened: FeedbackTraces | None = None
        self._clock = clock
        self._observe = observe
        self._counts = counts
        #: set by the deciding thread: the registry's tasks, and a time before which nothing counts
        self.tasks: Sequence[Task] = ()
        self.learnt_before = 0.0
        #: of the newest feedback that was read
        self.sequence = 0
        #: feedback whose trace was not found, by sequence
        self._missing: dict[int, Mapping[str, Any]] = {}
        self.unknown = 0
        self._matched: tuple[Sequence[Task], Matcher] | None = None
        self._counted_at = float("-inf")
        self._counted = -1
        self._until = float("-inf")
        #: ids of the calls that came in within the overlap
        self._recent: dict[str, float] = {}
        self.pool = None if pool is None else NoveltyPool(pool, pick=self._pick, min_calls=min_novel)
        #: the tasks with which the pool was last looked through
        self._pooled_with: Sequence[Task] | None = None

    def read(self, feedback: Sequence[Mapping[str, Any]]) -> None:
        """Take what came since `sequence`, and look for what is missing."""
        for said in feedback:
            self.sequence = max(self.sequence, int(said["sequence"]))
            if said["at"] > self.learnt_before and (said["correction"] or said["score"] is not None):
                self._missing[int(said["sequence"])] = said
        if self._missing:
            self._look_up()
        # before there are tasks all work is unknown, and the owner has not learnt yet
        pools = self.pool is not None and bool(self.tasks)
        if (self._counts or pools) and self._clock.monotonic() - self._counted_at >= _COUNT_EVERY_S:
            self._counted_at = self._clock.monotonic()
            self._count(pools)

    @property
    def _traces(self) -> FeedbackTraces:
        if self._opened is None:
            self._opened = self._open()
        return self._opened

    def _pick(self, ids: Collection[str]) -> list[Trace]:
        return self._traces.pick(ids)

    def _match(self, trace: Trace) -> Match:
        if self._matched is None or self._matched[0] is not self.tasks:
            self._matched = (self.tasks, Matcher([(task.id, task) for task in self.tasks], by_words=True))
        return self._matched[1].match(trace.chat)

    def _name_of(self, task_id: TaskId) -> str:
        return next((task.name for task in self.tasks if task.id == task_id), "")

    def _task_of(self, trace: Trace) -> TaskId:
        return _covered_by(self._match(trace))

    def _look_up(self) -> None:
        found = {
            str(trace.id): trace
            for trace in self._traces.pick({str(said["trace_id"]) for said in self._missing.values()})
        }
        for sequence, said in list(self._missing.items()):
            trace = found.get(said["trace_id"])
            if trace is not None:
                del self._missing[sequence]
                task_id = self._task_of(trace)
                if task_id != NO_TASK:
                    self._observe(
                        FeedbackSeen(
                            trace_id=str(trace.id),
                            task_id=task_id,
                            contradicts=contradicts(trace, said),
                            at=float(said["at"]),
                            answered_at=trace.timestamp,
                            number=_number_of(trace, self._name_of(task_id)),
                            confidence=float(trace.tags.get("confidence") or 0.0),
                        )
                    )
            elif self._clock.now() - said["at"] > _GIVE_UP_S:
                del self._missing[sequence]
                self.unknown += 1

    def _count(self, pools: bool) -> None:
        """Count the calls that came, and pool those that no task covers."""
        count = self._traces.count()
        if count != self._counted:
            novel = self._count_new()
            self._counted = count
            if self.pool is not None and pools:
                self.pool.take(novel)
        if self.pool is not None and pools:
            changed = self._pooled_with is not self.tasks
            self._pooled_with = self.tasks
            if self.pool.look(self._match, tasks_changed=changed):
                self._observe(NovelKindsSeen(kinds=tuple(self.pool.kinds)))

    def _count_new(self) -> Sequence[NovelCall]:
        """Count what came; returns the newest of it that is novel, oldest first."""
        times: dict[TaskId, list[float]] = {}
        novel: deque[NovelCall] = deque(maxlen=MOST_CALLS)
        if self._counted < 0 and not self._counts and self.pool is not None:
            # what came before was looked at by an earlier process
            self._until = self.pool.newest()
        since = max(self.learnt_before, self._until - _OVERLAP_S)
        for trace in self._traces.scan(since=since):
            if trace.id in self._recent:
                continue
            self._recent[trace.id] = trace.timestamp
            self._until = max(self._until, trace.timestamp)
            if is_others_answer(trace):
                match = self._match(trace)
                if self._counts:
                    times.setdefault(_covered_by(match), []).append(trace.timestamp)
                if call := novel_call(trace, match):
                    novel.append(call)
        self._recent = {i: at for i, at in self._recent.items() if at >= self._until - _OVERLAP_S}
        if times:
            self._observe(TracesSeen(times=times))
        return novel


def _covered_by(match: Match) -> TaskId:
    """The task as learning sees it, which takes no call by its words alone."""
    by_words = match.novelty is Novelty.SYSTEM_PROMPT
    return NO_TASK if match.task_id is None or by_words else match.task_id


def _number_of(trace: Trace, task_name: str) -> int | None:
    """Of the task's version that answered, as in `specialist/<task>@<number>`; None where the client named the specialist."""
    who, _, number = trace.served_by.rpartition("@")
    named = trace.chat.model.startswith("specialist/")
    return int(number) if who == f"specialist/{task_name}" and not named and number.isdecimal() else None
