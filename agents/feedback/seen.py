"""What the feedback loop decides on: the registry as it is, and what gateways saw, as plain data across processes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from shoal.agents.contract.sequential import Wager
from shoal.agents.feedback.counting import CountingRegistry
from shoal.agents.feedback.feedback_state import ComparisonSeen, RegistryRead
from shoal.agents.feedback.governance import LIVE_STATES
from shoal.agents.feedback.rollout import Tally
from shoal.agents.feedback.watching import InputsSeen, Watch
from shoal.agents.ports import Registry
from shoal.agents.registry.evidence import Evidence


class EvidenceRegistry(Registry, CountingRegistry, Protocol):
    """A registry that also keeps feedback, and what was seen of versions."""

    def evidence(self, key: str) -> Evidence: ...

    def broken(self) -> Mapping[str, tuple[str, float]]:
        """version key -> why its contract was called broken, and when."""
        ...

    def contradict(self, key: str, trace_id: str, answered_at: float | None) -> bool:
        """Keep it that an answer was contradicted, or (None) no longer is; returns whether that is news."""
        ...

    def feedback_after(self, sequence: int) -> list[dict[str, Any]]:
        """What came after the piece of this number, oldest first, each with its own `sequence`."""
        ...


def read_registry(registry: EvidenceRegistry, epoch: int) -> RegistryRead:
    """All that is decided on. `epoch`: from before."""
    tasks, versions = registry.tasks(), registry.versions()
    seen = {v.key: registry.evidence(v.key) for v in versions if v.state in LIVE_STATES}
    known = {v.key for v in versions}
    return RegistryRead(
        epoch=epoch,
        tasks=tasks,
        versions=versions,
        tallies={key: tallies_of(evidence) for key, evidence in seen.items()},
        watches={key: Watch.from_dict(evidence.watch) for key, evidence in seen.items()},
        contradicted={key: evidence.contradicted for key, evidence in seen.items()},
        broken={key: why for key, why in registry.broken().items() if key in known},
    )


def tallies_of(evidence: Evidence) -> dict[str, Tally]:
    """The tallies of a version, as the registry keeps them."""
    return {
        name: Tally(stage.compared, stage.agreed, Wager.from_dict(stage.bets))
        for name, stage in evidence.stages.items()
    }


def event_of(data: Mapping[str, Any]) -> ComparisonSeen | InputsSeen:
    """Read what a gateway saw as it crosses processes; see `serve/ports.py`."""
    if data.get("type") == "inputs":
        return InputsSeen(
            version_key=str(data["version_key"]),
            bins=tuple(int(n) for n in data["bins"]),
            given=int(data["given"]),
            key=str(data["key"]),
            since=float(data["since"]),
            at=float(data["at"]),
        )
    return ComparisonSeen(
        version_key=str(data["version_key"]),
        judged=bool(data["judged"]),
        agrees=bool(data["agrees"]),
        accepted=bool(data["accepted"]),
    )
