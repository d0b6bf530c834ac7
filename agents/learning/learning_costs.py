"""What a learning run takes: processor time by task, GPU time, and calls of the generalist and a judge. Noted as it is spent.

A task's time is noted when it ends, also where it failed or was stopped; a process that is killed loses its last task's. What belongs to no
task (reading the log, finding tasks) stands under none.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from shoal.agents.contract.break_even import Price
from shoal.agents.feedback.ledger import NO_TASK, Compute, Expense
from shoal.agents.registry.records import TaskId
from shoal.agents.traces.chat import Usage
from shoal.errors import ShoalError

log = logging.getLogger(__name__)

#: takes what was spent to the database; blocking
NoteExpenses = Callable[[Sequence[Expense]], None]


def note_nothing(expenses: Sequence[Expense]) -> None:
    """Where nobody keeps accounts."""


@dataclass(slots=True, kw_only=True)
class LearningCosts:
    """One run's. `cpu_seconds`: processor time of this process so far; `now`: seconds since the epoch."""

    note: NoteExpenses
    now: Callable[[], float]
    cpu_seconds: Callable[[], float] = time.process_time
    _began: float = field(init=False)
    _of_tasks: float = 0.0

    def __post_init__(self) -> None:
        self._began = self.cpu_seconds()

    @contextmanager
    def task(self, task_id: TaskId) -> Iterator[TaskCosts]:
        """Whatever happens inside is the task's."""
        before, costs = self.cpu_seconds(), TaskCosts(task_id=task_id, now=self.now)
        try:
            yield costs
        finally:
            took = self.cpu_seconds() - before
            self._of_tasks += took
            cpu_s = took + costs.worker_seconds
            self._write([self._training(task_id, cpu_s, costs.gpu_seconds), *costs.opinions])

    def end(self) -> None:
        """The run is over: note what was no task's."""
        self._write([self._training(NO_TASK, self.cpu_seconds() - self._began - self._of_tasks, 0.0)])

    def _write(self, expenses: Sequence[Expense]) -> None:
        """What learning came to does not depend on whether its costs can be written."""
        try:
            self.note(expenses)
        except ShoalError as error:
            log.warning("what learning cost is not written: %s", error)

    def _training(self, task_id: TaskId, cpu_s: float, gpu_s: float) -> Expense:
        compute = Compute(cpu_ms=1000 * max(0.0, cpu_s), gpu_ms=1000 * gpu_s)
        return Expense(kind="learning", task_id=task_id, at=self.now(), compute=compute)


@dataclass(slots=True, kw_only=True)
class TaskCosts:
    """What one task takes beside the processor."""

    task_id: TaskId
    now: Callable[[], float]
    gpu_seconds: float = 0.0
    worker_seconds: float = 0.0
    opinions: list[Expense] = field(default_factory=list)

    def trained(self, candidates: Sequence[Mapping[str, Any]]) -> None:
        """Count what other processors than this process's did: a GPU, or the workers of a cluster, each for as long as the training took."""
        for candidate in candidates:
            details = candidate.get("details") or {}
            workers = int(details.get("workers") or 1)
            seconds = workers * float(candidate.get("seconds") or 0.0)
            if details.get("on_gpu"):
                self.gpu_seconds += seconds
            elif workers > 1:
                self.worker_seconds += seconds

    def asked(self, kind: Literal["again", "judge"], usages: Sequence[Usage], price: Price | None) -> None:
        """Calls of the generalist or a judge, at the price of whoever was asked; None where it is not known."""
        if not usages:
            return
        prompt, completion = sum(u.prompt_tokens for u in usages), sum(u.completion_tokens for u in usages)
        self.opinions.append(
            Expense(
                kind=kind,
                task_id=self.task_id,
                at=self.now(),
                calls=len(usages),
                prompt_tokens=prompt,
                completion_tokens=completion,
                usd=0.0 if price is None else price.of(prompt, completion),
                unpriced=len(usages) if price is None else 0,
            )
        )
