"""The router's whole knowledge at one moment: an immutable, numbered snapshot that gateways decide over.

Plain data, so that it crosses processes as msgpack and outlives the actor that made it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shoal.agents.registry.records import OutputKind, Task, TaskId, Version, VersionState


@dataclass(frozen=True, slots=True, kw_only=True)
class Performer:
    """A version that may be asked.

    Attributes:
        share: of the task's conversations that go to it: 1 for a serving one, 0 for a shadow.
        sha256: of its model folder's card. Whoever answers for it must have loaded this; empty where nobody said.
    """

    key: str
    number: int
    state: VersionState
    threshold: float
    share: float
    sha256: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One task: how to recognise it, and who may answer it. At most one performer of each state."""

    task_id: TaskId
    name: str
    output_kind: OutputKind
    match: Mapping[str, Any]
    performers: Sequence[Performer] = ()
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    epoch: int = 0
    routes: Sequence[Route] = ()

    def to_dict(self) -> dict[str, Any]:
        return {
            "epoch": self.epoch,
            "routes": [
                {
                    "task_id": r.task_id,
                    "name": r.name,
                    "output_kind": str(r.output_kind),
                    "match": dict(r.match),
                    "reason": r.reason,
                    "performers": [
                        {
                            "key": p.key,
                            "number": p.number,
                            "state": str(p.state),
                            "threshold": p.threshold,
                            "share": p.share,
                            "sha256": p.sha256,
                        }
                        for p in r.performers
                    ],
                }
                for r in self.routes
            ],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Snapshot:
        return cls(
            epoch=int(data["epoch"]),
            routes=tuple(
                Route(
                    task_id=TaskId(r["task_id"]),
                    name=r["name"],
                    output_kind=OutputKind(r["output_kind"]),
                    match=r["match"],
                    reason=r["reason"],
                    performers=tuple(
                        Performer(
                            key=p["key"],
                            number=int(p["number"]),
                            state=VersionState(p["state"]),
                            threshold=float(p["threshold"]),
                            share=float(p["share"]),
                            sha256=str(p.get("sha256", "")),
                        )
                        for p in r["performers"]
                    ),
                )
                for r in data["routes"]
            ),
        )


#: states in which a version is loaded and asked, best first
LIVE_STATES = (VersionState.SERVING, VersionState.CANARY, VersionState.SHADOW)


def build_snapshot(
    *, epoch: int, tasks: Sequence[Task], versions: Sequence[Version], canary_share: float
) -> Snapshot:
    """The newest version in each live state of each task; excluded tasks have no performers."""
    by_task: dict[TaskId, list[Version]] = {}
    for version in versions:
        by_task.setdefault(version.task_id, []).append(version)
    share = {VersionState.SERVING: 1.0, VersionState.CANARY: canary_share, VersionState.SHADOW: 0.0}
    routes = []
    for task in tasks:
        performers = []
        for state in LIVE_STATES:
            live = [v for v in by_task.get(task.id, ()) if v.state == state and not task.excluded]
            if live:
                newest = max(live, key=lambda v: v.number)
                performers.append(
                    Performer(
                        key=newest.key,
                        number=newest.number,
                        state=state,
                        threshold=newest.threshold,
                        share=share[state],
                        sha256=newest.sha256,
                    )
                )
        routes.append(
            Route(
                task_id=task.id,
                name=task.name,
                output_kind=task.output_kind,
                match=task.match,
                performers=tuple(performers),
                reason="excluded by the owner" if task.excluded else task.reason,
            )
        )
    return Snapshot(epoch=epoch, routes=tuple(routes))
