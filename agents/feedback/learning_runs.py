"""Learning runs as the database remembers them: what for, how they stand, which process carries them out, what came of them.

Owns the table `learning_runs`. A run is `running` until its process says how it ended; whoever finds a running run without its process
knows that it is to go on. At most one is running.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias

import psutil
from sqlalchemy import Connection, RowMapping, delete, insert, select, update

from shoal.agents.registry import tables as t
from shoal.agents.registry.database import Database
from shoal.agents.registry.trainings import living_process
from shoal.errors import Conflict, NotFound

#: the reason of a run that a person started with `shoal learn`; nobody starts it again in that person's place
BY_HAND: Final = "shoal learn"
#: runs that are remembered to somebody who asks for all
_MOST = 1000

#: `asked`: somebody wants a run, and none has begun for it yet
RunState: TypeAlias = Literal["asked", "running", "stopping", "done", "failed", "stopped"]
_OPEN = ("running", "stopping")


@dataclass(frozen=True, slots=True, kw_only=True)
class LearningRun:
    """One run.

    Attributes:
        tasks: ids or names; empty for all tasks.
        pid, pid_created_at: the process; None where none has taken it yet.
        report: what came of it; `{"error": ...}` where it failed, and how often it was `begun` while it runs.
    """

    id: str
    reason: str
    tasks: tuple[str, ...]
    state: RunState
    started_at: float
    pid: int | None = None
    pid_created_at: float | None = None
    ended_at: float | None = None
    report: Mapping[str, Any] = field(default_factory=dict)

    @property
    def by_hand(self) -> bool:
        return self.reason == BY_HAND

    @property
    def begun(self) -> int:
        """How many processes were started for it."""
        return int(self.report.get("begun", 0))

    def to_dict(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "reason": self.reason,
            "tasks": list(self.tasks),
            "state": self.state,
            "started_at": self.started_at,
            "ended_at": self.ended_at,
            "pid": self.pid,
        }


def process_of(run: LearningRun) -> psutil.Process | None:
    """The run's process if it lives."""
    if run.pid is None or run.pid_created_at is None:
        return None
    return living_process(run.pid, run.pid_created_at)


class SqlLearningRuns:
    """Safe to use from several threads and processes; blocking."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def ask(self, run_id: str, *, tasks: Sequence[str], reason: str, at: float) -> None:
        """Keep it that somebody wants a run, until one begins for this reason."""
        with self._database.write() as connection:
            connection.execute(
                insert(t.learning_runs).values(
                    id=run_id, reason=reason, tasks=list(tasks), state="asked", started_at=at
                )
            )

    def asked(self) -> list[LearningRun]:
        """What is asked for and has not begun, oldest first."""
        table = t.learning_runs
        query = select(table).where(table.c.state == "asked").order_by(table.c.started_at)
        with self._database.read() as connection:
            return [_run(row) for row in connection.execute(query).mappings()]

    def begin(self, run_id: str, *, tasks: Sequence[str], reason: str, at: float) -> LearningRun:
        """Begin a run. One of the site's that waits to go on gives way to one by hand.

        Raises:
            Conflict: another one is running.
        """
        table = t.learning_runs
        with self._database.write() as connection:
            for other in self._open(connection):
                process = process_of(other)
                if process is not None or (reason != BY_HAND and not other.by_hand):
                    whose = "" if process is None else f" in process {process.pid}"
                    raise Conflict(
                        f"Learning is under way already{whose} ({other.reason}).",
                        remedy="Wait until it ends; shoal status shows how far it is.",
                    )
                connection.execute(
                    update(table)
                    .where(table.c.id == other.id)
                    .values(state="stopped", ended_at=at, report={"error": "its process was gone"})
                )
            connection.execute(delete(table).where(table.c.state == "asked", table.c.reason == reason))
            connection.execute(
                insert(table).values(
                    id=run_id, reason=reason, tasks=list(tasks), state="running", started_at=at
                )
            )
        return LearningRun(id=run_id, reason=reason, tasks=tuple(tasks), state="running", started_at=at)

    def claim(self, run_id: str, process: psutil.Process) -> bool:
        """Take a run for a process. False where another living process has it, or it has ended."""
        table = t.learning_runs
        with self._database.write() as connection:
            run = self._find(connection, run_id)
            if run is None or run.state != "running":
                return False
            other = process_of(run)
            if other is not None and other.pid != process.pid:
                return False
            connection.execute(
                update(table)
                .where(table.c.id == run_id)
                .values(pid=process.pid, pid_created_at=process.create_time())
            )
        return True

    def release(self, run_id: str) -> None:
        """Its process ends before the run does: another one may go on with it."""
        self._change(run_id, pid=None, pid_created_at=None, report=None)

    def note_begun(self, run_id: str, times: int) -> None:
        self._change(run_id, report={"begun": times})

    def ask_to_stop(self, run_id: str) -> None:
        self._change(run_id, state="stopping")

    def finish(self, run_id: str, state: RunState, report: Mapping[str, Any], *, at: float) -> None:
        """Say how a run ended. What was said first stays."""
        self._change(run_id, state=state, ended_at=at, report=dict(report))

    def running(self) -> LearningRun | None:
        """The run that has not ended, if there is one."""
        with self._database.read() as connection:
            runs = self._open(connection)
        return runs[-1] if runs else None

    def get(self, run_id: str) -> LearningRun:
        """Raises NotFound."""
        with self._database.read() as connection:
            run = self._find(connection, run_id)
        if run is None:
            raise NotFound(f"There is no learning run {run_id!r}.", remedy="shoal status names the last one.")
        return run

    def all(self) -> list[LearningRun]:
        """The newest thousand that have begun, oldest first."""
        table = t.learning_runs
        query = (
            select(table)
            .where(table.c.state != "asked")
            .order_by(table.c.started_at.desc(), table.c.id.desc())
            .limit(_MOST)
        )
        with self._database.read() as connection:
            return [_run(row) for row in connection.execute(query).mappings()][::-1]

    def _change(self, run_id: str, **values: Any) -> None:
        table = t.learning_runs
        with self._database.write() as connection:
            connection.execute(
                update(table).where(table.c.id == run_id, table.c.state.in_(_OPEN)).values(**values)
            )

    @staticmethod
    def _open(connection: Connection) -> list[LearningRun]:
        table = t.learning_runs
        query = select(table).where(table.c.state.in_(_OPEN)).order_by(table.c.started_at)
        return [_run(row) for row in connection.execute(query).mappings()]

    @staticmethod
    def _find(connection: Connection, run_id: str) -> LearningRun | None:
        row = connection.execute(select(t.learning_runs).where(t.learning_runs.c.id == run_id)).mappings()
        return next((_run(r) for r in row), None)


def _run(row: RowMapping) -> LearningRun:
    return LearningRun(**{**row, "tasks": tuple(row["tasks"]), "report": row["report"] or {}})
