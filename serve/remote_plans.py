"""A gateway's way to the runs of plans: the router actor carries them out. Implements `Plans`.

An actor that is being restarted is waited for; a run goes on where it stood, because every step is in the store. Knows the
actor's handle by shape only.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import asdict
from typing import Any

from shoal.errors import SiteError
from shoal.serve.ports import RunAsked
from shoal.serve.status import rebuild

log = logging.getLogger("shoal.serve")

#: how long the router actor may be away before a client is told
PATIENCE_S = 30.0
#: how long the actor may let a question for events wait
EVENTS_WAIT_S = 5.0
_RETRY_S = 0.25
#: a list of models does not wait for an actor that is away
_NAMES_PATIENCE_S = 0.5

#: (what, arguments) -> `{"ok": value}` or `{"error": ...}`; raises while the actor is away
Ask = Callable[[str, Mapping[str, Any]], Awaitable[Mapping[str, Any]]]


class RemotePlans:
    """Runs of plans, in the router actor.

    Args:
        ask: puts one question to the actor.
        patience_s: see `PATIENCE_S`.
    """

    def __init__(self, ask: Ask, *, patience_s: float = PATIENCE_S) -> None:
        self._ask = ask
        self._patience_s = patience_s
        self._names: list[str] = []

    async def start(self, asked: RunAsked) -> None:
        """Returns when the run is durable; asked again for the same `run_id` it starts nothing."""
        await self._call("start", asdict(asked))

    async def events(self, run_id: str, *, after: int = 0, owner: str = "") -> AsyncIterator[dict[str, Any]]:
        """Ends with the run. Each event once, in order."""
        seen = after
        while True:
            asked = {"run_id": run_id, "after": seen, "wait_s": EVENTS_WAIT_S, "owner": owner}
            found = await self._call("events", asked)
            for event in found["events"]:
                seen = int(event["seq"])
                yield event
            if found["ended"]:
                return

    async def get(self, run_id: str, *, owner: str = "") -> dict[str, Any]:
        return dict(await self._call("get", {"run_id": run_id, "owner": owner}))

    async def cancel(self, run_id: str, *, owner: str = "") -> dict[str, Any]:
        return dict(await self._call("cancel", {"run_id": run_id, "owner": owner}))

    async def resume(self, run_id: str, *, owner: str = "") -> dict[str, Any]:
        return dict(await self._call("resume", {"run_id": run_id, "owner": owner}))

    async def runs(self, limit: int, *, owner: str = "") -> list[dict[str, Any]]:
        return list(await self._call("runs", {"limit": limit, "owner": owner}))

    async def names(self) -> list[str]:
        """While the actor is away, those that it last said."""
        with contextlib.suppress(SiteError):
            self._names = list(await self._call("names", {}, patience_s=_NAMES_PATIENCE_S))
        return self._names

    async def _call(self, what: str, arguments: Mapping[str, Any], *, patience_s: float | None = None) -> Any:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + (self._patience_s if patience_s is None else patience_s)
        while True:
            try:
                left = max(0.05, deadline - loop.time())
                said = await asyncio.wait_for(self._ask(what, arguments), left)
                break
            except Exception as error:
                if loop.time() >= deadline:
                    raise SiteError(
                        f"The router actor did not answer within {self._patience_s:g} s.",
                        remedy="shoal status says how the site is; the run goes on when the actor is back.",
                    ) from error
                log.debug("the router actor does not answer: %r", error)
                await asyncio.sleep(_RETRY_S)
        if "error" in said:
            told = said["error"]
            raise rebuild({"error": told}, code=told["code"])
        return said["ok"]
