"""Requests that wait for the same engine are answered together. Plain asyncio; knows nothing of Ray or models.

There is no waiting time: an idle engine starts at once with what there is, and what arrives while it works makes the next batch.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Generic, TypeVar

Q = TypeVar("Q")
A = TypeVar("A")


class Batcher(Generic[Q, A]):
    """Batches for one function that answers many questions at once.

    Args:
        answer: blocking; answers in the order of the questions. Runs in `executor`, one batch at a time.
        largest: the most questions of one batch.
    """

    def __init__(
        self, answer: Callable[[Sequence[Q]], Sequence[A]], executor: Executor, *, largest: int = 32
    ) -> None:
        self._answer = answer
        self._executor = executor
        self._largest = largest
        self._waiting: list[tuple[Q, asyncio.Future[A]]] = []
        self._worker: asyncio.Task[None] | None = None

    async def ask(self, question: Q) -> A:
        """Raises what `answer` raised for the batch."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[A] = loop.create_future()
        self._waiting.append((question, future))
        if self._worker is None or self._worker.done():
            self._worker = loop.create_task(self._work())
        return await future

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            batch, self._waiting = self._waiting[: self._largest], self._waiting[self._largest :]
            # who has given up waiting is not worth a place in the batch
            batch = [(question, future) for question, future in batch if not future.done()]
            if not batch:
                continue
            try:
                answers = await loop.run_in_executor(
                    self._executor, self._answer, [question for question, _ in batch]
                )
                if len(answers) != len(batch):
                    raise RuntimeError(f"The engine gave {len(answers)} answers to {len(batch)} questions.")
            except Exception as error:  # noqa: BLE001 - whatever it is belongs to those who asked
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                continue
            for (_, future), answer in zip(batch, answers, strict=True):
                if not future.done():
                    future.set_result(answer)
