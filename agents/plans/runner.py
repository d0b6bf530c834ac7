"""Carries out runs of plans on asyncio: has steps performed, keeps what is done, tells who follows. Decides nothing.

A run is driven by one task: it takes what happened, asks the state machine what follows, makes that durable in one transaction, and
only then tells it and starts what comes next. A process that dies loses what was under way and nothing else: `adopt` goes on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from shoal.agents.plans.machine import PlanRun
from shoal.agents.plans.performing import PartPerforming
from shoal.agents.plans.plan import Plan
from shoal.agents.plans.planner import BUILT_IN, built_in_plan
from shoal.agents.plans.run_state import (
    Command,
    Event,
    Keep,
    Perform,
    RunBegun,
    RunCancelled,
    RunStatus,
    StopParts,
)
from shoal.agents.plans.runs import RunRow, RunStore, StoredRun
from shoal.agents.plans.schema import breaks
from shoal.agents.plans.standing import kept_view, put_together
from shoal.agents.plans.values import no_json
from shoal.agents.ports import Clock, StepPerformer
from shoal.agents.traces.chat import Privacy
from shoal.errors import InvalidRequest, NotFound, ShoalError, SiteError

log = logging.getLogger("shoal.plans")

_KEEP_ATTEMPTS = 4
_KEEP_WAIT_S = 0.5


@dataclass(eq=False)
class _Live:
    """A run that is being driven here."""

    run: PlanRun
    caller: str
    events: list[Mapping[str, Any]]
    inbox: asyncio.Queue[Event] = field(default_factory=asyncio.Queue)
    parts: dict[tuple[str, int], asyncio.Task[None]] = field(default_factory=dict)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    task: asyncio.Task[None] | None = None
    #: why it is driven no longer although it has not ended
    trouble: ShoalError | None = None

    @property
    def ended(self) -> bool:
        """Kept as ended, or given up here."""
        return self.trouble is not None or (self.task is not None and self.task.done())


class PlanRunner:
    """Use it in one event loop.

    Args:
        ids: a new run id.
        max_parallel: parts that are performed at once, over all runs.
    """

    def __init__(
        self,
        *,
        store: RunStore,
        performer: StepPerformer,
        clock: Clock,
        ids: Callable[[], str],
        max_parallel: int = 32,
    ) -> None:
        self._store = store
        self._performer = performer
        self._clock = clock
        self._ids = ids
        self._performing = PartPerforming(performer, clock, max_parallel)
        self._live: dict[str, _Live] = {}
        #: held from the look at what is kept of a run until it is driven, so that nobody drives it twice
        self._opening = asyncio.Lock()

    # -- runs

    async def start(
        self,
        what: str | Plan,
        input: Mapping[str, Any],
        *,
        privacy: Privacy = "internal",
        caller: str = "local",
        run_id: str | None = None,
    ) -> str:
        """Start a run of a plan, given or named; returns its id when it is durable.

        Raises:
            NotFound: there is no plan of this name.
            InvalidRequest: the input breaks the plan's schema.
        """
        plan = await self.plan(what) if isinstance(what, str) else what
        if fault := no_json(input):
            path, why = fault
            raise InvalidRequest(
                f"The input of a run must be JSON, and `{path}` is not: {why}.",
                remedy="Give JSON values.",
                param=f"input.{path}" if path else "input",
            )
        self._check_tools(plan)
        if wrong := breaks(dict(input), plan.input):
            raise InvalidRequest(
                f"The input breaks the schema of the plan {plan.name}: {wrong[0]}.",
                remedy="shoal plans show NAME shows what it takes.",
                param="input",
            )
        row = RunRow(
            id=run_id or self._ids(),
            plan=plan,
            input=dict(input),
            label=privacy,
            caller=caller,
            created_at=self._clock.now(),
        )
        async with self._opening:
            await asyncio.to_thread(self._store.create, row)
            self._drive(StoredRun(row=row, status=RunStatus.RUNNING, view=None, parts=(), events=()))
        return row.id

    def _check_tools(self, plan: Plan) -> None:
        known = self._performer.catalogue().tools
        for place, step in enumerate(plan.steps):
            kind, _, name = step.use.partition("/")
            if kind == "tool" and name not in known:
                raise InvalidRequest(
                    f"The step {step.id} uses tool/{name}, and there is no such tool here; there are {', '.join(sorted(known)) or 'none'}.",
                    remedy="shoal.yaml names the tools under `tools`.",
                    param=f"steps.{place}.use",
                )

    async def plan(self, name: str) -> Plan:
        """A plan by its name. Raises NotFound."""
        try:
            return await asyncio.to_thread(self._store.plan, name)
        except NotFound:
            if name == BUILT_IN:
                return built_in_plan()
            raise

    async def names(self) -> list[str]:
        """Plans that can be named."""
        kept = [plan.name for plan in await asyncio.to_thread(self._store.plans)]
        return sorted({BUILT_IN, *kept})

    async def caller(self, run_id: str) -> str:
        """Who started a run. Raises NotFound."""
        live = self._live.get(run_id)
        return live.caller if live is not None else await asyncio.to_thread(self._store.caller, run_id)

    async def get(self, run_id: str) -> dict[str, Any]:
        """How a run stands. Raises NotFound."""
        live = self._live.get(run_id)
        if live is not None:
            return live.run.view()
        return kept_view(await asyncio.to_thread(self._store.load, run_id))

    async def result(self, run_id: str) -> dict[str, Any]:
        """Wait for a run's end; how it stands then. Raises NotFound."""
        async for _ in self.events(run_id):
            pass
        return await self.get(run_id)

    async def events(self, run_id: str, *, after: int = 0) -> AsyncGenerator[dict[str, Any], None]:
        """A run's events with a greater `seq`, those of the past and those to come; ends with the run. Raises NotFound."""
        live = self._live.get(run_id)
        if live is None:
            stored = await asyncio.to_thread(self._store.load, run_id)
            for event in stored.events:
                if event["seq"] > after:
                    yield dict(event)
            return
        at = next((n for n, event in enumerate(live.events) if event["seq"] > after), len(live.events))
        while True:
            while at < len(live.events):
                yield dict(live.events[at])
                at += 1
            async with live.changed:
                if at < len(live.events):
                    continue
                if live.ended:
                    if live.trouble is not None:
                        raise live.trouble
                    return
                await live.changed.wait()

    async def cancel(self, run_id: str) -> dict[str, Any]:
        """End a run; one that has ended stays as it is. Raises NotFound."""
        async with self._opening:
            live = self._live.get(run_id)
            if live is None:
                stored = await asyncio.to_thread(self._store.load, run_id)
                if stored.status is not RunStatus.RUNNING:
                    return kept_view(stored)
                live = self._drive(stored)
            live.inbox.put_nowait(RunCancelled(at=self._clock.now()))
        return await self.result(run_id)

    async def resume(self, run_id: str) -> dict[str, Any]:
        """Go on with a run that failed, was cancelled or was left; what is done is not done again. Raises NotFound."""
        async with self._opening:
            if run_id not in self._live:
                stored = await asyncio.to_thread(self._store.load, run_id)
                if stored.status is not RunStatus.DONE:
                    await asyncio.to_thread(self._store.reopen, run_id)
                    self._drive(stored)
        return await self.get(run_id)

    async def runs(self, limit: int, *, caller: str = "") -> list[dict[str, Any]]:
        """The newest runs, without steps and outputs. `caller`: only those that it started."""
        return await asyncio.to_thread(self._store.runs, limit, caller=caller)

    async def adopt(self) -> list[str]:
        """Go on with all runs that have not ended; returns their ids."""
        found = await asyncio.to_thread(self._store.running)
        for run_id in found:
            async with self._opening:
                if run_id in self._live:
                    continue
                try:
                    stored = await asyncio.to_thread(self._store.load, run_id)
                    if stored.status is RunStatus.RUNNING:  # it may have ended since
                        self._drive(stored)
                except ShoalError as error:
                    log.error("the run %s cannot go on: %s", run_id, error)
        return found

    async def close(self) -> None:
        """Leave all runs where they stand."""
        tasks = [live.task for live in self._live.values() if live.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # -- driving

    def _drive(self, stored: StoredRun) -> _Live:
        run = put_together(stored, self._performer.catalogue())
        live = _Live(run=run, caller=stored.row.caller, events=list(stored.events))
        self._live[stored.row.id] = live
        live.task = asyncio.get_running_loop().create_task(self._go(live))
        return live

    async def _go(self, live: _Live) -> None:
        try:
            events: list[Event] = [RunBegun(at=self._clock.now())]
            while True:
                while not live.inbox.empty():
                    events.append(live.inbox.get_nowait())
                commands = [command for event in events for command in live.run.handle(event)]
                await self._carry_out(live, commands)
                if live.run.over:
                    return
                events = [await live.inbox.get()]
        except ShoalError as error:
            log.error("the run %s is left where it stands: %s", live.run.run_id, error)
            live.trouble = error
        except Exception as error:
            log.exception("a fault over the run %s", live.run.run_id)
            live.trouble = await self._give_up(live, error)
        finally:
            for task in list(live.parts.values()):
                task.cancel()
            self._live.pop(live.run.run_id, None)
            asyncio.get_running_loop().call_soon(self._wake, live)

    async def _give_up(self, live: _Live, error: Exception) -> ShoalError | None:
        """End the run as failed; what is wrong where not even that can be kept."""
        try:
            message = f"Shoal failed over this run ({type(error).__name__}); its log says why."
            await self._carry_out(live, live.run.give_up(self._clock.now(), message))
        except Exception:
            log.exception("the run %s is left where it stands", live.run.run_id)
            return SiteError(f"A fault over the run: {error!r}.", remedy="The site's log says more.")
        return None

    def _wake(self, live: _Live) -> None:
        self._waking = asyncio.get_running_loop().create_task(_notify(live))

    async def _carry_out(self, live: _Live, commands: Sequence[Command]) -> None:
        keeps = [command for command in commands if isinstance(command, Keep)]
        if keeps:
            await self._keep(live, keeps)
            live.events += [event for keep in keeps for event in keep.events]
            if not live.run.over:
                await _notify(live)
        for command in commands:
            if isinstance(command, StopParts):
                for key in [key for key in live.parts if key[0] in command.steps]:
                    live.parts.pop(key).cancel()
            elif isinstance(command, Perform):
                task = asyncio.get_running_loop().create_task(self._perform(live, command))
                live.parts[command.step, command.part] = task

    async def _keep(self, live: _Live, keeps: Sequence[Keep]) -> None:
        view = live.run.view() if live.run.over else None
        for attempt in range(1, _KEEP_ATTEMPTS + 1):
            try:
                await _to_its_end(asyncio.to_thread(self._store.keep, live.run.run_id, keeps, view))
                return
            except SiteError:
                if attempt == _KEEP_ATTEMPTS:
                    raise
                await asyncio.sleep(_KEEP_WAIT_S)

    async def _perform(self, live: _Live, command: Perform) -> None:
        event = await self._performing.perform(command, run_id=live.run.run_id, caller=live.caller)
        live.parts.pop((event.step, event.part), None)
        live.inbox.put_nowait(event)


async def _to_its_end(work: Coroutine[Any, Any, None]) -> None:
    """Wait for work in a thread also where this task is cancelled meanwhile: a thread cannot be stopped."""
    running = asyncio.ensure_future(work)
    try:
        await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait({running})
        raise


async def _notify(live: _Live) -> None:
    async with live.changed:
        live.changed.notify_all()
