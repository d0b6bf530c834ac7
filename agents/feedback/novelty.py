"""Unknown work: calls that no task covers, and the kinds of them that recur.

A call is novel where it is of no known task, where only its words say of which (its prompt is new), or where it has something
that its task's calls never had: no evidence covers it, and the generalist answered it. So are calls of unseen work inside a
known domain: their prompt fits a task's template but is new, and the specialist was not sure. The pool refers to readable
traces by id and holds nothing of them; what is erased there is gone here. Kinds are found as tasks are (`tasks/finder.py`),
among the pool's calls alone. Pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

from shoal.agents.registry.records import TaskId
from shoal.agents.tasks.finder import find_tasks
from shoal.agents.tasks.matcher import Match, Novelty
from shoal.agents.traces.trace import Trace

#: calls that the pool holds; the oldest leave
MOST_CALLS: Final = 5000
_SPECIALIST = "specialist/"
#: the pool is looked through for kinds when such a share of a kind's calls is new
_LOOK_SHARE = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class NovelCall:
    """One call in the pool.

    Attributes:
        at: when it came in, seconds since the epoch.
        why: what is new about it; see `Novelty`.
        near: the task that it is most like; empty for none.
        kind: name of the recurring kind that it is of; empty where it is of none.
    """

    trace_id: str
    at: float
    why: str
    near: str = ""
    kind: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NovelKind:
    """Calls in the pool that are the same job.

    Attributes:
        times: when each came in.
        example: id of one of their traces.
        near: the task that most of them are most like; empty for none.
    """

    name: str
    times: tuple[float, ...]
    example: str
    near: str = ""

    @property
    def calls(self) -> int:
        return len(self.times)


class PoolStore(Protocol):
    """Keeps the pool. Implemented by `SqlNovelty`."""

    def add(self, calls: Sequence[NovelCall], *, most: int) -> None:
        """Take calls in; of those beyond `most` the oldest leave. One that is there already is replaced."""
        ...

    def remove(self, trace_ids: Collection[str]) -> None: ...

    def all(self) -> list[NovelCall]:
        """Oldest first."""
        ...


def novel_call(trace: Trace, match: Match) -> NovelCall | None:
    """The call as the pool keeps it; None where a task covers it, or where it is no use to learn from."""
    if trace.served_by.startswith(_SPECIALIST) or trace.tags.get("incomplete"):
        return None
    unsure = match.how == "template" and trace.tags.get("fallback") == "unsure"
    why = match.novelty or (Novelty.PROMPT if unsure else None)
    if why is None:
        return None
    return NovelCall(trace_id=str(trace.id), at=trace.timestamp, why=str(why), near=str(match.task_id or ""))


def kinds_in(
    calls: Sequence[NovelCall], traces: Sequence[Trace], *, min_calls: int
) -> tuple[list[NovelKind], list[NovelCall]]:
    """The recurring kinds among the pool's calls, the most frequent first; and the calls, each with its kind.

    Args:
        calls: the pool.
        traces: theirs, as far as they are still readable; calls without one are of no kind.
        min_calls: a kind has so many.
    """
    found = find_tasks(
        sorted(traces, key=lambda trace: (trace.timestamp, trace.id)), known=(), seed=0, now=0.0
    )
    names = {task.id: task.name for task in found.tasks if task.calls >= min_calls}
    kind_of = {
        str(trace_id): names.get(task_id or TaskId(""), "") for trace_id, task_id in found.assignment.items()
    }
    sorted_in = [replace(call, kind=kind_of.get(call.trace_id, "")) for call in calls]
    kinds = kinds_of(sorted_in)
    return kinds, sorted_in


def kinds_of(calls: Sequence[NovelCall]) -> list[NovelKind]:
    """The kinds that calls say they are of, the most frequent first."""
    by_name: dict[str, list[NovelCall]] = {}
    for call in calls:
        if call.kind:
            by_name.setdefault(call.kind, []).append(call)
    kinds = []
    for name, inside in by_name.items():
        near, count = Counter(call.near for call in inside).most_common(1)[0]
        kinds.append(
            NovelKind(
                name=name,
                times=tuple(call.at for call in inside),
                example=inside[-1].trace_id,
                near=near if 2 * count > len(inside) else "",
            )
        )
    return sorted(kinds, key=lambda kind: (-kind.calls, kind.name))


class NoveltyPool:
    """Keeps the pool. Used by one thread.

    Args:
        pick: the readable traces of some ids, as far as they are there.
        min_calls: a kind has so many calls.
    """

    def __init__(
        self, store: PoolStore, *, pick: Callable[[Collection[str]], list[Trace]], min_calls: int
    ) -> None:
        self._store = store
        self._pick = pick
        self._min_calls = min_calls
        #: calls taken in since kinds were last looked for; None before the first time
        self._since: int | None = None
        self.size = 0
        self.kinds: list[NovelKind] = []

    def take(self, calls: Sequence[NovelCall]) -> None:
        """Take calls in."""
        if calls:
            self._store.add(calls, most=MOST_CALLS)
            self._since = None if self._since is None else self._since + len(calls)

    def newest(self) -> float:
        """When the newest call came in; minus infinity for an empty pool."""
        return max((call.at for call in self._store.all()), default=float("-inf"))

    def look(self, match: Callable[[Trace], Match], *, tasks_changed: bool) -> bool:
        """Look for kinds where enough is new, and let go of what is erased or covered by a task now. Says whether it looked."""
        if self._since is not None and not tasks_changed and self._since < _LOOK_SHARE * self._min_calls:
            return False
        self._since = 0
        calls = self._store.all()
        traces = {str(trace.id): trace for trace in self._pick({call.trace_id for call in calls})}
        left: list[NovelCall] = []
        for call in calls:
            trace = traces.get(call.trace_id)
            now = None if trace is None else novel_call(trace, match(trace))
            if now is not None:
                left.append(now)
        self._store.remove({call.trace_id for call in calls} - {call.trace_id for call in left})
        self.size = len(left)
        readable = [traces[call.trace_id] for call in left]
        self.kinds, sorted_in = (
            kinds_in(left, readable, min_calls=self._min_calls)
            if len(left) >= self._min_calls
            else ([], left)
        )
        changed = set(sorted_in) - set(calls)
        if changed:
            self._store.add([call for call in sorted_in if call in changed], most=MOST_CALLS)
        return True
