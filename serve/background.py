"""Work that no client waits for, bounded: over the bound new work is dropped and counted, never queued."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

log = logging.getLogger("shoal.serve")


class Background:
    """Runs coroutines beside the calls, at most `limit` at once."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        #: every task under way; the event loop itself keeps only weak references
        self._tasks: set[asyncio.Task[None]] = set()
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._tasks)

    def start(self, work: Callable[[], Coroutine[Any, Any, None]]) -> bool:
        """Start `work`, or return False where there is no room for it."""
        if len(self._tasks) >= self._limit:
            self.dropped += 1
            return False
        task = asyncio.get_running_loop().create_task(work())
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return True

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.warning("background work failed: %s", error)

    async def drain(self) -> None:
        """Wait for what is under way."""
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def close(self) -> None:
        """Stop what is under way."""
        for task in self._tasks:
            task.cancel()
        await self.drain()
