"""A run as the store keeps it, and what a store must do. Plain records and one Protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from shoal.agents.plans.plan import Plan
from shoal.agents.plans.run_state import Keep, RunStatus, SavedPart
from shoal.agents.traces.chat import Privacy


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRow:
    """What a run is from its start on. `caller`: a key's id, or `local`; what it costs is counted there."""

    id: str
    plan: Plan
    input: Mapping[str, Any]
    label: Privacy
    caller: str
    created_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRun:
    """All that is kept of a run. `view`: how it stood at its end; None while it goes on."""

    row: RunRow
    status: RunStatus
    view: Mapping[str, Any] | None
    parts: Sequence[SavedPart]
    events: Sequence[Mapping[str, Any]]


class RunStore(Protocol):
    """Durable plans and runs; blocking. Implemented by `agents/plans/store.py`."""

    def put_plan(self, plan: Plan, *, at: float) -> None: ...

    def plan(self, name: str) -> Plan:
        """Raises NotFound."""
        ...

    def plans(self) -> list[Plan]: ...

    def create(self, row: RunRow) -> None: ...

    def keep(self, run_id: str, keeps: Sequence[Keep], view: dict[str, Any] | None) -> None: ...

    def reopen(self, run_id: str) -> None: ...

    def load(self, run_id: str) -> StoredRun:
        """Raises NotFound."""
        ...

    def caller(self, run_id: str) -> str:
        """Who started it. Raises NotFound."""
        ...

    def running(self) -> list[str]: ...

    def runs(self, limit: int, *, caller: str = "") -> list[dict[str, Any]]: ...
