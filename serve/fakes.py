"""Doubles for this room's ports, used by tests and examples. They are product code: typed, and true to the Protocol."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from shoal.agents.ports import SpecialistAnswer
from shoal.agents.registry.records import VersionState
from shoal.agents.routing.snapshot import Performer, Route, Snapshot
from shoal.agents.traces.chat import ChatRequest
from shoal.agents.traces.trace import Trace
from shoal.errors import DeadlineExceeded, NotFound, ShoalError, SpecialistUnavailable
from shoal.serve.ports import Observation, Place, RunAsked


@dataclass
class FunctionSpecialists:
    """Specialists that are Python functions, by version key.

    Attributes:
        delay_s: how long each takes; past the deadline it raises DeadlineExceeded.
        error: if set, is raised instead.
        asked: (version key, request) of every call.
        place: where all of them run.
    """

    functions: dict[str, Callable[[ChatRequest], SpecialistAnswer]] = field(default_factory=dict)
    delay_s: float = 0.0
    error: ShoalError | None = None
    asked: list[tuple[str, ChatRequest]] = field(default_factory=list)
    place: Place = field(default_factory=lambda: Place(node="node-a", tier="local"))

    def place_of(self, version_key: str) -> Place:
        return self.place

    async def ask(self, version_key: str, request: ChatRequest, *, deadline_s: float) -> SpecialistAnswer:
        self.asked.append((version_key, request))
        if self.error is not None:
            raise self.error
        if version_key not in self.functions:
            raise SpecialistUnavailable(
                f"No replica holds {version_key}.", remedy="It is loaded within seconds of its promotion."
            )
        if self.delay_s:
            await asyncio.sleep(min(self.delay_s, deadline_s))
        if self.delay_s > deadline_s:
            raise DeadlineExceeded(f"{version_key} did not answer within {deadline_s:g} s.")
        return self.functions[version_key](request)


@dataclass(frozen=True, kw_only=True)
class FixedDecision:
    """A decision that was made beforehand; accepts from the performer's threshold on."""

    task_id: str | None = None
    task_name: str | None = None
    performer: Performer | None = None
    shadows: Sequence[Performer] = ()
    how: str = "fixed"
    reasons: Sequence[str] = ()
    pinned: bool = False

    def accept(self, confidence: float) -> bool:
        return self.performer is not None and (self.pinned or confidence >= self.performer.threshold)


@dataclass(frozen=True)
class MarkRouter:
    """Recognises a task by a word in the system text: its `match` is `{"mark": word}`. Performers as in the snapshot."""

    snapshot: Snapshot

    def decide(self, request: ChatRequest, *, generalist_model: str | None) -> FixedDecision:
        if request.model == "generalist":
            return FixedDecision(how="named", reasons=("the client asks for the generalist",))
        kind, _, name = request.model.partition("/")
        if kind == "specialist":
            if (route := self.route(name)) is None:
                raise NotFound(
                    f"There is no task {name!r}.", remedy="GET /v1/models lists them.", param="model"
                )
            return replace(_decision(route), pinned=True)
        if request.model not in ("auto", generalist_model):
            raise NotFound(f"There is no model {request.model!r}.", remedy="Use auto.", param="model")
        for route in self.snapshot.routes:
            if route.match["mark"] in request.system_text:
                return _decision(route)
        return FixedDecision(how="unknown", reasons=("no task has its mark in it",))

    def route(self, task_name: str) -> Route | None:
        return next((r for r in self.snapshot.routes if task_name in (r.name, r.task_id)), None)


def _decision(route: Route) -> FixedDecision:
    answering = (VersionState.SERVING, VersionState.CANARY)
    asked = next((p for p in route.performers if p.state in answering), None)
    return FixedDecision(
        task_id=route.task_id,
        task_name=route.name,
        performer=asked,
        shadows=tuple(p for p in route.performers if p.state is VersionState.SHADOW),
        how="mark",
    )


