"""What calls took and cost, added up by task. Owns what is counted and how; `accounts.py` puts prices on it. Pure.

Sums can be merged in any order and kept as plain data, so that a large log is read once. Calls that an agent's plan answered are left out:
what their steps took stands with the calls of the steps.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypeAlias

from shoal.agents.feedback.latencies import Latencies
from shoal.agents.learning.volume import tokens_of_trace
from shoal.agents.ports import Effort
from shoal.agents.registry.records import TaskId
from shoal.agents.traces.trace import Trace

#: calls of no known task
NO_TASK = TaskId("")
_SPECIALIST, _AGENT, _GENERALIST = "specialist/", "agent/", "generalist/"

#: what is spent beside the calls of clients: `audit`: the generalist, on a call that a specialist had answered; `shadow`: a version that
#: answers nobody; `learning`: training and all about it; `again`: the generalist asked a second time; `judge`: a model that compares texts
ExpenseKind: TypeAlias = Literal["audit", "shadow", "learning", "again", "judge"]


@dataclass(slots=True, kw_only=True)
class Compute:
    """Time of engines or of training. `cpu_ms`: of one core; `gpu_ms`: of a GPU."""

    cpu_ms: float = 0.0
    gpu_ms: float = 0.0

    def merge(self, other: Compute) -> None:
        self.cpu_ms += other.cpu_ms
        self.gpu_ms += other.gpu_ms


def compute_of(effort: Effort) -> Compute:
    """An answer's."""
    return Compute(gpu_ms=effort.compute_ms) if effort.on_gpu else Compute(cpu_ms=effort.compute_ms)


@dataclass(frozen=True, slots=True, kw_only=True)
class Expense:
    """Something spent beside the calls of clients.

    Attributes:
        calls: of a model.
        prompt_tokens, completion_tokens: of them.
        usd: what they cost at the time; of those whose price was known.
        unpriced: calls whose price was not known.
        compute: of a specialist, or of training.
        energy_joules: of a GPU; None where nobody counted.
        at: seconds since the epoch.
    """

    kind: ExpenseKind
    task_id: TaskId
    at: float
    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    usd: float = 0.0
    unpriced: int = 0
    compute: Compute = field(default_factory=Compute)
    energy_joules: float | None = None


