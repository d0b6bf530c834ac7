"""What is spent beside the calls of clients, in the registry's database: one row for each task, kind and day. Owns the table `expenses`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import RowMapping, insert, select, update

from shoal.agents.feedback.ledger import Compute, Expense
from shoal.agents.registry import tables as t
from shoal.agents.registry.database import Database

_DAY_S = 86_400.0
_SUMS = ("calls", "prompt_tokens", "completion_tokens", "usd", "unpriced", "cpu_ms", "gpu_ms")


class SqlExpenses:
    """Safe to use from several threads and processes; blocking."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, expenses: Iterable[Expense]) -> None:
        """Add to the rows of their days; all or none."""
        table = t.expenses
        with self._database.write() as connection:
            for expense in expenses:
                row = _row(expense)
                key = {name: row.pop(name) for name in ("task_id", "kind", "day")}
                which = [table.c[name] == value for name, value in key.items()]
                old = connection.execute(select(table).where(*which).with_for_update()).mappings().first()
                if old is None:
                    connection.execute(insert(table).values(**key, **row))
                    continue
                joules = [j for j in (old["energy_joules"], row["energy_joules"]) if j is not None]
                added: dict[str, Any] = {name: old[name] + row[name] for name in _SUMS}
                added["energy_joules"] = sum(joules) if joules else None
                connection.execute(update(table).where(*which).values(**added))

    def all(self) -> list[Expense]:
        """Oldest first."""
        table = t.expenses
        query = select(table).order_by(table.c.day, table.c.task_id, table.c.kind)
        with self._database.read() as connection:
            return [_expense(row) for row in connection.execute(query).mappings()]


def _row(expense: Expense) -> dict[str, Any]:
    return {
        "task_id": str(expense.task_id),
        "kind": expense.kind,
        "day": int(expense.at // _DAY_S),
        "calls": expense.calls,
        "prompt_tokens": expense.prompt_tokens,
        "completion_tokens": expense.completion_tokens,
        "usd": expense.usd,
        "unpriced": expense.unpriced,
        "cpu_ms": expense.compute.cpu_ms,
        "gpu_ms": expense.compute.gpu_ms,
        "energy_joules": expense.energy_joules,
    }


def _expense(row: RowMapping) -> Expense:
    data = dict(row)
    day, cpu_ms, gpu_ms = data.pop("day"), data.pop("cpu_ms"), data.pop("gpu_ms")
    return Expense(**data, at=day * _DAY_S, compute=Compute(cpu_ms=cpu_ms, gpu_ms=gpu_ms))
