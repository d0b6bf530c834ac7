"""The router actor: a detached Ray actor around `RouterLoop`. Only carries calls in and out, and keeps the loop's threads going.

It also moves calls from the spool to the readable traces, because it is off the request path. If it dies Ray starts it again, and it
reads back from the registry all that it had decided; gateways decide on their last snapshot meanwhile.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Protocol

import ray

from shoal.agents.curation.recognition import recognition_of
from shoal.agents.registry.store import SqlRegistry
from shoal.agents.routing.router_loop import ReportingDeployer, RouterLoop, Update
from shoal.agents.routing.router_state import WrongVersionServed
from shoal.config import Config
from shoal.home import Home
from shoal.nodes.identity import HEAD_NAME, NODE_LABEL
from shoal.nodes.spool import SystemClock

log = logging.getLogger("shoal.router")

ROUTER_NAME: Final = "shoal-router"
NAMESPACE: Final = "shoal"

_TICK_S = 0.2
_STATUS_EVERY_S = 1.0
_COMPACT_EVERY_S = 10.0
#: how often calls and runs that are past `storage.retention_days` are erased
_ERASE_EVERY_S = 3600.0
#: how often a waiting gateway's question is looked at
_LOOK_S = 0.02
#: questions about runs that may wait at once; most are those of followers
PLANS_GROUP = "plans"
_MOST_QUESTIONS = 1024


class PlanHosting(Protocol):
    """Runs plans beside the routing. Implemented over the chat service in `serve/`; has threads of its own."""

    def take(self, update: Mapping[str, Any]) -> None:
        """The router's newest update, as plain data."""
        ...

    async def answer(self, what: str, arguments: Mapping[str, Any]) -> dict[str, Any]: ...


class RouterActor:
    """One for a site, on the node of its data folder. Routes, and runs plans.

    Args:
        home: the site's data folder.
        config: `Config` as plain data.
        deployer: makes the deployer, in this process.
        plans: makes what runs plans, in this process.
    """

    def __init__(
        self,
        home: str,
        config: Mapping[str, Any],
        deployer: Callable[[], ReportingDeployer],
        plans: Callable[[], PlanHosting],
    ) -> None:
        self._home = Home(Path(home))
        self._config = Config.model_validate(config)
        self._update: Update | None = None
        self._compacted = 0
        self._compact_trouble = ""
        self._stop = threading.Event()
        self._plans = plans()
        self._loop = RouterLoop(
            registry=SqlRegistry(self._home.database),
            deployer=deployer(),
            canary_share=self._config.rollout.canary_share,
            clock=SystemClock(),
            on_update=self._take,
        )
        for name, work in (("router", self._tick), ("deploy", self._deploy), ("compact", self._compact)):
            threading.Thread(target=work, name=name, daemon=True).start()

    # -- called by gateways

    async def next_update(self, token: str, wait_s: float) -> dict[str, Any] | None:
        """The newest update as soon as it is another than the one named by `token`; None after `wait_s` without one."""
        deadline = time.monotonic() + wait_s
        while time.monotonic() < deadline:
            update = self._update
            if update is not None and update.token != token:
                return update.to_dict()
            await asyncio.sleep(_LOOK_S)
        return None

    async def wrong_version(self, version_key: str, reason: str) -> None:
        """A replica answers for a version with something else: it is taken out of service until somebody has looked."""
        self._loop.observe(WrongVersionServed(version_key=version_key, reason=reason))

    async def plans(self, what: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """A gateway's question about runs of plans: `{"ok": value}`, or `{"error": ...}`."""
        return await self._plans.answer(what, arguments)

    async def standing(self) -> dict[str, Any]:
        return self._standing()

    # -- threads

    def _take(self, update: Update) -> None:
        self._update = update
        self._plans.take(update.to_dict())

    def _tick(self) -> None:
        written = float("-inf")
        while not self._stop.is_set():
            try:
                self._loop.tick()
                if time.monotonic() - written >= _STATUS_EVERY_S:
                    self._write_status()
                    written = time.monotonic()
            except Exception:
                log.exception("the router's round failed; trying again")
            time.sleep(_TICK_S)

    def _deploy(self) -> None:
        asyncio.run(self._loop.deploy(self._stop))

    def _compact(self) -> None:
        # imported here: pyarrow is large, and not needed to route
        from shoal.agents.feedback.erasure import after_erasure
        from shoal.agents.plans.store import SqlRuns
        from shoal.agents.registry.database import Database
        from shoal.agents.registry.store import SqlRegistry
        from shoal.agents.traces.compactor import compact, expire
        from shoal.agents.traces.store import ParquetTraceStore
        from shoal.nodes.site_key import load_or_create_key

        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
        store = ParquetTraceStore(self._home, recognisers=recognition_of(self._config.privacy))
        runs = SqlRuns(Database(self._home.database))
        registry = SqlRegistry(self._home.database)
        key = load_or_create_key(self._home.key)
        kept_s = (self._config.storage.retention_days or 0) * 86_400
        erased_at = float("-inf")
        while not self._stop.wait(_COMPACT_EVERY_S):
            try:
                self._compacted += compact(self._home, key, store).calls
                if kept_s and time.monotonic() - erased_at > _ERASE_EVERY_S:
                    expire(
                        store,
                        retention_days=self._config.storage.retention_days,
                        now=time.time(),
                        forget=lambda gone: after_erasure(self._home, registry, gone),
                    )
                    runs.delete_before(time.time() - kept_s)
                    erased_at = time.monotonic()
                self._compact_trouble = ""
            except Exception as error:
                self._compact_trouble = str(error)
                log.exception("the spool could not be compacted; trying again")

    # -- status

    def _standing(self) -> dict[str, Any]:
        return {
            **self._loop.standing.to_dict(),
            "at": time.time(),
            "pid": os.getpid(),
            "compacted": self._compacted,
            "compact_trouble": self._compact_trouble,
        }

    def _write_status(self) -> None:
        draft = self._home.router_status.with_suffix(f".{os.getpid()}")
        draft.write_text(json.dumps(self._standing()), encoding="utf-8")
        draft.rename(self._home.router_status)


def start_router(
    home: Home,
    config: Config,
    deployer: Callable[[], ReportingDeployer],
    plans: Callable[[], PlanHosting],
    *,
    pin: Mapping[str, float] | None = None,
) -> Any:
    """Start the actor, or take the one that runs. Returns at once."""
    # followers of runs wait in a group of their own, so that however many they are no gateway waits for its snapshot
    actor = ray.remote(concurrency_groups={PLANS_GROUP: _MOST_QUESTIONS})(RouterActor)
    return actor.options(
        name=ROUTER_NAME,
        namespace=NAMESPACE,
        lifetime="detached",
        get_if_exists=True,
        num_cpus=0,
        max_restarts=-1,
        max_task_retries=-1,
        max_concurrency=256,
        resources=dict(pin or {}) or None,
        # on the node of the data folder: a site's own Ray has it on its head
        label_selector=None if pin else {NODE_LABEL: HEAD_NAME},
    ).remote(str(home.root), config.model_dump(mode="json"), deployer, plans)
