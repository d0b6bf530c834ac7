"""Reads the trace store into a ledger, each of its files once: sums of files that did not change since are kept in the data folder.

A call that a site answered says of what task it was taken to be; any other call's task is decided from its request, as in serving. Sums are
kept for today's tasks: where these change, all is read again.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, Protocol

from shoal.agents.feedback.ledger import Ledger
from shoal.agents.registry.records import Task, TaskId
from shoal.agents.tasks.corrections import is_hidden
from shoal.agents.tasks.matcher import Matcher
from shoal.agents.traces.trace import Trace
from shoal.errors import SiteError

#: of the file's form; another one's is not read
_FORMAT = 1
_ATTEMPTS = 5


class Section(Protocol):
    """Some traces that are read at once; see `shoal.agents.traces.store.Section`."""

    @property
    def mark(self) -> str: ...
    @property
    def rows(self) -> int: ...
    @property
    def first_timestamp(self) -> float: ...
    @property
    def last_timestamp(self) -> float: ...
    def traces(self) -> Iterator[Trace]: ...


class Sections(Protocol):
    """A trace store that can be read in parts."""

    def sections(self) -> Sequence[Section]: ...


class TaskFinder:
    """The task of a recorded call."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        self._shown = {task.id for task in tasks if not is_hidden(task)}
        self._matcher = Matcher([(task.id, task) for task in tasks if not task.match.get("retired")])

    def __call__(self, trace: Trace) -> TaskId | None:
        said = trace.tags.get("task_id")
        if said in self._shown:
            return TaskId(str(said))
        found = self._matcher.match(trace.chat).task_id
        return found if found in self._shown else None


class LedgerReader:
    """Reads ledgers of one store.

    Args:
        store: the traces.
        tasks: today's.
        path: where sums are kept between runs; made and replaced whole.
    """

    def __init__(self, store: Sections, tasks: Sequence[Task], path: Path) -> None:
        self._store = store
        self._tasks = tasks
        self._path = path
        self._digest = _digest(tasks)

    def rows_to_read(self) -> int:
        """Of files whose sums are not kept yet."""
        kept = self._kept()
        return sum(section.rows for section in self._store.sections() if section.mark not in kept)

    def read(
        self,
        *,
        since: float = float("-inf"),
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> Ledger:
        """Everything that came in at `since` or later (seconds since the epoch).

        Args:
            progress: called with (rows read, rows to read).
        """
        for _ in range(_ATTEMPTS):
            # a file may be merged or erased meanwhile
            with contextlib.suppress(FileNotFoundError):
                return self._read(since, progress)
        raise SiteError("The traces keep changing.", remedy="Wait for the other commands and try again.")

    def _read(self, since: float, progress: Callable[[int, int], None]) -> Ledger:
        everything = self._store.sections()
        sections = [s for s in everything if s.last_timestamp >= since]
        kept = self._kept()
        marks = {s.mark for s in everything}
        total = sum(s.rows for s in sections if s.mark not in kept or s.first_timestamp < since)
        # made for a thousand tasks, it takes a moment: not where nothing is to be read
        task_of: TaskFinder | None = None
        # sums of what was erased or merged go with it
        out, done, changed = Ledger(), 0, not marks.issuperset(kept)
        for section in sections:
            whole = section.first_timestamp >= since
            if whole and section.mark in kept:
                out.merge(Ledger.from_dict(kept[section.mark]))
                continue
            part, task_of = Ledger(), task_of or TaskFinder(self._tasks)
            for trace in section.traces():
                done += 1
                if trace.timestamp >= since:
                    part.add(trace, task_of(trace))
                if done % 1000 == 0:
                    progress(done, total)
            out.merge(part)
            if whole:
                kept[section.mark] = part.to_dict()
                changed = True
        if changed:
            self._keep(marks, kept)
        return out

    def _kept(self) -> dict[str, Any]:
        """mark -> sums; empty where they are of other tasks, or cannot be read."""
        try:
            data = json.loads(self._path.read_text(encoding="utf-8"))
            if data["format"] == _FORMAT and data["tasks"] == self._digest:
                return dict(data["sections"])
        except (OSError, ValueError, KeyError, TypeError):
            pass
        return {}

    def _keep(self, marks: set[str], sections: dict[str, Any]) -> None:
        body = {
            "format": _FORMAT,
            "tasks": self._digest,
            "sections": {mark: sums for mark, sums in sections.items() if mark in marks},
        }
        draft = self._path.with_name(f"{self._path.name}.{os.getpid()}.part")
        # a convenience: a full disk or a folder that may only be read takes nothing from the answer
        with contextlib.suppress(OSError):
            draft.write_text(json.dumps(body), encoding="utf-8")
            draft.replace(self._path)


def _digest(tasks: Sequence[Task]) -> str:
    """Of all that decides which task a call is of."""
    facts = [
        (str(task.id), {k: v for k, v in task.match.items() if k != "about"})
        for task in sorted(tasks, key=lambda task: task.id)
    ]
    return blake2b(json.dumps(facts, sort_keys=True, default=str).encode(), digest_size=16).hexdigest()
