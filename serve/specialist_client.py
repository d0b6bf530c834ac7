"""Reaches the replicas that hold specialists, and never waits for one that is dead.

A replica that fails, or that does not answer while nobody else gets an answer from it either, is taken for away: calls are refused
at once until a ping beside them gets through. Plain asyncio over a handle that is handed in; knows Serve's handles by shape only.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from shoal.agents.ports import Clock, SpecialistAnswer
from shoal.agents.traces.chat import ChatRequest
from shoal.errors import DeadlineExceeded, SpecialistUnavailable

log = logging.getLogger("shoal.serve")

_PING_DEADLINE_S = 1.0
_PING_EVERY_S = 0.2
_REMEDY = "The generalist answers meanwhile; it is back within seconds."


class HostHandle(Protocol):
    """A way to one application's replicas. Both raise whatever Ray raises where there is none."""

    async def ask(self, key: str, body: Mapping[str, Any]) -> Mapping[str, Any]: ...

    async def ping(self) -> object: ...


class _Gate:
    """One application: open to calls, or away and pinged until it is back."""

    def __init__(self, handle: HostHandle) -> None:
        self.handle = handle
        self.away = ""
        self.answered_at = float("-inf")
        self._pinging: asyncio.Task[None] | None = None

    def shut(self, why: str) -> None:
        self.away = why
        if self._pinging is None or self._pinging.done():
            self._pinging = asyncio.get_running_loop().create_task(self._ping())

    async def _ping(self) -> None:
        while self.away:
            try:
                await asyncio.wait_for(self.handle.ping(), _PING_DEADLINE_S)
                self.away = ""
            except Exception as error:  # noqa: BLE001 - whatever it is, it is not back yet
                log.debug("no ping: %r", error)
                await asyncio.sleep(_PING_EVERY_S)

    def close(self) -> None:
        if self._pinging is not None:
            self._pinging.cancel()


class RemoteSpecialists:
    """Implements `SpecialistClient`.

    Args:
        handle: makes the way to an application, by its name.
        where: the newest version key -> application's name.
    """

    def __init__(
        self,
        handle: Callable[[str], HostHandle],
        where: Callable[[], Mapping[str, str]],
        clock: Clock,
    ) -> None:
        self._handle = handle
        self._where = where
        self._clock = clock
        self._gates: dict[str, _Gate] = {}

    async def ask(self, version_key: str, request: ChatRequest, *, deadline_s: float) -> SpecialistAnswer:
        """Raises SpecialistUnavailable, DeadlineExceeded."""
        application = self._where().get(version_key)
        if application is None:
            raise SpecialistUnavailable(f"No replica holds {version_key} yet.", remedy=_REMEDY)
        gate = self._gates.get(application)
        if gate is None:
            gate = self._gates[application] = _Gate(self._handle(application))
        if gate.away:
            raise SpecialistUnavailable(f"{version_key} is away: {gate.away}.", remedy=_REMEDY)
        asked_at = self._clock.monotonic()
        try:
            said = await asyncio.wait_for(gate.handle.ask(version_key, dict(request.body)), deadline_s)
        except TimeoutError:
            if gate.answered_at < asked_at:
                gate.shut(f"it gave no answer within {deadline_s:g} s")
            raise DeadlineExceeded(f"{version_key} did not answer within {deadline_s:g} s.") from None
        except Exception as error:
            gate.shut(f"{type(error).__name__}")
            raise SpecialistUnavailable(f"{version_key} died over the request.", remedy=_REMEDY) from error
        gate.answered_at = self._clock.monotonic()
        if "error" in said:
            raise SpecialistUnavailable(str(said["error"]), remedy=_REMEDY)
        return SpecialistAnswer(
            content=said["content"], confidence=float(said["confidence"]), reason=str(said["reason"])
        )

    @property
    def away(self) -> dict[str, str]:
        """Application -> why it is taken for away."""
        return {name: gate.away for name, gate in self._gates.items() if gate.away}

    def close(self) -> None:
        for gate in self._gates.values():
            gate.close()
