"""Gathers what is spent beside the calls, and writes it to the table a moment later, many at once. Use it in one event loop.

A process that is killed loses what it spent in its last second. What cannot be written is kept and tried again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence

from shoal.agents.feedback.ledger import Compute, Expense
from shoal.errors import ShoalError

log = logging.getLogger("shoal.serve")

#: what is spent is written after so long
FLUSH_S = 1.0
_DAY_S = 86_400.0


class ExpenseBook:
    """One for each process that serves. `write`: blocking; adds expenses to the table, all or none."""

    def __init__(self, write: Callable[[Sequence[Expense]], None]) -> None:
        self._write = write
        self._waiting: dict[tuple[str, str, int], Expense] = {}
        self._flushing: asyncio.Task[None] | None = None

    def add(self, expense: Expense) -> None:
        """Returns at once."""
        key = (expense.kind, str(expense.task_id), int(expense.at // _DAY_S))
        before = self._waiting.get(key)
        self._waiting[key] = expense if before is None else added(before, expense)
        if self._flushing is None or self._flushing.done():
            self._flushing = asyncio.get_running_loop().create_task(self._flush_soon())

    async def flush(self) -> None:
        """Write what waits now. Raises ShoalError, and keeps it, where the table does not take it."""
        due, self._waiting = self._waiting, {}
        if not due:
            return
        write = asyncio.ensure_future(asyncio.to_thread(self._write, list(due.values())))
        try:
            # who is cancelled meanwhile must not write it a second time
            while not write.done():
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.wait([write])
            write.result()
        except BaseException:
            for key, expense in due.items():
                newer = self._waiting.get(key)
                self._waiting[key] = expense if newer is None else added(expense, newer)
            raise

    async def close(self) -> None:
        if self._flushing is not None:
            self._flushing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._flushing
        with contextlib.suppress(ShoalError):
            await self.flush()

    async def _flush_soon(self) -> None:
        while self._waiting:
            await asyncio.sleep(FLUSH_S)
            try:
                await self.flush()
            except ShoalError as error:
                log.warning("what audits and shadows cost is not written yet: %s", error)


def added(one: Expense, other: Expense) -> Expense:
    """Two expenses of one kind, task and day as one."""
    compute = Compute(cpu_ms=one.compute.cpu_ms, gpu_ms=one.compute.gpu_ms)
    compute.merge(other.compute)
    joules = [e.energy_joules for e in (one, other) if e.energy_joules is not None]
    return Expense(
        kind=one.kind,
        task_id=one.task_id,
        at=max(one.at, other.at),
        calls=one.calls + other.calls,
        prompt_tokens=one.prompt_tokens + other.prompt_tokens,
        completion_tokens=one.completion_tokens + other.completion_tokens,
        usd=one.usd + other.usd,
        unpriced=one.unpriced + other.unpriced,
        compute=compute,
        energy_joules=sum(joules) if joules else None,
    )
