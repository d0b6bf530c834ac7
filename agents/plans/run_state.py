"""How a run stands: the states of its steps and parts, the events that change them, the commands that follow. Plain records.

Decides nothing; that is `machine.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeAlias

from shoal.agents.plans.plan import Skill, Step
from shoal.agents.ports import Performed
from shoal.agents.traces.chat import Privacy


class StepStatus(StrEnum):
    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    SKIPPED = "skipped"
    CANCELLED = "cancelled"


#: states in which a step is over
OVER = frozenset({StepStatus.DONE, StepStatus.FAILED, StepStatus.SKIPPED, StepStatus.CANCELLED})


class RunStatus(StrEnum):
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Why something was not done: the error's code and message. `may_pass`: another attempt may go well."""

    code: str
    message: str
    may_pass: bool = False

    def to_dict(self) -> dict[str, Any]:
        return {"code": self.code, "message": self.message}


# -- what happened


@dataclass(frozen=True, slots=True, kw_only=True)
class RunBegun:
    """The run starts, or goes on after its process died."""

    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PartPerformed:
    step: str
    part: int
    performed: Performed
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PartFailed:
    step: str
    part: int
    fault: Fault
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCancelled:
    at: float


Event: TypeAlias = RunBegun | PartPerformed | PartFailed | RunCancelled


# -- what is to be done


@dataclass(frozen=True, slots=True, kw_only=True)
class Perform:
    """Have one part of a step performed.

    Attributes:
        tool: the tool's name; empty for a model.
        payload: a tool's arguments, or a chat request's body.
        delay_s: wait so long before, because it is another attempt.
    """

    step: str
    part: int
    tool: str
    payload: Mapping[str, Any]
    label: Privacy
    tier: str
    deadline_s: float
    delay_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedPart:
    """A part that is done, as the store keeps it."""

    step: str
    part: int
    performed: Performed
    attempts: int
    started_at: float
    ended_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Keep:
    """Make this durable, all of it at once, before anything else is done or told.

    Attributes:
        events: what clients are told, in order.
        status, output, error: of the run; `status` is None while it goes on.
    """

    parts: Sequence[SavedPart] = ()
    events: Sequence[Mapping[str, Any]] = ()
    status: RunStatus | None = None
    output: Any = None
    error: Mapping[str, Any] | None = None
    at: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StopParts:
    """Break off what is under way for these steps."""

    steps: Sequence[str]


Command: TypeAlias = Keep | Perform | StopParts


# -- how it stands


@dataclass(slots=True, kw_only=True)
class PartState:
    """One part. `payload` is what the performer is given; `asked_generalist`: because another's answer broke the schema."""

    payload: dict[str, Any]
    status: StepStatus = StepStatus.RUNNING
    performed: Performed | None = None
    value: Any = None
    attempts: int = 1
    failures: int = 0
    asked_generalist: bool = False
    started_at: float = 0.0
    ended_at: float = 0.0

    def to_dict(self, part: int) -> dict[str, Any]:
        done = self.performed
        return {
            "part": part,
            "status": str(self.status),
            "performer": "" if done is None else done.performer,
            "node": "" if done is None else done.node,
            "tier": "" if done is None else done.tier,
            "trace_id": "" if done is None else done.trace_id,
            "cost_usd": None if done is None else done.cost_usd,
            "ms": round(1000 * (self.ended_at - self.started_at), 1) if self.ended_at else None,
            "asked_generalist": self.asked_generalist,
        }


@dataclass(slots=True, kw_only=True)
class StepState:
    """One step of a run.

    Attributes:
        id: with the prefix of the planner step that it stands under.
        scope: that prefix; names in its references are looked up there.
        skill: what it uses, if it is one.
        left: parts that are not done yet.
        inner: ids of the steps that its planner wrote; None for a step that is no planner, or has no plan yet.
        inner_result: what the planner's plan gives, with references.
        planned: that plan, as it was written.
    """

    id: str
    scope: str
    step: Step
    skill: Skill | None = None
    label: Privacy = "public"
    status: StepStatus = StepStatus.WAITING
    parts: list[PartState] = field(default_factory=list)
    left: int = 0
    output: Any = None
    fault: Fault | None = None
    inner: tuple[str, ...] | None = None
    inner_result: Any = None
    planned: Any = None
    started_at: float = 0.0
    ended_at: float = 0.0

    @property
    def needs(self) -> list[str]:
        """Ids of the steps that it waits for."""
        return [self.scope + name for name in self.step.needs]

    @property
    def over(self) -> bool:
        return self.status in OVER

    @property
    def tier(self) -> str:
        return self.step.tier or (self.skill.tier if self.skill else "")

    @property
    def schema(self) -> Mapping[str, Any]:
        return self.step.output or (self.skill.output if self.skill else {})

    def where(self) -> dict[str, str]:
        """Who performed it, on which node: one name where all parts agree, else the most frequent with `+n`."""
        done = [part.performed for part in self.parts if part.performed is not None]
        return {name: _told([getattr(p, name) for p in done]) for name in ("performer", "node", "tier")}

    def to_dict(self) -> dict[str, Any]:
        costs = [p.performed.cost_usd for p in self.parts if p.performed is not None]
        known = [cost for cost in costs if cost is not None]
        return {
            "id": self.id,
            "use": self.step.use,
            "status": str(self.status),
            **self.where(),
            "label": self.label,
            "each": self.step.each is not None,
            "needs": self.needs,
            "attempts": sum(part.attempts for part in self.parts),
            "started_at": self.started_at or None,
            "ended_at": self.ended_at or None,
            "trace_ids": [p.performed.trace_id for p in self.parts if p.performed and p.performed.trace_id],
            "cost_usd": sum(known) if known else None,
            "error": None if self.fault is None else self.fault.to_dict(),
            "output": self.output,
            "planned": self.planned,
            "parts": [part.to_dict(number) for number, part in enumerate(self.parts)],
        }


def failed_behind(steps: Mapping[str, StepState], names: Iterable[str]) -> StepState | None:
    """The step whose failure is why one of these was not done; None where all were."""
    todo = dict.fromkeys(names)
    while todo:
        state = steps[next(iter(todo))]
        del todo[state.id]
        if state.status is StepStatus.FAILED:
            return state
        if state.status is not StepStatus.DONE:
            todo |= dict.fromkeys(state.needs)
    return None


def _told(names: Sequence[str]) -> str:
    counts: dict[str, int] = {}
    for name in names:
        counts[name] = counts.get(name, 0) + 1
    if not counts:
        return ""
    most = max(counts, key=lambda name: counts[name])
    return most if len(counts) == 1 else f"{most} +{len(counts) - 1}"
