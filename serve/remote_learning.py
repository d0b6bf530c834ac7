"""The feedback actor as a gateway reaches it: comparisons and news of feedback go there, learning is begun and stopped there."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any

import ray

from shoal.agents.feedback.feedback_actor import FEEDBACK_NAME
from shoal.agents.registry.store import SqlRegistry
from shoal.errors import SiteError
from shoal.serve.ports import FeedbackGiven, Observation
from shoal.serve.site_service import Actors

log = logging.getLogger("shoal.serve")

_OBSERVE_DEADLINE_S = 2.0
#: comparisons that wait for the actor; about 500 bytes each
_MOST_WAITING = 20_000
_MOST_AT_ONCE = 500
_AGAIN_S = 0.3
_ASK_DEADLINE_S = 10.0


class RemoteLearning:
    """Implements `LearningControl`, and `Observe`. Use it in one event loop.

    Comparisons are sent until the actor says that they are kept, one batch at a time and numbered, so that its death loses none and
    counts none twice. They wait in memory: what waits when this very process is killed is not counted.
    """

    def __init__(self, actors: Actors, registry: SqlRegistry, *, sender: str) -> None:
        self._actors = actors
        self._registry = registry
        self._sender = sender
        self._waiting: deque[Mapping[str, Any]] = deque()
        #: how many comparisons are kept
        self._kept = 0
        self._sending: asyncio.Task[None] | None = None

    async def observe(self, event: Observation) -> None:
        """Returns at once for a comparison. Raises SiteError where too many wait, or where nobody hears of feedback."""
        if isinstance(event, FeedbackGiven):
            await self._ask(
                lambda actor: actor.nudge.options(max_task_retries=0).remote(), _OBSERVE_DEADLINE_S
            )
            return
        if len(self._waiting) >= _MOST_WAITING:
            raise SiteError(
                f"{_MOST_WAITING:,} comparisons wait for the feedback actor; this one is dropped.",
                remedy="See shoal status.",
            )
        self._waiting.append(event.to_dict())
        if self._sending is None or self._sending.done():
            self._sending = asyncio.get_running_loop().create_task(self._send())

    async def close(self) -> None:
        """Send what waits, for a moment."""
        if self._sending is not None:
            await asyncio.wait([self._sending], timeout=_OBSERVE_DEADLINE_S)
            self._sending.cancel()

    async def _send(self) -> None:
        while self._waiting:
            batch = list(itertools.islice(self._waiting, _MOST_AT_ONCE))
            try:
                kept = await self._ask(partial(_observed, self._sender, self._kept + 1, batch))
            except SiteError as error:
                log.info("%d comparisons wait: %s", len(self._waiting), error)
                kept = False
            if not kept:
                await asyncio.sleep(_AGAIN_S)
                continue
            self._kept += len(batch)
            for _ in batch:
                self._waiting.popleft()

    async def learn(self, tasks: Sequence[str]) -> Mapping[str, Any]:
        ids = await asyncio.to_thread(lambda: [self._registry.task(name).id for name in tasks])
        said: Mapping[str, Any] = await self._ask(lambda actor: actor.learn.remote(ids))
        return said

    async def standing(self) -> Mapping[str, Any]:
        said: Mapping[str, Any] = await self._ask(lambda actor: actor.standing.remote())
        return said

    async def stop(self) -> bool:
        return bool(await self._ask(lambda actor: actor.stop_learning.remote()))

    async def _ask(
        self, question: Callable[[Any], Awaitable[Any]], deadline_s: float = _ASK_DEADLINE_S
    ) -> Any:
        try:
            actor = await self._actors.get(FEEDBACK_NAME)
            return await asyncio.wait_for(question(actor), deadline_s)
        except (ray.exceptions.RayActorError, ValueError, TimeoutError) as error:
            self._actors.forget(FEEDBACK_NAME)
            raise SiteError(
                "The feedback actor does not answer.", remedy="It is started again; try in a few seconds."
            ) from error


def _observed(
    sender: str, first: int, comparisons: Sequence[Mapping[str, Any]], actor: Any
) -> Awaitable[bool]:
    answer: Awaitable[bool] = actor.observe.options(max_task_retries=0).remote(sender, first, comparisons)
    return answer
