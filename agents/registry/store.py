"""The registry in a database: tasks, versions and their history, the owner's corrections, feedback, comparisons.

Every change of tasks, versions and corrections raises `epoch` in the same transaction, first of all its statements, which
also puts writers of any database in line. Feedback and comparisons do not: no router decides by them. Knows nothing of Ray.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from sqlalchemy import Connection, RowMapping, delete, func, insert, select, update

from shoal.agents.registry import tables as t
from shoal.agents.registry.database import Database
from shoal.agents.registry.records import OutputKind, Task, TaskId, Version, VersionState
from shoal.errors import Conflict, InvalidRequest, NotFound


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
        with self._change() as connection:
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
        with self._change() as connection:
            for table in (t.comparisons, t.versions):
                connection.execute(table.delete().where(table.c.task_id.in_(ids)))
            connection.execute(t.tasks.delete().where(t.tasks.c.id.in_(ids)))

    @staticmethod
    def _update_task(connection: Connection, task_id: str, values: Mapping[str, Any]) -> None:
        connection.execute(update(t.tasks).where(t.tasks.c.id == task_id).values(**values))

    # -- versions

    def versions(self, task_id: TaskId | None = None) -> list[Version]:
        """Oldest first."""
        query = select(t.versions).order_by(t.versions.c.sequence)
        if task_id is not None:
            query = query.where(t.versions.c.task_id == task_id)
        with self.database.read() as connection:
            return [_version(row) for row in connection.execute(query).mappings()]

    def add_version(self, version: Version) -> None:
        """Raises NotFound for an unknown task, Conflict where the number is taken."""
        with self._change() as connection:
            known = connection.execute(select(t.tasks.c.id).where(t.tasks.c.id == version.task_id)).first()
            if known is None:
                raise NotFound(
                    f"There is no task {version.task_id!r} to add a version to.", remedy="Put the task first."
                )
            if self._find_version(connection, version.key) is not None:
                raise Conflict(f"The version {version.key} is there already.", remedy="Take the next number.")
            values = _version_values(version, now=self._clock.now())
            connection.execute(insert(t.versions).values(**values))
            self._note(connection, version.key, "", version.state, version.reason)

    def set_state(self, key: str, state: VersionState, *, reason: str) -> None:
        """Raises NotFound. The change is kept in the version's history."""
        with self._change() as connection:
            row = self._find_version(connection, key)
            if row is None:
                raise NotFound(
                    f"There is no version {key!r}.", remedy="shoal specialists ls names those there are."
                )
            connection.execute(
                update(t.versions)
                .where(t.versions.c.sequence == row["sequence"])
                .values(state=str(VersionState(state)), reason=reason)
            )
            self._note(connection, key, row["state"], state, reason)

    def history(self, key: str) -> list[dict[str, Any]]:
        """What happened to a version, oldest first: `from`, `to`, `reason`, `at` (seconds since the epoch)."""
        task_id, number = _split_key(key)
        events = t.version_events
        query = (
            select(events)
            .where(events.c.task_id == task_id, events.c.number == number)
            .order_by(events.c.sequence)
        )
        with self.database.read() as connection:
            return [
                {"from": row["from_state"], "to": row["to_state"], "reason": row["reason"], "at": row["at"]}
                for row in connection.execute(query).mappings()
            ]

    @staticmethod
    def _find_version(connection: Connection, key: str) -> RowMapping | None:
        task_id, number = _split_key(key)
        query = select(t.versions).where(t.versions.c.task_id == task_id, t.versions.c.number == number)
        return connection.execute(query).mappings().first()

    def _note(self, connection: Connection, key: str, before: str, after: VersionState, reason: str) -> None:
        task_id, number = _split_key(key)
        connection.execute(
            insert(t.version_events).values(
                task_id=task_id,
                number=number,
                from_state=before,
                to_state=str(after),
                reason=reason,
                at=self._clock.now(),
            )
        )

    # -- the owner's corrections of tasks

    def add_correction(self, kind: str, payload: Mapping[str, Any]) -> None:
        """Remember the owner's word (`rename`, `merge`, `split`, `exclude`, ...), which outlives relearning."""
        with self._change() as connection:
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

    def add_comparisons(self, key: str, stage: str, *, compared: int, agreed: int) -> None:
        """Count answers of a version that were compared with the generalist's at a stage (`shadow`, `canary`, `audit`)."""
        if not 0 <= agreed <= compared:
            raise InvalidRequest(f"`agreed` must lie in [0, {compared}], got {agreed}.", param="agreed")
        task_id, number = _split_key(key)
        table = t.comparisons
        with self.database.write() as connection:
            done = connection.execute(
                update(table)
                .where(table.c.task_id == task_id, table.c.number == number, table.c.stage == stage)
                .values(
                    compared=table.c.compared + compared,
                    agreed=table.c.agreed + agreed,
                    updated_at=self._clock.now(),
                )
            )
            if not done.rowcount:
                connection.execute(
                    insert(table).values(
                        task_id=task_id,
                        number=number,
                        stage=stage,
                        compared=compared,
                        agreed=agreed,
                        updated_at=self._clock.now(),
                    )
                )

    def comparisons(self, key: str) -> dict[str, tuple[int, int]]:
        """stage -> (compared, agreed)."""
        task_id, number = _split_key(key)
        table = t.comparisons
        query = select(table).where(table.c.task_id == task_id, table.c.number == number)
        with self.database.read() as connection:
            return {
                row["stage"]: (row["compared"], row["agreed"]) for row in connection.execute(query).mappings()
            }

    def next_number(self, task_id: TaskId) -> int:
        """The number for a task's next version; those of removed ones are not used again."""
        with self.database.read() as connection:
            newest = connection.execute(
                select(func.max(t.version_events.c.number)).where(t.version_events.c.task_id == task_id)
            ).scalar()
            return int(newest or 0) + 1

    def _change(self) -> _Change:
        return _Change(self.database)


class _Change:
    """A writing transaction that raises the epoch."""

    def __init__(self, database: Database) -> None:
        self._transaction = database.write()

    def __enter__(self) -> Connection:
        connection = self._transaction.__enter__()
        connection.execute(update(t.meta).values(epoch=t.meta.c.epoch + 1))
        return connection

    def __exit__(self, *exc: Any) -> bool | None:
        return self._transaction.__exit__(*exc)


def _split_key(key: str) -> tuple[str, int]:
    task_id, _, number = key.rpartition("@")
    if not task_id or not number.isdecimal():
        raise NotFound(
            f"{key!r} names no version; a key is <task id>@<number>.", remedy="See shoal specialists ls."
        )
    return task_id, int(number)


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


def _version_values(version: Version, *, now: float) -> dict[str, Any]:
    return {
        "task_id": version.task_id,
        "number": version.number,
        "kind": version.kind,
        "state": str(version.state),
        "folder": version.folder,
        "sha256": version.sha256,
        "threshold": version.threshold,
        "alpha": version.alpha,
        "delta": version.delta,
        "evidence": dict(version.evidence),
        "needs": dict(version.needs),
        "reason": version.reason,
        "created_at": version.created_at or now,
    }


def _version(row: RowMapping) -> Version:
    values = {name: value for name, value in row.items() if name != "sequence"}
    return Version(**{**values, "task_id": TaskId(row["task_id"]), "state": VersionState(row["state"])})
