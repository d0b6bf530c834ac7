"""Runs plans inside the router actor: a thread with an event loop of its own, and in it a chat service for the steps.

Owns the wiring and the table of questions that gateways may ask. The order of steps is the plan's state machine, their records
are the chat service's; all that must outlive the process is in the store, so an actor that is started again goes on.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import threading
import uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import ray
import yaml

from shoal.agents.plans.plan import Plan, parse_plan
from shoal.agents.plans.runner import PlanRunner
from shoal.agents.plans.store import SqlRuns
from shoal.agents.plans.tools import load_tool
from shoal.agents.registry.keys import SqlKeys
from shoal.agents.registry.records import VersionState
from shoal.agents.registry.store import SqlRegistry
from shoal.agents.routing.router_actor import NAMESPACE
from shoal.agents.traces.chat import Privacy
from shoal.config import Config
from shoal.errors import ConfigError, Conflict, NotFound, ShoalError
from shoal.home import Home
from shoal.nodes.logs import log_to
from shoal.nodes.spool import SystemClock
from shoal.serve.auth import Authenticator
from shoal.serve.call import LOCAL_CALLER
from shoal.serve.plan_performer import OwnTool, ServicePerformer
from shoal.serve.ports import Observation
from shoal.serve.ray_tools import RayTools
from shoal.serve.remote_learning import RemoteLearning
from shoal.serve.site_service import Actors, SiteService, first_snapshot, new_trace_id
from shoal.serve.status import error_object, internal_error

log = logging.getLogger("shoal.plans")

#: events that one answer holds, at most
_MOST_EVENTS = 1000
#: states of a version in which a plan may name it
_NAMED = (VersionState.SERVING, VersionState.CANARY)


def read_tools(config: Config) -> dict[str, OwnTool]:
    """The configured tools. Raises ConfigError with the path to one that is none."""
    found = {}
    for name, section in config.tools.items():
        try:
            tool = load_tool(section.python)
        except ShoalError as error:
            raise ConfigError(
                f"`tools.{name}.python`: {error.message}", remedy=error.remedy, param=f"tools.{name}.python"
            ) from error
        found[name] = OwnTool(path=section.python, tool=tool, options=section.options, tier=section.tier)
    return found


def read_plans(config: Config) -> dict[str, Plan]:
    """The configured plans by name. Raises ConfigError with the file that holds none."""
    found = {}
    for path in config.plans:
        try:
            plan = parse_plan(yaml.safe_load(path.read_text(encoding="utf-8")), source=str(path))
        except OSError as error:
            raise ConfigError(
                f"`plans`: {path} cannot be read: {error.strerror}.",
                remedy="Name a YAML file.",
                param="plans",
            ) from error
        except (yaml.YAMLError, ShoalError) as error:
            raise ConfigError(
                f"`plans`: {path} is no plan: {error}", remedy="Mend the file.", param="plans"
            ) from error
        found[plan.name] = plan
    return found


class PlanHost:
    """Implements `PlanHosting` of the router actor."""

    def __init__(self, home: Home, config: Config) -> None:
        log_to(home.logs, "router")
        self._home = home
        self._config = config
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        #: set once every run that had not ended is driven again: before that a run may look as if nobody were at it
        self._started = asyncio.Event()
        self._trouble: BaseException | None = None
        self._questions: dict[str, Callable[..., Awaitable[Any]]] = {}
        self._update: Mapping[str, Any] | None = None
        threading.Thread(target=self._run, name="plans", daemon=True).start()

    # -- from other threads

    def take(self, update: Mapping[str, Any]) -> None:
        """The router's newest update, as gateways get it."""
        self._update = update
        if self._ready.is_set():
            self._loop.call_soon_threadsafe(self._follow)

    async def answer(self, what: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """`{"ok": value}`, or `{"error": ...}` with OpenAI's error object. Called in another event loop than the host's."""
        asked = asyncio.run_coroutine_threadsafe(self._answer(what, arguments), self._loop)
        return await asyncio.wrap_future(asked)

    def close(self) -> None:
        """Leave all runs where they stand, and end the thread."""
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)

    # -- in the host's loop

    async def _close(self) -> None:
        await self._started.wait()
        if self._trouble is None:
            await self._runner.close()
            await self._site.close()
            await self._learning.close()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._start())
        except BaseException as error:
            log.exception("plans cannot be run")
            self._trouble = error
        self._started.set()
        self._ready.set()
        self._loop.call_soon(self._follow)  # what was taken meanwhile
        self._loop.run_forever()

    async def _start(self) -> None:
        clock = SystemClock()
        registry = SqlRegistry(self._home.database)
        self._auth = Authenticator(SqlKeys(registry), clock=clock)
        actors = Actors(functools.partial(ray.get_actor, namespace=NAMESPACE))
        self._learning = RemoteLearning(actors, registry, sender=f"router-{uuid.uuid4().hex}")
        self._site = SiteService(
            self._home,
            self._config,
            registry,
            writer=f"router-{os.getpid()}",
            fetch=_nothing_newer,
            observe=self._observe,
            charge=self._auth.charge,
            actors=actors,
        )
        performer = ServicePerformer(
            self._site.service, read_tools(self._config), RayTools(), self._specialists, admit=self._admit
        )
        store = SqlRuns(registry.database)
        for plan in read_plans(self._config).values():
            store.put_plan(plan, at=clock.now())
        self._runner = PlanRunner(store=store, performer=performer, clock=clock, ids=new_trace_id)
        self._questions = {
            "start": self._start_run,
            "events": self._events,
            "get": self._get,
            "cancel": self._cancel,
            "resume": self._resume,
            "runs": self._runs,
            "names": self._names,
        }
        # the router's first update may come later than the first step of a run that goes on
        self._site.follower.take(*await asyncio.to_thread(first_snapshot, registry, self._config))
        self._follow()
        await self._runner.adopt()

    def _follow(self) -> None:
        if self._update is not None:
            self._site.follower.take_update(self._update)

    def _specialists(self) -> dict[str, str]:
        router = self._site.follower.router
        if router is None:
            return {}
        return {
            route.name: f"a specialist for {route.output_kind} answers"
            for route in router.snapshot.routes
            if any(performer.state in _NAMED for performer in route.performers)
        }

    async def _observe(self, event: Observation) -> None:
        """Comparisons of the steps' calls; nobody gives feedback here."""
        await self._learning.observe(event)

    async def _admit(self, caller: str) -> None:
        """Before each call of a model: a run spends no more than its caller's key may. Raises Unauthenticated, RateLimited."""
        if caller != LOCAL_CALLER.id:
            await self._auth.check(caller)

    # -- questions

    async def _answer(self, what: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        await self._started.wait()
        try:
            if self._trouble is not None:
                raise self._trouble
            if what not in self._questions:
                raise NotFound(f"Nobody can be asked for {what!r} here.", remedy="Upgrade the gateway.")
            return {"ok": await self._questions[what](**arguments)}
        except ShoalError as error:
            return {"error": {**error_object(error), "code": error.code}}
        except Exception:
            log.exception("a fault over %s", what)
            fault = internal_error()
            return {"error": {**error_object(fault), "code": fault.code}}

    async def _start_run(
        self,
        run_id: str,
        name: str,
        input: Mapping[str, Any],
        privacy: Privacy,
        caller: str,
        plan: Mapping[str, Any] | None,
    ) -> str:
        what: str | Plan = name if plan is None else parse_plan(plan, source="plan")
        try:
            return await self._runner.start(what, input, privacy=privacy, caller=caller, run_id=run_id)
        except Conflict:  # asked twice, because the first answer got lost
            return run_id

    async def _check_owner(self, run_id: str, owner: str) -> None:
        """Raises NotFound where the run is not this caller's: to others it does not exist."""
        if owner and await self._runner.caller(run_id) != owner:
            raise NotFound(
                f"There is no run {run_id!r}.", remedy="GET /v1/runs lists the newest.", param="run_id"
            )

    async def _events(self, run_id: str, after: int, wait_s: float, owner: str = "") -> dict[str, Any]:
        """What there is after `after`, waiting up to `wait_s` for the first of it; `ended` where no more will come."""
        await self._check_owner(run_id, owner)
        found: list[dict[str, Any]] = []
        events = self._runner.events(run_id, after=after)
        waiting: asyncio.Future[dict[str, Any]] | None = None
        deadline = self._loop.time() + wait_s
        try:
            while len(found) < _MOST_EVENTS:
                waiting = asyncio.ensure_future(anext(events))
                # once there is something to tell, only what is there already is waited for
                left = 0.005 if found else max(0.0, deadline - self._loop.time())
                done, _ = await asyncio.wait({waiting}, timeout=left)
                if not done:
                    return {"events": found, "ended": False}
                found.append(waiting.result())
        except StopAsyncIteration:
            return {"events": found, "ended": True}
        finally:
            if waiting is not None and not waiting.done():
                waiting.cancel()
                await asyncio.gather(waiting, return_exceptions=True)
            await events.aclose()
        return {"events": found, "ended": False}

    async def _get(self, run_id: str, owner: str = "") -> dict[str, Any]:
        await self._check_owner(run_id, owner)
        return await self._runner.get(run_id)

    async def _cancel(self, run_id: str, owner: str = "") -> dict[str, Any]:
        await self._check_owner(run_id, owner)
        return await self._runner.cancel(run_id)

    async def _resume(self, run_id: str, owner: str = "") -> dict[str, Any]:
        await self._check_owner(run_id, owner)
        return await self._runner.resume(run_id)

    async def _runs(self, limit: int, owner: str = "") -> list[dict[str, Any]]:
        return await self._runner.runs(limit, caller=owner)

    async def _names(self) -> list[str]:
        return await self._runner.names()


async def _nothing_newer(token: str, wait_s: float) -> Mapping[str, Any] | None:
    """The host is told of updates; it never asks for one."""
    return None
