"""The router actor's work without Ray: reads the registry, keeps what gateways ask for, has versions loaded.

Carries out what `router_state.py` decides. Two threads of the actor call it: `tick` a few times a second, and `deploy` in an event loop
of its own, because having something deployed takes seconds. Knows nothing of how a deployment is made.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from shoal.agents.feedback.governance import carry_out
from shoal.agents.ports import Clock, Deployer, Registry
from shoal.agents.registry.records import Version
from shoal.agents.routing.router_state import (
    Command,
    EnsureLoaded,
    Event,
    LoadFailed,
    Publish,
    RegistryRead,
    RouterState,
)
from shoal.errors import ShoalError, StaleDecision

log = logging.getLogger("shoal.router")

#: how often it is looked whether all versions are loaded
_REPORT_EVERY_S = 2.0
#: after a deployment that did not work
_RETRY_S = 3.0
_MOST_WAITING = 100_000


class ReportingDeployer(Deployer, Protocol):
    """A deployer that says what became of it."""

    def addresses(self) -> Mapping[str, str]:
        """Version key -> where it is asked; opaque to this room."""
        ...

    def places(self) -> Mapping[str, Mapping[str, str]]:
        """An address -> the `node` and `tier` of what is asked there."""
        ...

    async def loaded(self) -> frozenset[str]:
        """Keys that answer now."""
        ...

    async def failures(self) -> Mapping[str, str]:
        """Key -> why it can never be loaded as it is."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """What a gateway needs to know. `token` names this very content."""

    snapshot: Mapping[str, Any]
    where: Mapping[str, str]
    places: Mapping[str, Mapping[str, str]]
    token: str

    @classmethod
    def of(
        cls,
        snapshot: Mapping[str, Any],
        where: Mapping[str, str],
        places: Mapping[str, Mapping[str, str]],
    ) -> Update:
        text = json.dumps([snapshot, where, places], sort_keys=True)
        token = hashlib.sha256(text.encode()).hexdigest()[:16]
        return cls(snapshot=snapshot, where=where, places=places, token=token)

    def to_dict(self) -> dict[str, Any]:
        return {
            "snapshot": self.snapshot,
            "where": dict(self.where),
            "places": {name: dict(place) for name, place in self.places.items()},
            "token": self.token,
        }


@dataclass
class Standing:
    """How the actor is, for `shoal status`."""

    #: the registry was read, so that `wanted` means something
    read: bool = False
    epoch: int = 0
    wanted: list[str] = field(default_factory=list)
    loaded: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    trouble: str = ""

    def to_dict(self) -> dict[str, Any]:
        return dict(vars(self))


class RouterLoop:
    """One per router actor.

    Args:
        on_update: called with every new update, from either thread.
    """

    def __init__(
        self,
        *,
        registry: Registry,
        deployer: ReportingDeployer,
        canary_share: float,
        clock: Clock,
        on_update: Callable[[Update], None],
    ) -> None:
        self._registry = registry
        self._deployer = deployer
        self._clock = clock
        self._on_update = on_update
        self._state = RouterState(canary_share=canary_share)
        self._events: queue.Queue[Event] = queue.Queue(_MOST_WAITING)
        self._epoch = -1
        self._lock = threading.Lock()
        #: what should be loaded; None before the registry was first read
        self._wanted: tuple[Version, ...] | None = None
        self._wanted_changed = threading.Event()
        self._update: Update | None = None
        self.standing = Standing()

    @property
    def update(self) -> Update | None:
        """The newest update; None before the registry was first read."""
        return self._update

    def observe(self, event: Event) -> bool:
        """Take an event from another thread. False where far too many wait already."""
        try:
            self._events.put_nowait(event)
        except queue.Full:
            return False
        return True

    # -- the deciding thread

    def tick(self) -> None:
        """Read the registry if it changed, and handle what was observed. An error leaves all as it was, to be tried again."""
        try:
            epoch = self._registry.epoch()
            if epoch != self._epoch:
                self._carry_out(self._state.handle(self._read(epoch)))
                self._epoch = epoch
                self.standing.read = True
            while True:
                try:
                    event = self._events.get_nowait()
                except queue.Empty:
                    break
                try:
                    self._carry_out(self._state.handle(event))
                except ShoalError:
                    # it is decided anew, on the registry as it is by then
                    self._epoch = -1
                    self.observe(event)
                    raise
            self.standing.trouble = ""
        except StaleDecision as error:
            log.info("%s", error)
        except ShoalError as error:
            self.standing.trouble = str(error)
            log.warning("%s", error)

    def _read(self, epoch: int) -> RegistryRead:
        return RegistryRead(epoch=epoch, tasks=self._registry.tasks(), versions=self._registry.versions())

    def _carry_out(self, commands: Sequence[Command]) -> None:
        for command in commands:
            if isinstance(command, Publish):
                self.standing.epoch = command.snapshot.epoch
                self._publish(command.snapshot.to_dict())
            elif isinstance(command, EnsureLoaded):
                self._wanted = tuple(command.versions)
                self.standing.wanted = [v.key for v in command.versions]
                self._wanted_changed.set()
            else:
                carry_out(self._registry, command)

    def _publish(self, snapshot: Mapping[str, Any]) -> None:
        with self._lock:
            update = Update.of(snapshot, dict(self._deployer.addresses()), dict(self._deployer.places()))
            if self._update is not None and update.token == self._update.token:
                return
            self._update = update
        self._on_update(update)

    # -- the deploying thread

    async def deploy(self, stop: threading.Event) -> None:
        """Have versions loaded as they are wanted, and see what became of them, until `stop`."""
        while not stop.is_set():
            await asyncio.to_thread(self._wanted_changed.wait, _REPORT_EVERY_S)
            if stop.is_set() or self._wanted is None:
                continue
            try:
                await self.deploy_once()
            except Exception as error:
                log.exception("the versions could not be deployed; trying again")
                self.standing.trouble = repr(error)
                self.want_again()
                await asyncio.sleep(_RETRY_S)

    def want_again(self) -> None:
        """Tell the deployer anew on the next round."""
        self._wanted_changed.set()

    async def deploy_once(self) -> None:
        """One round: tell the deployer if what is wanted has changed, then look what became of it."""
        if self._wanted_changed.is_set():
            self._wanted_changed.clear()
            await self._deployer.ensure(self._wanted or ())
        self.standing.loaded = sorted(await self._deployer.loaded())
        if self._update is not None:
            self._publish(self._update.snapshot)  # they may have been moved
        failures = dict(await self._deployer.failures())
        for key, reason in failures.items():
            if key not in self.standing.failed:
                self.observe(LoadFailed(version_key=key, reason=reason))
        self.standing.failed = failures
