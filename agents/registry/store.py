"""The registry in a database: tasks, versions and their history, the owner's corrections, feedback, comparisons.

Every change of tasks, versions and corrections raises `epoch` in the same transaction, first of all its statements, which
also puts writers of any database in line. Feedback and comparisons do not: no router decides by them. Knows nothing of Ray.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import psutil
from sqlalchemy import Connection, RowMapping, delete, insert, select, update

from shoal.agents.registry import evidence, trainings, versions
from shoal.agents.registry import tables as t
from shoal.agents.registry.database import Database
from shoal.agents.registry.evidence import Evidence, Seen
from shoal.agents.registry.lifecycle import Asker, Move
from shoal.agents.registry.records import OutputKind, Task, TaskId, Version, VersionState
from shoal.agents.registry.trainings import Training
from shoal.errors import Conflict, InvalidRequest, NotFound, StaleDecision

_AT_REST = (VersionState.PAUSED, VersionState.RETIRED)


class Clock(Protocol):
    def now(self) -> float: ...


class _SystemClock:
    def now(self) -> float:
        return time.time()


class SqlRegistry:
    """Implements `Registry`. Safe to use from several threads and processes.

    Args:
        url_or_path: a SQLite file, made if it is not there, or an SQLAlchemy URL.

    Raises:
        ConfigError, DataError, SiteError: see `Database`.
    """

    def __init__(self, url_or_path: str | Path, *, clock: Clock | None = None) -> None:
        self.database = Database(url_or_path)
        self._clock: Clock = clock or _SystemClock()

    def close(self) -> None:
        self.database.close()

    def epoch(self) -> int:
        with self.database.read() as connection:
            return int(connection.execute(select(t.meta.c.epoch)).scalar_one())

    # -- tasks

    def tasks(self) -> list[Task]:
        """Oldest first; of the same age, by name."""
        with self.database.read() as connection:
            rows = connection.execute(
                select(t.tasks).order_by(t.tasks.c.created_at, t.tasks.c.name)
            ).mappings()
            return [_task(row) for row in rows]

    def task(self, name_or_id: str) -> Task:
        """Raises NotFound. A name counts before an id."""
        with self.database.read() as connection:
            rows = connection.execute(
                select(t.tasks).where((t.tasks.c.name == name_or_id) | (t.tasks.c.id == name_or_id))
            ).mappings()
            found = sorted((_task(row) for row in rows), key=lambda task: task.name != name_or_id)
        if not found:
            raise NotFound(
                f"There is no task {name_or_id!r}.", remedy="shoal tasks ls names those there are."
            )
        return found[0]

    def put_tasks(self, tasks: Sequence[Task]) -> None:
        """Insert or replace by id; one change.

        Raises:
            Conflict: two tasks would have the same name.
        """
        if not tasks:
            return
        with self._change() as (connection, _):
            names = {row.id: row.name for row in connection.execute(select(t.tasks.c.id, t.tasks.c.name))}
            _require_unique_names({**names, **{task.id: task.name for task in tasks}})
            for task in tasks:
                if names.get(task.id, task.name) != task.name:
                    # free the name first, so that tasks may swap theirs
                    self._update_task(connection, task.id, {"name": f"~{task.id}"})
            for task in tasks:
                values = _task_values(task, now=self._clock.now())
                if task.id in names:
                    if not task.created_at:
                        del values["created_at"]  # it keeps its own
                    self._update_task(connection, task.id, values)
                else:
                    connection.execute(insert(t.tasks).values(**values))
                    names[task.id] = task.name

    def remove_tasks(self, ids: Sequence[TaskId]) -> None:
        """Forget tasks, their versions and comparisons; unknown ids are no error. The history stays."""
        if not ids:
            return
        with self._change() as (connection, _):
            for task_id in ids:
                evidence.forget(connection, task_id)
            connection.execute(t.versions.delete().where(t.versions.c.task_id.in_(ids)))
            connection.execute(t.tasks.delete().where(t.tasks.c.id.in_(ids)))

    @staticmethod
    def _update_task(connection: Connection, task_id: str, values: Mapping[str, Any]) -> None:
        connection.execute(update(t.tasks).where(t.tasks.c.id == task_id).values(**values))

    # -- versions

    def versions(self, task_id: TaskId | None = None) -> list[Version]:
        """Oldest first."""
        with self.database.read() as connection:
            return versions.read(connection, task_id)

    def add_version(self, version: Version, *, moves: Sequence[Move] = ()) -> None:
        """Add a version, and in the same change move others at the gate's word. Where it was being trained, it is no more.

        Raises:
            NotFound: an unknown task.
            Conflict: the number is taken, or a move is not allowed.
        """
        with self._change() as (connection, epoch):
            now = self._clock.now()
            versions.add(connection, version, epoch=epoch, now=now)
            versions.move(connection, moves, asker=Asker.GATE, epoch=epoch, now=now)

    def move(self, moves: Sequence[Move], *, asker: Asker, epoch: int | None = None) -> int:
        """Carry out what was decided, all of it or nothing, as one change.

        Args:
            epoch: the one that was decided on; None where the decision holds in any.

        Returns:
            the epoch that the moves made.

        Raises:
            NotFound: no such version.
            StaleDecision: the registry, or one of the versions, has changed since.
            Conflict: `lifecycle.py` has no such move for `asker`.
        """
        with self._change(epoch) as (connection, made):
            self._move(connection, moves, asker, made)
        return made

    def set_state(self, key: str, state: VersionState, *, reason: str) -> None:
        """The owner's word on one version, wherever it stands. Raises NotFound, and Conflict as `move` does."""
        with self._change() as (connection, epoch):
            before = versions.find(connection, key).state
            step = Move(version_key=key, before=before, after=state, reason=reason)
            self._move(connection, [step], Asker.OWNER, epoch)

    def _move(self, connection: Connection, moves: Sequence[Move], asker: Asker, epoch: int) -> None:
        versions.move(connection, moves, asker=asker, epoch=epoch, now=self._clock.now())
        for step in moves:
            if step.before in _AT_REST and step.after not in _AT_REST:
                # it is asked again: what was seen of it earlier is told in its history, and counts no more
                evidence.forget(connection, *versions.split_key(step.version_key))

    def history(self, key: str) -> list[dict[str, Any]]:
        """What happened to a version, oldest first; see `versions.history`."""
        with self.database.read() as connection:
            return versions.history(connection, key)

    def events(self, *, task_id: TaskId | None = None, since: float | None = None) -> list[dict[str, Any]]:
        """What happened to all versions, or those of a task, oldest first; see `versions.history`."""
        with self.database.read() as connection:
            return versions.history(connection, task_id=task_id, since=since)

    # -- versions that are being trained

    def begin_training(self, task_id: TaskId, number: int) -> None:
        """This process trains a version from now on. Ends with `add_version` or `end_training`, or with the process.

        Raises:
            Conflict: another process trains it.
        """
        key = f"{task_id}@{number}"
        process = psutil.Process()
        for other in self.trainings(gone=True):
            if other.key == key and other.alive and other.pid != process.pid:
                raise Conflict(
                    f"{key} is being trained by process {other.pid}.", remedy="Wait until it ends."
                )
            if other.key == key or not other.alive:
                self.end_training(other.task_id, other.number, reason="its run died")
        with self._change() as (connection, epoch):
            trainings.begin(connection, key, process, epoch=epoch, now=self._clock.now())

    def end_training(self, task_id: TaskId, number: int, *, reason: str) -> None:
        """There will be no such version: its run failed, or was stopped. No error where it is not being trained."""
        key = f"{task_id}@{number}"
        if all(training.key != key for training in self.trainings(gone=True)):
            return
        with self._change() as (connection, epoch):
            trainings.give_up(connection, key, reason, epoch=epoch, now=self._clock.now())

    def trainings(self, *, gone: bool = False) -> list[Training]:
        """Versions that are being trained now, oldest first. `gone`: also those whose process is gone."""
        with self.database.read() as connection:
            found = trainings.read(connection)
        return [training for training in found if gone or training.alive]

    def next_number(self, task_id: TaskId) -> int:
        """The number for a task's next version; those of removed ones are not used again."""
        with self.database.read() as connection:
            return versions.next_number(connection, task_id)

    # -- the owner's corrections of tasks

    def add_correction(self, kind: str, payload: Mapping[str, Any]) -> None:
        """Remember the owner's word (`rename`, `merge`, `split`, `exclude`, ...), which outlives relearning."""
        with self._change() as (connection, _):
            connection.execute(
                insert(t.corrections).values(kind=kind, payload=dict(payload), at=self._clock.now())
            )

    def corrections(self) -> list[dict[str, Any]]:
        """Oldest first: `kind`, `payload`, `at`."""
        with self.database.read() as connection:
            rows = connection.execute(select(t.corrections).order_by(t.corrections.c.sequence)).mappings()
            return [{"kind": r["kind"], "payload": r["payload"], "at": r["at"]} for r in rows]

    # -- feedback and comparisons

    def add_feedback(
        self,
        trace_id: str,
        *,
        score: float | None = None,
        correction: Mapping[str, Any] | None = None,
        comment: str = "",
        client_id: str = "",
    ) -> None:
        """A client's word on one answer.

        Args:
            score: -1 (bad) to 1 (good).
            correction: the message that would have been right.

        Raises:
            InvalidRequest: a score out of range, or nothing said at all.
        """
        if score is not None and not -1 <= score <= 1:
            raise InvalidRequest(
                f"`score` must lie in [-1, 1], got {score}.",
                remedy="Send 1 for a good answer.",
                param="score",
            )
        if score is None and correction is None and not comment:
            raise InvalidRequest(
                "Feedback must have a score, a correction or a comment.",
                remedy='Send {"score": 1}.',
                param="score",
            )
        with self.database.write() as connection:
            connection.execute(
                insert(t.feedback).values(
                    trace_id=trace_id,
                    score=score,
                    correction=None if correction is None else dict(correction),
                    comment=comment,
                    client_id=client_id,
                    at=self._clock.now(),
                )
            )

    def feedback(self, trace_id: str | None = None) -> list[dict[str, Any]]:
        """Oldest first: `trace_id`, `score`, `correction`, `comment`, `client_id`, `at`."""
        query = select(t.feedback).order_by(t.feedback.c.sequence)
        if trace_id is not None:
            query = query.where(t.feedback.c.trace_id == trace_id)
        with self.database.read() as connection:
            rows = connection.execute(query).mappings()
            return [{name: row[name] for name in row if name != "sequence"} for row in rows]

    def delete_feedback(self, trace_ids: Collection[str]) -> None:
        """Forget what was said of calls that are erased, because a correction holds what they were about; and that they were novel."""
        ids = sorted(trace_ids)
        with self.database.write() as connection:
            for start in range(0, len(ids), 500):
                for table in (t.feedback, t.novel_calls):
                    connection.execute(delete(table).where(table.c.trace_id.in_(ids[start : start + 500])))

    def feedback_after(self, sequence: int) -> list[dict[str, Any]]:
        """What came after the piece of this number, oldest first, as `feedback` gives it; each with its own `sequence`."""
        query = select(t.feedback).where(t.feedback.c.sequence > sequence).order_by(t.feedback.c.sequence)
        with self.database.read() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    def keep(self, seen: Seen) -> None:
        """Keep what was seen of versions, and up to which of their numbers senders are counted. One change.

        Raises:
            InvalidRequest: more agreed than were compared.
        """
        with self.database.write() as connection:
            evidence.keep(connection, seen, now=self._clock.now())

    def evidence(self, key: str) -> Evidence:
        """What was seen of a version since it last began to be asked."""
        with self.database.read() as connection:
            return evidence.of(connection, key)

    def comparisons(self, key: str) -> dict[str, tuple[int, int]]:
        """stage -> (compared, agreed)."""
        return {name: (s.compared, s.agreed) for name, s in self.evidence(key).stages.items()}

    def broken(self) -> dict[str, tuple[str, float]]:
        """Of each version that was taken back because its contract was broken: why, and when last (seconds since the epoch)."""
        with self.database.read() as connection:
            return evidence.broken(connection)

    def contradict(self, key: str, trace_id: str, answered_at: float | None) -> bool:
        """Keep it that a version's answer was contradicted; None for when it was given: it no longer is. Whether that is news."""
        with self.database.write() as connection:
            return evidence.contradict(connection, key, trace_id, answered_at)

    def counted(self, sender: str) -> int:
        """The highest number of this sender's comparisons that is counted; 0 for none."""
        with self.database.read() as connection:
            found = connection.execute(select(t.senders.c.counted).where(t.senders.c.name == sender)).scalar()
        return int(found or 0)

    @contextlib.contextmanager
    def _change(self, decided_on: int | None = None) -> Iterator[tuple[Connection, int]]:
        """A writing transaction that raises the epoch, and the epoch that it makes. Raises StaleDecision where the epoch is another."""
        with self.database.write() as connection:
            raised = update(t.meta).values(epoch=t.meta.c.epoch + 1)
            if decided_on is not None:
                raised = raised.where(t.meta.c.epoch == decided_on)
            done = connection.execute(raised)
            epoch = int(connection.execute(select(t.meta.c.epoch)).scalar_one())
            if not done.rowcount:
                raise StaleDecision(
                    f"What was decided at epoch {decided_on} no longer holds: it is {epoch} by now.",
                    remedy="Read the registry, and decide again.",
                )
            yield connection, epoch


def _require_unique_names(names: Mapping[str, str]) -> None:
    owner: dict[str, str] = {}
    for task_id, name in names.items():
        if name in owner:
            raise Conflict(
                f"Two tasks cannot both be called {name!r} ({owner[name]} and {task_id}).",
                remedy="Choose another name, or merge them: shoal tasks merge.",
            )
        owner[name] = task_id


def _task_values(task: Task, *, now: float) -> dict[str, Any]:
    return {
        "id": task.id,
        "name": task.name,
        "output_kind": str(task.output_kind),
        "calls": task.calls,
        "description": task.description,
        "match": dict(task.match),
        "excluded": task.excluded,
        "reason": task.reason,
        "created_at": task.created_at or now,
    }


def _task(row: RowMapping) -> Task:
    return Task(**{**row, "id": TaskId(row["id"]), "output_kind": OutputKind(row["output_kind"])})
