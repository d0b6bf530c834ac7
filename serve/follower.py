"""A gateway's copy of what the router actor knows: the newest snapshot, and where each version is asked.

It follows the actor by asking again and again for what is newer; while the actor is away it keeps deciding on what it has. A gateway that
starts meanwhile reads the registry itself. Plain asyncio; the way to the actor is handed in.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from shoal.agents.routing.router import Router
from shoal.agents.routing.snapshot import Snapshot
from shoal.serve.ports import Place

log = logging.getLogger("shoal.serve")

#: how long the actor may let a question wait before it says that there is nothing new
WAIT_S = 10.0
_RETRY_S = 0.25

#: (token of what is known, how long to wait) -> an update as plain data, or None where there is nothing newer
Fetch = Callable[[str, float], Awaitable[Mapping[str, Any] | None]]


def _ignore(applications: Iterable[str]) -> None:
    return None


class Follower:
    """Call `start` in the event loop of the gateway.

    Args:
        fetch: raises whatever it likes while the actor is away.
        on_where: told the applications that are asked from now on; called in the event loop.
    """

    def __init__(self, fetch: Fetch, on_where: Callable[[Iterable[str]], None] = _ignore) -> None:
        self._fetch = fetch
        self._on_where = on_where
        self._router: Router | None = None
        self._where: Mapping[str, str] = {}
        self._places: Mapping[str, Place] = {}
        self._digests: Mapping[str, str] = {}
        self._token = ""
        self._task: asyncio.Task[None] | None = None
        #: why the actor does not answer; empty when it does
        self.trouble = "not asked yet"

    @property
    def router(self) -> Router | None:
        return self._router

    @property
    def where(self) -> Mapping[str, str]:
        """Version key -> application."""
        return self._where

    @property
    def places(self) -> Mapping[str, Place]:
        """Application -> where its replicas run."""
        return self._places

    @property
    def digests(self) -> Mapping[str, str]:
        """Version key -> digest of its files."""
        return self._digests

    def take_update(self, update: Mapping[str, Any]) -> None:
        """As `take`, with an update as it crosses processes."""
        places = {name: Place(**place) for name, place in update["places"].items()}
        self.take(Snapshot.from_dict(update["snapshot"]), update["where"], places, update["token"])

    def take(
        self,
        snapshot: Snapshot,
        where: Mapping[str, str],
        places: Mapping[str, Place],
        token: str = "",
    ) -> None:
        """Decide on this from now on. An older epoch than the one at hand is ignored."""
        if self._router is not None and snapshot.epoch < self._router.snapshot.epoch:
            return
        if self._router is None or snapshot != self._router.snapshot:
            self._router = Router(snapshot, before=self._router)
            self._digests = {p.key: p.sha256 for route in snapshot.routes for p in route.performers}
        # assignments without an await between them: no call sees a half
        self._where = dict(where)
        self._places = dict(places)
        self._token = token
        self._on_where(set(where.values()))

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._follow())

    async def _follow(self) -> None:
        while True:
            try:
                update = await asyncio.wait_for(self._fetch(self._token, WAIT_S), WAIT_S + 5)
                self.trouble = ""
                if update is not None:
                    self.take_update(update)
            except Exception as error:  # noqa: BLE001 - the actor is away in one of many ways; it comes back
                self.trouble = f"the router actor does not answer: {type(error).__name__}"
                log.debug("no update: %r", error)
                await asyncio.sleep(_RETRY_S)

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
