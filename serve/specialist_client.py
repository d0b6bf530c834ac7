"""Reaches the replicas that hold specialists, and never waits for one that is dead.

A replica that dies, fails, or does not answer while nobody else gets an answer from it either, is taken for away: calls that wait for it
end, and new ones are refused at once, until a ping beside them gets through. The death of a process on this machine is heard of at once,
because Serve itself would keep its calls waiting for the next replica. Plain asyncio over a handle that is handed in; knows Serve's
handles by shape only.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from shoal.agents.ports import Clock, Effort, SpecialistAnswer
from shoal.agents.traces.chat import ChatRequest
from shoal.errors import DeadlineExceeded, SpecialistUnavailable, WrongVersion
from shoal.serve.ports import Place

log = logging.getLogger("shoal.serve")

_PING_DEADLINE_S = 1.0
_PING_EVERY_S = 0.2
#: how long a call waits for an application that was never asked before
_FIRST_PING_S = 0.25
#: how often somebody is told that a replica serves another version
_TELL_EVERY_S = 5.0
_REMEDY = "The generalist answers meanwhile; it is back within seconds."


#: told of a version for which a replica answered that serves another one, and why it is taken for that
OnWrong: TypeAlias = Callable[[str, str], None]


def _nobody(version_key: str, why: str) -> None:
    return None


class HostHandle(Protocol):
    """A way to one application's replicas. Both raise whatever Ray raises where there is none."""

    async def ask(self, key: str, body: Mapping[str, Any]) -> Mapping[str, Any]: ...

    async def ping(self) -> Mapping[str, Any]:
        """Answers at once: `machine` and `pid` of the replica."""
        ...


def this_machine() -> str:
    """Tells this running machine (or container) from every other, so that process ids can be compared."""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}:{Path('/proc/self/ns/pid').stat().st_ino}"
    return ""


class Gate:
    """One application: open to calls, or away and pinged until it is back. A new one is away until its first ping is answered."""

    def __init__(self, handle: HostHandle) -> None:
        self.handle = handle
        #: why it is taken for away; empty where it is not
        self.away = ""
        self.answered_at = float("-inf")
        #: calls that wait for an answer; ended when the gate shuts
        self.waiting: set[asyncio.Future[Mapping[str, Any]]] = set()
        self._pinging: asyncio.Task[None] | None = None
        #: set once it has answered for the first time
        self._known = asyncio.Event()
        self._process: int | None = None
        self.shut("it is starting")

    def shut(self, why: str) -> None:
        """Take the application for away, and look for it."""
        self.away = why
        for call in list(self.waiting):
            call.cancel()
        self._forget_process()
        if self._pinging is None or self._pinging.done():
            self._pinging = asyncio.get_running_loop().create_task(self._ping())

    async def first_answer(self) -> None:
        """Wait a moment for an application of which nothing is known yet."""
        if not self._known.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._known.wait(), _FIRST_PING_S)

    def close(self) -> None:
        self._forget_process()
        if self._pinging is not None:
            self._pinging.cancel()

    async def _ping(self) -> None:
        while self.away:
            try:
                said = await asyncio.wait_for(self.handle.ping(), _PING_DEADLINE_S)
                self._watch(said)
                self.away = ""
                self._known.set()
            except Exception as error:  # noqa: BLE001 - whatever it is, it is not back yet
                log.debug("no ping: %r", error)
                await asyncio.sleep(_PING_EVERY_S)

    def _watch(self, said: Mapping[str, Any]) -> None:
        """Hear of the end of the replica's process, where it runs on this machine and the kernel can tell."""
        if not said.get("machine") or said["machine"] != this_machine() or not hasattr(os, "pidfd_open"):
            return
        self._forget_process()
        self._process = os.pidfd_open(int(said["pid"]))  # raises where it is dead already
        asyncio.get_running_loop().add_reader(self._process, self.shut, "its process ended")

    def _forget_process(self) -> None:
        if self._process is not None:
            asyncio.get_running_loop().remove_reader(self._process)
            os.close(self._process)
            self._process = None


