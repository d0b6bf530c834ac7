"""Versions and their history in the database. Each function is part of a transaction of `SqlRegistry`, which raises the epoch.

Owns that a state changes only together with its event, only as `lifecycle.py` allows, and only from where it was decided to.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, RowMapping, delete, func, insert, select, update

from shoal.agents.registry import tables as t
from shoal.agents.registry.lifecycle import Asker, Move, Place, check_move
from shoal.agents.registry.records import TaskId, Version, VersionState
from shoal.errors import Conflict, NotFound, StaleDecision


def read(connection: Connection, task_id: TaskId | None = None) -> list[Version]:
    """Oldest first."""
    query = select(t.versions).order_by(t.versions.c.sequence)
    if task_id is not None:
        query = query.where(t.versions.c.task_id == task_id)
    return [_version(row) for row in connection.execute(query).mappings()]


def find(connection: Connection, key: str) -> Version:
    """Raises NotFound."""
    row = _row(connection, key)
    if row is None:
        raise NotFound(f"There is no version {key!r}.", remedy="shoal specialists ls names those there are.")
    return _version(row)


def add(connection: Connection, version: Version, *, epoch: int, now: float) -> None:
    """Raises NotFound for an unknown task, Conflict where the number is taken."""
    known = connection.execute(select(t.tasks.c.id).where(t.tasks.c.id == version.task_id)).first()
    if known is None:
        raise NotFound(
            f"There is no task {version.task_id!r} to add a version to.", remedy="Put the task first."
        )
    if _row(connection, version.key) is not None:
        raise Conflict(f"The version {version.key} is there already.", remedy="Take the next number.")
    before: Place = None
    if end_training(connection, version.key):
        before = VersionState.TRAINING
        check_move(version.key, before, version.state, Asker.GATE)
    values = {**_values(version, now=now), **_served(version.state, now)}
    connection.execute(insert(t.versions).values(**values))
    note(connection, version.key, before, version.state, version.reason, Asker.GATE, epoch=epoch, now=now)


def move(connection: Connection, moves: Sequence[Move], *, asker: Asker, epoch: int, now: float) -> None:
    """Raises NotFound, StaleDecision, Conflict; the caller's transaction is then to be rolled back."""
    for step in moves:
        before = find(connection, step.version_key).state
        if before is not step.before:
            raise StaleDecision(
                f"{step.version_key} was to go from {step.before} to {step.after}, but is {before} by now.",
                remedy="Read the registry, and decide again.",
            )
        check_move(step.version_key, before, step.after, asker)
        task_id, number = split_key(step.version_key)
        connection.execute(
            update(t.versions)
            .where(t.versions.c.task_id == task_id, t.versions.c.number == number)
            .values(state=str(step.after), reason=step.reason, **_served(step.after, now))
        )
        note(connection, step.version_key, before, step.after, step.reason, asker, epoch=epoch, now=now)


def end_training(connection: Connection, key: str) -> bool:
    """Whether the version was being trained; it is no more."""
    task_id, number = split_key(key)
    table = t.trainings
    done = connection.execute(delete(table).where(table.c.task_id == task_id, table.c.number == number))
    return bool(done.rowcount)


def note(
    connection: Connection,
    key: str,
    before: Place,
    after: Place,
    reason: str,
    asker: Asker,
    *,
    epoch: int | None,
    now: float,
) -> None:
    """Keep one step in the history. The database refuses a second one of the same version in one epoch."""
    task_id, number = split_key(key)
    connection.execute(
        insert(t.version_events).values(
            task_id=task_id,
            number=number,
            from_state=str(before or ""),
            to_state=str(after or ""),
            reason=reason,
            asker=str(asker),
            epoch=epoch,
            at=now,
        )
    )


def remark(connection: Connection, key: str, reason: str, *, now: float) -> None:
    """Keep it in the history that something was seen of a version, which stays as it is. Nothing where it is gone."""
    row = _row(connection, key)
    if row is not None:
        state = VersionState(row["state"])
        note(connection, key, state, state, reason, Asker.AUDIT, epoch=None, now=now)


def history(
    connection: Connection,
    key: str | None = None,
    *,
    task_id: TaskId | None = None,
    since: float | None = None,
) -> list[dict[str, Any]]:
    """What happened, oldest first; to one version, to all of a task, or to all there ever were.

    Returns:
        `version` (its key), `from`, `to` ("" where there is no such version), `reason`, `asker` (who asked for it; "" where an older
        Shoal did not say), `epoch` (the one that the step made; None likewise), `at` (seconds since the epoch), `sequence`.
    """
    events = t.version_events
    query = select(events).order_by(events.c.sequence)
    if key is not None:
        of_task, number = split_key(key)
        query = query.where(events.c.task_id == of_task, events.c.number == number)
    if task_id is not None:
        query = query.where(events.c.task_id == task_id)
    if since is not None:
        query = query.where(events.c.at >= since)
    return [
        {
            "version": f"{row['task_id']}@{row['number']}",
            "from": row["from_state"],
            "to": row["to_state"],
            "reason": row["reason"],
            "asker": row["asker"],
            "epoch": row["epoch"],
            "at": row["at"],
            "sequence": row["sequence"],
        }
        for row in connection.execute(query).mappings()
    ]


def next_number(connection: Connection, task_id: TaskId) -> int:
    """One more than the task's highest number so far, also of versions that are gone."""
    events = t.version_events
    # a number that a run gave up is free
    born = events.c.to_state.not_in(["", str(VersionState.TRAINING)])
    newest = connection.execute(
        select(func.max(events.c.number)).where(events.c.task_id == task_id, born)
    ).scalar()
    return int(newest or 0) + 1


def split_key(key: str) -> tuple[str, int]:
    """Task id and number. Raises NotFound."""
    task_id, _, number = key.rpartition("@")
    if not task_id or not number.isdecimal():
        raise NotFound(
            f"{key!r} names no version; a key is <task id>@<number>.", remedy="See shoal specialists ls."
        )
    return task_id, int(number)


def _row(connection: Connection, key: str) -> RowMapping | None:
    task_id, number = split_key(key)
    query = select(t.versions).where(t.versions.c.task_id == task_id, t.versions.c.number == number)
    return connection.execute(query).mappings().first()


def _values(version: Version, *, now: float) -> dict[str, Any]:
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
        "served_at": version.served_at,
    }


def _served(state: VersionState, now: float) -> dict[str, float]:
    return {"served_at": now} if state is VersionState.SERVING else {}


def _version(row: RowMapping) -> Version:
    values = {name: value for name, value in row.items() if name != "sequence"}
    return Version(**{**values, "task_id": TaskId(row["task_id"]), "state": VersionState(row["state"])})
