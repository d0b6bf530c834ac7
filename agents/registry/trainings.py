"""Versions that are being trained: which, since when, and by which process. They die with it.

Owns the table `trainings`. A version that is registered leaves it in the same change (`versions.add`).
"""

from __future__ import annotations

from dataclasses import dataclass

import psutil
from sqlalchemy import Connection, insert, select

from shoal.agents.registry import tables as t
from shoal.agents.registry import versions
from shoal.agents.registry.lifecycle import Asker
from shoal.agents.registry.records import TaskId, VersionState

#: the process's own clock and the recorded one may differ by so much
_SLACK_S = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """One version in the making."""

    task_id: TaskId
    number: int
    pid: int
    pid_created_at: float
    started_at: float

    @property
    def key(self) -> str:
        return f"{self.task_id}@{self.number}"

    @property
    def alive(self) -> bool:
        return living_process(self.pid, self.pid_created_at) is not None


def living_process(pid: int, created_at: float) -> psutil.Process | None:
    """The process of this number if it is the one that was started then: the number alone may be another's by now."""
    try:
        process = psutil.Process(pid)
        same = abs(process.create_time() - created_at) < _SLACK_S
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.Error:
        return None


def read(connection: Connection) -> list[Training]:
    """Oldest first, also of processes that are gone."""
    rows = connection.execute(select(t.trainings).order_by(t.trainings.c.started_at)).mappings()
    return [Training(**{**row, "task_id": TaskId(row["task_id"])}) for row in rows]


def begin(connection: Connection, key: str, process: psutil.Process, *, epoch: int, now: float) -> None:
    """A process trains a version from now on. What a process that is gone had begun of it is given up first."""
    task_id, number = versions.split_key(key)
    connection.execute(
        insert(t.trainings).values(
            task_id=task_id,
            number=number,
            pid=process.pid,
            pid_created_at=process.create_time(),
            started_at=now,
        )
    )
    why = f"trained by process {process.pid}"
    versions.note(connection, key, None, VersionState.TRAINING, why, Asker.LEARNING, epoch=epoch, now=now)


def give_up(connection: Connection, key: str, reason: str, *, epoch: int, now: float) -> None:
    """Its training came to no version. No error where it was not being trained."""
    if versions.end_training(connection, key):
        versions.note(
            connection, key, VersionState.TRAINING, None, reason, Asker.LEARNING, epoch=epoch, now=now
        )