class RemoteSpecialists:
    """Implements `SpecialistClient`. Use it in one event loop only.

    Args:
        handle: makes the way to an application, by its name.
        where: the newest version key -> application's name.
        places: application's name -> where its replicas are.
        digests: version key -> the digest that the newest snapshot gives for it. An answer that names another version, or
            another digest, is no answer.
        on_wrong: told of such an answer, every few seconds for each version.
    """

    def __init__(
        self,
        handle: Callable[[str], HostHandle],
        where: Callable[[], Mapping[str, str]],
        clock: Clock,
        places: Callable[[], Mapping[str, Place]] = dict,
        digests: Callable[[], Mapping[str, str]] = dict,
        on_wrong: OnWrong = _nobody,
    ) -> None:
        self._handle = handle
        self._where = where
        self._places = places
        self._clock = clock
        self._digests = digests
        self._on_wrong = on_wrong
        #: version key -> when it was last told of, on the monotonic clock
        self._told_at: dict[str, float] = {}
        self._gates: dict[str, Gate] = {}

    async def ask(self, version_key: str, request: ChatRequest, *, deadline_s: float) -> SpecialistAnswer:
        """Raises SpecialistUnavailable, WrongVersion, DeadlineExceeded."""
        application = self._where().get(version_key)
        if application is None:
            raise SpecialistUnavailable(f"No replica holds {version_key} yet.", remedy=_REMEDY)
        gate = self._gate(application)
        await gate.first_answer()
        if gate.away:
            raise SpecialistUnavailable(f"{version_key} is away: {gate.away}.", remedy=_REMEDY)
        said = await self._ask(gate, version_key, request, deadline_s)
        if "error" in said:
            raise SpecialistUnavailable(str(said["error"]), remedy=_REMEDY)
        self._check(version_key, said)
        return SpecialistAnswer(
            content=said["content"],
            confidence=float(said["confidence"]),
            reason=str(said["reason"]),
            node=str(said.get("node", "")),
            tier=str(said.get("tier", "")),
            tool_calls=tuple(said.get("tool_calls") or ()),
            effort=Effort(**said["effort"]) if said.get("effort") else None,
        )

    def _check(self, version_key: str, said: Mapping[str, Any]) -> None:
        """Whether it is the version that answered, with its own files. Raises WrongVersion."""
        wanted = self._digests().get(version_key)
        if not wanted:
            return
        version, sha256 = str(said.get("version", "")), str(said.get("sha256", ""))
        if version == version_key and sha256 == wanted:
            return
        if version != version_key:
            why = f"a replica that was asked for {version_key} answered as {version or 'nobody'}"
        else:
            why = (
                f"a replica answers as {version_key} from files {sha256[:12] or 'unknown'}, not {wanted[:12]}"
            )
        now = self._clock.monotonic()
        if now - self._told_at.get(version_key, float("-inf")) >= _TELL_EVERY_S:
            self._told_at[version_key] = now
            log.error("%s", why)
            self._on_wrong(version_key, why)
        raise WrongVersion(f"{why[0].upper()}{why[1:]}.", remedy=_REMEDY)

    async def _ask(
        self, gate: Gate, version_key: str, request: ChatRequest, deadline_s: float
    ) -> Mapping[str, Any]:
        asked_at = self._clock.monotonic()
        call = asyncio.ensure_future(gate.handle.ask(version_key, dict(request.body)))
        gate.waiting.add(call)
        try:
            said = await asyncio.wait_for(call, deadline_s)
        except TimeoutError:
            if gate.answered_at < asked_at:
                gate.shut(f"it gave no answer within {deadline_s:g} s")
            raise DeadlineExceeded(f"{version_key} did not answer within {deadline_s:g} s.") from None
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not gate.away or (task is not None and task.cancelling()):
                raise  # it is the caller who gave up
            raise SpecialistUnavailable(f"{version_key} died over the request.", remedy=_REMEDY) from None
        except Exception as error:
            gate.shut(f"{type(error).__name__}")
            raise SpecialistUnavailable(f"{version_key} died over the request.", remedy=_REMEDY) from error
        finally:
            gate.waiting.discard(call)
        gate.answered_at = self._clock.monotonic()
        return said

    def place_of(self, version_key: str) -> Place:
        """Where the application that holds the version is placed; unknown where nobody said."""
        return self._places().get(self._where().get(version_key, ""), Place())

    def expect(self, applications: Iterable[str]) -> None:
        """Get to know these applications before the first call for them."""
        for application in applications:
            self._gate(application)

    def _gate(self, application: str) -> Gate:
        if application not in self._gates:
            self._gates[application] = Gate(self._handle(application))
        return self._gates[application]

    @property
    def away(self) -> dict[str, str]:
        """Application -> why it is taken for away."""
        return {name: gate.away for name, gate in self._gates.items() if gate.away}

    def close(self) -> None:
        for gate in self._gates.values():
            gate.close()
