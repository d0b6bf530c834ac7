from __future__ import annotations

from collections.abc import Sequence

import pytest

from shoal.agents.feedback.ledger import Compute, Expense
from shoal.agents.registry.records import TaskId
from shoal.errors import SiteError
from shoal.serve import expense_book
from shoal.serve.expense_book import ExpenseBook


def _audit(at: float = 0.0, *, usd: float = 0.5, joules: float | None = None) -> Expense:
    return Expense(
        kind="audit",
        task_id=TaskId("a"),
        at=at,
        calls=1,
        usd=usd,
        compute=Compute(cpu_ms=1.0, gpu_ms=2.0),
        energy_joules=joules,
    )


async def test_what_is_noted_is_written_together_when_it_closes() -> None:
    written: list[Expense] = []
    book = ExpenseBook(written.extend)
    for joules in (None, 1.0, 2.5):
        book.add(_audit(joules=joules))
    book.add(_audit(at=90_000.0))
    assert written == []
    await book.close()
    first, second = written
    assert (first.calls, first.usd, first.compute, first.energy_joules) == (
        3,
        1.5,
        Compute(cpu_ms=3.0, gpu_ms=6.0),
        3.5,
    )
    assert second.calls == 1, "another day"


async def test_it_is_written_by_itself_a_moment_later(monkeypatch: pytest.MonkeyPatch) -> None:
    import asyncio

    monkeypatch.setattr(expense_book, "FLUSH_S", 0.01)
    written: list[Expense] = []
    book = ExpenseBook(written.extend)
    book.add(_audit())
    for _ in range(200):
        if written:
            break
        await asyncio.sleep(0.01)
    assert [e.calls for e in written] == [1]
    await book.close()


async def test_what_cannot_be_written_is_kept_and_tried_again() -> None:
    written: list[Expense] = []
    fails = [True]

    def write(expenses: Sequence[Expense]) -> None:
        if fails[0]:
            raise SiteError("The database is away.")
        written.extend(expenses)

    book = ExpenseBook(write)
    book.add(_audit())
    with pytest.raises(SiteError):
        await book.flush()
    book.add(_audit())
    fails[0] = False
    await book.close()
    assert [(e.calls, e.usd) for e in written] == [(2, 1.0)]
