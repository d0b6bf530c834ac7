"""The feedback actor as a gateway reaches it: comparisons and news of feedback go there, learning is begun and stopped there."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import ray

from shoal.agents.feedback.feedback_actor import FEEDBACK_NAME
from shoal.agents.registry.store import SqlRegistry
from shoal.errors import SiteError
from shoal.serve.ports import Observation
from shoal.serve.site_service import Actors

_OBSERVE_DEADLINE_S = 2.0
_ASK_DEADLINE_S = 10.0


class RemoteLearning:
    """Implements `LearningControl`, and `Observe` for comparisons. Use it in one event loop."""

    def __init__(self, actors: Actors, registry: SqlRegistry) -> None:
        self._actors = actors
        self._registry = registry

    async def observe(self, event: Observation) -> None:
        """Raises where the actor does not take it in time."""
        await self._ask(
            lambda actor: actor.observe.options(max_task_retries=0).remote([event.to_dict()]),
            _OBSERVE_DEADLINE_S,
        )

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
