from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from shoal.agents.feedback.expenses import SqlExpenses
from shoal.agents.feedback.ledger import Compute, Expense
from shoal.agents.registry.database import Database
from shoal.agents.registry.records import TaskId
from shoal.errors import ShoalError

DAY_S = 86_400.0


@pytest.fixture
def expenses(tmp_path: Path) -> Iterator[SqlExpenses]:
    database = Database(tmp_path / "shoal.db")
    yield SqlExpenses(database)
    database.close()


def _audit(at: float, *, usd: float = 0.5, joules: float | None = None) -> Expense:
    return Expense(
        kind="audit",
        task_id=TaskId("a"),
        at=at,
        calls=1,
        prompt_tokens=100,
        completion_tokens=10,
        usd=usd,
        compute=Compute(cpu_ms=2.0),
        energy_joules=joules,
    )


def test_a_days_expenses_of_one_kind_are_one_row(expenses: SqlExpenses) -> None:
    expenses.add([_audit(10.0), _audit(20.0, joules=3.0)])
    expenses.add([_audit(30.0), _audit(DAY_S + 5)])
    first, second = expenses.all()
    assert (first.calls, first.prompt_tokens, first.usd, first.compute.cpu_ms) == (3, 300, 1.5, 6.0)
    assert (first.energy_joules, second.energy_joules) == (3.0, None)
    assert (first.at, second.at) == (0.0, DAY_S)


def test_all_or_none_is_added(expenses: SqlExpenses) -> None:
    broken = _audit(DAY_S, usd=None)  # type: ignore[arg-type]
    with pytest.raises(ShoalError):
        expenses.add([_audit(10.0), broken])
    assert expenses.all() == []