@dataclass(slots=True, kw_only=True)
class Sums:
    """One task's calls.

    Attributes:
        by_specialist: calls that a specialist answered; all others are the generalist's.
        estimated: calls whose tokens are an estimate.
        specialist_in, specialist_out: tokens of calls that specialists answered.
        generalist_in, generalist_out: tokens of the generalist's calls.
        paid_usd: what calls of the generalist cost, as their records say.
        unpriced, unpriced_in, unpriced_out: calls of the generalist whose record names no cost, and their tokens.
        compute: tier -> what specialists took there, also where they were asked and not sure enough.
        asked: calls for which a specialist's compute is recorded.
        unmeasured: calls that a specialist answered whose compute is not recorded.
        energy_joules: of those `metered`.
        local_only: calls with that label.
        first, last: seconds since the epoch; None where there are no calls.
    """

    calls: int = 0
    by_specialist: int = 0
    estimated: int = 0
    specialist_in: int = 0
    specialist_out: int = 0
    generalist_in: int = 0
    generalist_out: int = 0
    paid_usd: float = 0.0
    unpriced: int = 0
    unpriced_in: int = 0
    unpriced_out: int = 0
    asked: int = 0
    unmeasured: int = 0
    metered: int = 0
    energy_joules: float = 0.0
    local_only: int = 0
    first: float | None = None
    last: float | None = None
    compute: dict[str, Compute] = field(default_factory=dict)
    specialist_ms: Latencies = field(default_factory=Latencies)
    generalist_ms: Latencies = field(default_factory=Latencies)

    def add(self, trace: Trace) -> None:
        prompt, completion, estimated = tokens_of_trace(trace)
        self.calls += 1
        self.estimated += estimated
        self.local_only += trace.privacy == "local-only"
        self._note_time(trace.timestamp, trace.timestamp)
        by_specialist = trace.served_by.startswith(_SPECIALIST)
        if by_specialist:
            self.by_specialist += 1
            self.specialist_in += prompt
            self.specialist_out += completion
        else:
            self.generalist_in += prompt
            self.generalist_out += completion
            if trace.cost_usd is None:
                self.unpriced += 1
                self.unpriced_in += prompt
                self.unpriced_out += completion
            else:
                self.paid_usd += trace.cost_usd
        if trace.latency_ms is not None:
            (self.specialist_ms if by_specialist else self.generalist_ms).add(trace.latency_ms)
        self._add_effort(trace.tags, by_specialist)

    def _add_effort(self, tags: Mapping[str, Any], answered: bool) -> None:
        took_ms = tags.get("compute_ms")
        if not isinstance(took_ms, (int, float)):
            self.unmeasured += answered
            return
        self.asked += 1
        spent = self.compute.setdefault(str(tags.get("compute_tier") or ""), Compute())
        if tags.get("compute_on") == "gpu":
            spent.gpu_ms += took_ms
        else:
            spent.cpu_ms += took_ms
        if isinstance(joules := tags.get("energy_joules"), (int, float)):
            self.metered += 1
            self.energy_joules += joules

    def _note_time(self, first: float | None, last: float | None) -> None:
        if first is not None:
            self.first = first if self.first is None else min(self.first, first)
        if last is not None:
            self.last = last if self.last is None else max(self.last, last)

    def merge(self, other: Sums) -> None:
        for name in _COUNTS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self._note_time(other.first, other.last)
        for tier, spent in other.compute.items():
            self.compute.setdefault(tier, Compute()).merge(spent)
        self.specialist_ms.merge(other.specialist_ms)
        self.generalist_ms.merge(other.generalist_ms)

    def to_dict(self) -> dict[str, Any]:
        return {
            **{name: getattr(self, name) for name in (*_COUNTS, "first", "last")},
            "compute": {tier: [c.cpu_ms, c.gpu_ms] for tier, c in self.compute.items()},
            "specialist_ms": self.specialist_ms.to_dict(),
            "generalist_ms": self.generalist_ms.to_dict(),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Sums:
        return cls(
            **{name: data[name] for name in (*_COUNTS, "first", "last")},
            compute={t: Compute(cpu_ms=cpu, gpu_ms=gpu) for t, (cpu, gpu) in data["compute"].items()},
            specialist_ms=Latencies.from_dict(data["specialist_ms"]),
            generalist_ms=Latencies.from_dict(data["generalist_ms"]),
        )


_NOT_COUNTS = ("first", "last", "compute", "specialist_ms", "generalist_ms")
_COUNTS = tuple(f.name for f in fields(Sums) if f.name not in _NOT_COUNTS)


@dataclass(slots=True)
class Ledger:
    """Sums by task; `NO_TASK` for calls of none. `generalists`: (model, what it says of itself) -> calls."""

    sums: dict[TaskId, Sums] = field(default_factory=dict)
    generalists: Counter[tuple[str, str]] = field(default_factory=Counter)
    #: calls that a plan answered; their steps' calls are counted by themselves
    of_agents: int = 0

    def add(self, trace: Trace, task_id: TaskId | None) -> None:
        if trace.served_by.startswith(_AGENT):
            self.of_agents += 1
            return
        if not trace.served_by.startswith(_SPECIALIST):
            name = trace.served_by.removeprefix(_GENERALIST) or str(trace.response.get("model") or "")
            self.generalists[name, str(trace.response.get("system_fingerprint") or "")[:80]] += 1
        self.sums.setdefault(task_id or NO_TASK, Sums()).add(trace)

    def merge(self, other: Ledger) -> None:
        for task_id, sums in other.sums.items():
            self.sums.setdefault(task_id, Sums()).merge(sums)
        self.generalists.update(other.generalists)
        self.of_agents += other.of_agents

    def total(self) -> Sums:
        whole = Sums()
        for sums in self.sums.values():
            whole.merge(sums)
        return whole

    @property
    def hours(self) -> float | None:
        """That the calls span; None for less than one."""
        whole = self.total()
        if whole.first is None or whole.last is None or whole.last - whole.first < 3600:
            return None
        return (whole.last - whole.first) / 3600

    @property
    def stand_ins(self) -> tuple[str, ...]:
        """Generalists that say of themselves that they are none, as the demo's does."""
        return tuple(
            sorted({model for model, note in self.generalists if "stand-in" in f"{model} {note}".lower()})
        )

    def to_dict(self) -> dict[str, Any]:
        return {
            "sums": {str(task_id): sums.to_dict() for task_id, sums in self.sums.items()},
            "generalists": [[model, note, count] for (model, note), count in self.generalists.items()],
            "of_agents": self.of_agents,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Ledger:
        return cls(
            sums={TaskId(task_id): Sums.from_dict(sums) for task_id, sums in data["sums"].items()},
            generalists=Counter({(model, note): count for model, note, count in data["generalists"]}),
            of_agents=int(data["of_agents"]),
        )
