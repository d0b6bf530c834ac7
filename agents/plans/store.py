"""Plans and their runs in the registry's database. Owns the tables `plans`, `plan_runs`, `plan_parts` and `plan_events`.

Implements `RunStore`. One call is one transaction: what is kept together is there together after a crash.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update

from shoal.agents.plans.plan import Plan, parse_plan
from shoal.agents.plans.run_state import Keep, RunStatus, SavedPart
from shoal.agents.plans.runs import RunRow, StoredRun
from shoal.agents.ports import Performed
from shoal.agents.registry import tables as t
from shoal.agents.registry.database import Database, upsert
from shoal.errors import Conflict, NotFound


class SqlRuns:
    """Safe to use from several threads and processes; blocking."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # -- plans

    def put_plan(self, plan: Plan, *, at: float) -> None:
        """Insert or replace by name."""
        with self._database.write() as connection:
            upsert(connection, t.plans, {"name": plan.name, "body": plan.to_dict(), "updated_at": at})

    def plan(self, name: str) -> Plan:
        """Raises NotFound."""
        with self._database.read() as connection:
            body = connection.execute(select(t.plans.c.body).where(t.plans.c.name == name)).scalar()
        if body is None:
            raise NotFound(
                f"There is no plan {name!r}.", remedy="shoal plans ls names those there are.", param="name"
            )
        return parse_plan(body, source=f"plan {name}")

    def plans(self) -> list[Plan]:
        """By name."""
        with self._database.read() as connection:
            rows = connection.execute(select(t.plans).order_by(t.plans.c.name)).mappings().all()
        return [parse_plan(row["body"], source=f"plan {row['name']}") for row in rows]

    def remove_plan(self, name: str) -> None:
        """Forget a plan; its runs stay. Raises NotFound."""
        with self._database.write() as connection:
            if not connection.execute(delete(t.plans).where(t.plans.c.name == name)).rowcount:
                raise NotFound(f"There is no plan {name!r}.", remedy="shoal plans ls names those there are.")

    # -- runs

    def create(self, row: RunRow) -> None:
        """Raises Conflict where the id is taken."""
        with self._database.write() as connection:
            if connection.execute(select(t.plan_runs.c.id).where(t.plan_runs.c.id == row.id)).first():
                raise Conflict(f"The run {row.id} is there already.", remedy="Draw another id.")
            connection.execute(
                insert(t.plan_runs).values(
                    id=row.id,
                    plan=row.plan.name,
                    body=row.plan.to_dict(),
                    input=dict(row.input),
                    label=row.label,
                    caller=row.caller,
                    status=str(RunStatus.RUNNING),
                    created_at=row.created_at,
                )
            )

    def keep(self, run_id: str, keeps: Sequence[Keep], view: dict[str, Any] | None) -> None:
        """Make parts and events durable and, where a run has ended, how. One transaction.

        Args:
            view: the run as it stands, where it has ended.
        """
        with self._database.write() as connection:
            for keep in keeps:
                self._keep(connection, run_id, keep, view)

    def _keep(self, connection: Connection, run_id: str, keep: Keep, view: dict[str, Any] | None) -> None:
        if keep.parts:
            rows = [
                {
                    "run_id": run_id,
                    "step": part.step,
                    "part": part.part,
                    "performed": asdict(part.performed),
                    "attempts": part.attempts,
                    "started_at": part.started_at,
                    "ended_at": part.ended_at,
                }
                for part in keep.parts
            ]
            connection.execute(insert(t.plan_parts), rows)
        if keep.events:
            rows = [{"run_id": run_id, "seq": e["seq"], "body": dict(e)} for e in keep.events]
            connection.execute(insert(t.plan_events), rows)
        if keep.status is not None:
            values = {"status": str(keep.status), "ended_at": keep.at, "view": view}
            connection.execute(update(t.plan_runs).where(t.plan_runs.c.id == run_id).values(**values))

    def reopen(self, run_id: str) -> None:
        """A run that ended goes on; what it had done stays done. Raises NotFound."""
        with self._database.write() as connection:
            values = {"status": str(RunStatus.RUNNING), "ended_at": None, "view": None}
            changed = connection.execute(
                update(t.plan_runs).where(t.plan_runs.c.id == run_id).values(**values)
            )
            if not changed.rowcount:
                raise _no_run(run_id)

    def load(self, run_id: str) -> StoredRun:
        """Raises NotFound."""
        with self._database.read() as connection:
            row = connection.execute(select(t.plan_runs).where(t.plan_runs.c.id == run_id)).mappings().first()
            if row is None:
                raise _no_run(run_id)
            parts = connection.execute(
                select(t.plan_parts)
                .where(t.plan_parts.c.run_id == run_id)
                .order_by(t.plan_parts.c.step, t.plan_parts.c.part)
            ).mappings()
            saved = tuple(
                SavedPart(
                    step=part["step"],
                    part=part["part"],
                    performed=Performed(**part["performed"]),
                    attempts=part["attempts"],
                    started_at=part["started_at"],
                    ended_at=part["ended_at"],
                )
                for part in parts
            )
            events = self._events(connection, run_id, 0)
        return StoredRun(
            row=RunRow(
                id=row["id"],
                plan=parse_plan(row["body"], source=f"run {run_id}"),
                input=row["input"],
                label=row["label"],
                caller=row["caller"],
                created_at=row["created_at"],
            ),
            status=RunStatus(row["status"]),
            view=row["view"],
            parts=saved,
            events=tuple(events),
        )

    def running(self) -> list[str]:
        """Ids of the runs that have not ended, oldest first."""
        query = select(t.plan_runs.c.id).where(t.plan_runs.c.status == str(RunStatus.RUNNING))
        with self._database.read() as connection:
            return list(connection.execute(query.order_by(t.plan_runs.c.created_at)).scalars())

    def caller(self, run_id: str) -> str:
        """Who started a run. Raises NotFound."""
        c = t.plan_runs.c
        with self._database.read() as connection:
            found = connection.execute(select(c.caller).where(c.id == run_id)).scalar()
        if found is None:
            raise _no_run(run_id)
        return str(found)

    def runs(self, limit: int, *, caller: str = "") -> list[dict[str, Any]]:
        """The newest first, without steps and outputs. `caller`: only those that it started."""
        c = t.plan_runs.c
        query = select(c.id, c.plan, c.input, c.label, c.status, c.created_at, c.ended_at)
        if caller:
            query = query.where(c.caller == caller)
        with self._database.read() as connection:
            rows = connection.execute(query.order_by(c.created_at.desc(), c.id.desc()).limit(limit))
            return [dict(row) for row in rows.mappings()]

    def delete_before(self, at: float) -> int:
        """Erase the runs that ended before this moment; returns how many."""
        c = t.plan_runs.c
        with self._database.write() as connection:
            ids = list(connection.execute(select(c.id).where(c.ended_at < at)).scalars())
            for table, column in ((t.plan_parts, "run_id"), (t.plan_events, "run_id"), (t.plan_runs, "id")):
                for start in range(0, len(ids), 500):
                    connection.execute(delete(table).where(table.c[column].in_(ids[start : start + 500])))
        return len(ids)

    @staticmethod
    def _events(connection: Connection, run_id: str, after: int) -> list[dict[str, Any]]:
        c = t.plan_events.c
        query = select(c.body).where(c.run_id == run_id, c.seq > after).order_by(c.seq)
        return [dict(body) for body in connection.execute(query).scalars()]


def _no_run(run_id: str) -> NotFound:
    return NotFound(
        f"There is no run {run_id!r}.", remedy="shoal plans ls --runs names the newest.", param="run_id"
    )