@dataclass
class ListRecord:
    """A spool that is a list. `error`, if set, is raised instead."""

    traces: list[Trace] = field(default_factory=list)
    error: ShoalError | None = None

    def __call__(self, trace: Trace) -> None:
        if self.error is not None:
            raise self.error
        self.traces.append(trace)


@dataclass
class ListObserver:
    """An observer that is a list."""

    events: list[Observation] = field(default_factory=list)

    async def __call__(self, event: Observation) -> None:
        self.events.append(event)


@dataclass
class MemoryPlans:
    """Runs that are made up at once by a function from input to output, each with one step. `error` fails them.

    Attributes:
        plans: name -> function.
        asked: every run that was started.
    """

    plans: dict[str, Callable[[Mapping[str, Any]], Any]] = field(default_factory=dict)
    error: ShoalError | None = None
    asked: list[RunAsked] = field(default_factory=list)
    _runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    _events: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    async def start(self, asked: RunAsked) -> None:
        if asked.plan is None and asked.name not in self.plans:
            raise NotFound(f"There is no plan {asked.name!r}.", remedy="GET /v1/plans lists them.")
        self.asked.append(asked)
        function = self.plans.get(asked.name, dict)
        step: dict[str, Any] = {"id": "only", "use": "auto", "status": "done", "performer": "specialist/s@1"}
        run: dict[str, Any] = {
            "id": asked.run_id,
            "plan": asked.name,
            "status": "done",
            "input": dict(asked.input),
            "output": None,
            "error": None,
            "label": asked.privacy,
            "steps": [step],
        }
        common = {"run_id": asked.run_id, "at": 1.0}
        events = [{**common, "seq": 1, "type": "run_started", "status": "running", "label": asked.privacy}]
        if self.error is not None:
            run |= {"status": "failed", "error": {"message": self.error.message, "code": self.error.code}}
            events.append(
                {**common, "seq": 2, "type": "run_failed", "status": "failed", "error": run["error"]}
            )
        else:
            run["output"] = function(asked.input)
            done = {"step": "only", "use": "auto", "status": "done", "performer": "specialist/s@1"}
            where = {"node": "edge-1", "tier": "edge", "label": asked.privacy, "parts": 1}
            events.append({**common, "seq": 2, "type": "step_done", **done, **where, "output": run["output"]})
            events.append({**common, "seq": 3, "type": "run_done", "status": "done", "output": run["output"]})
        self._runs[asked.run_id] = run
        self._events[asked.run_id] = events

    async def events(self, run_id: str, *, after: int = 0, owner: str = "") -> AsyncIterator[dict[str, Any]]:
        for event in self._events[self._run(run_id, owner)["id"]]:
            if event["seq"] > after:
                yield event

    async def get(self, run_id: str, *, owner: str = "") -> dict[str, Any]:
        return dict(self._run(run_id, owner))

    async def cancel(self, run_id: str, *, owner: str = "") -> dict[str, Any]:
        run = self._run(run_id, owner)
        run["status"] = "cancelled"
        return dict(run)

    async def resume(self, run_id: str, *, owner: str = "") -> dict[str, Any]:
        run = self._run(run_id, owner)
        run["status"] = "running"
        return dict(run)

    async def runs(self, limit: int, *, owner: str = "") -> list[dict[str, Any]]:
        own = [asked.run_id for asked in self.asked if owner in ("", asked.caller)]
        return [self._runs[run_id] for run_id in reversed(own)][:limit]

    async def names(self) -> list[str]:
        return sorted(self.plans)

    def _run(self, run_id: str, owner: str) -> dict[str, Any]:
        if not any(asked.run_id == run_id and owner in ("", asked.caller) for asked in self.asked):
            raise NotFound(
                f"There is no run {run_id!r}.", remedy="GET /v1/runs lists the newest.", param="run_id"
            )
        return self._runs[run_id]
