"""What a specialist version asks of a node. Pure but for the size of a folder; where it goes is `shoal.cluster.placement`'s."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from shoal.agents.registry.records import Version
from shoal.cluster.needs import Needs, parse_needs
from shoal.cluster.placement import Decision, Demand
from shoal.cluster.ports import PlacementStore
from shoal.config import PlacementConfig
from shoal.nodes.identity import HEAD_NAME, NODE_LABEL

GATEWAY_APPLICATION = "shoal-gateway"
#: every application of a site starts with this
PREFIX = "shoal-"
#: the one deployment of each specialist application
DEPLOYMENT = "specialists"

#: MiB that a replica holds before it has loaded anything: Python, Ray, and torch where an engine wants it
BASE_MEMORY_MB = 400.0


def folder_mb(folder: Path) -> float:
    """MiB of the files below a folder; 0 where it is missing."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / (1 << 20)


def host_needs(placement: PlacementConfig) -> Needs:
    """What a node's shared host asks for, beyond what adapters of a base add; see `host_asks`. It does not depend on what else it holds: a
    change of options restarts its replica."""
    return Needs(cpus=placement.cpus_per_replica, gpus=placement.gpus_per_replica, memory_mb=BASE_MEMORY_MB)


def demand_of(version: Version, name: str, placement: PlacementConfig, size_mb: float) -> Demand:
    """What a version asks for.

    Small versions share a host unless they need more of a GPU than it has; adapters of one base share a host of their own, whatever the size
    of the base, which it holds once. Raises ConfigError where the version's card is wrong.
    """
    shared = host_needs(placement)
    own = parse_needs(version.needs, Needs(cpus=shared.cpus, gpus=shared.gpus, tier=placement.tier))
    if "memory_mb" not in version.needs:
        own = Needs(cpus=own.cpus, gpus=own.gpus, memory_mb=BASE_MEMORY_MB + 2 * size_mb, tier=own.tier)
    base, base_mb = str(version.needs.get("base") or ""), 0.0
    # an adapter is small beside its base, whatever its size
    small = (bool(base) or size_mb < placement.host_below_mb) and own.gpus <= shared.gpus
    if base and small:
        # measured with the base in the process, and without the adapter
        base_mb, own = own.memory_mb, replace(own, memory_mb=size_mb)
    return Demand(
        key=version.key,
        name=name,
        needs=own,
        small=small,
        base=base if small else "",
        base_mb=base_mb,
        private=bool(version.needs.get("private")),
        why_tier=str(version.needs.get("why_tier") or ""),
    )


def demands_of(
    versions: Iterable[Version],
    names: Mapping[str, str],
    placement: PlacementConfig,
    models: Path,
    *,
    size: Callable[[Path], float] = folder_mb,
) -> list[Demand]:
    """Of all versions. `names`: task id -> its name."""
    return [
        demand_of(v, f"{names.get(v.task_id, v.task_id)}@{v.number}", placement, size(models / v.folder))
        for v in versions
    ]


def items_of(versions: Iterable[Version], models: Path) -> dict[str, dict[str, str]]:
    """What a host must be told to load each version: its key, folder and digest."""
    return {v.key: {"key": v.key, "folder": str(models / v.folder), "sha256": v.sha256} for v in versions}


def last_placement(store: PlacementStore) -> dict[str, Any]:
    """What the placement actor last decided: `addresses` and `places`, as it says them itself; for whoever starts while it is away."""
    body = store.read()
    decision = Decision() if body is None else Decision.from_dict(body["decision"])
    found = decision.assignments
    return {
        "addresses": {key: assignment.application for key, assignment in found.items()},
        "places": {a.application: {"node": a.node, "tier": a.tier} for a in found.values()},
        "loaded": [],
        "corrupt": {},
    }


def on_data_node(pin: Mapping[str, float]) -> dict[str, Any]:
    """Ray's actor options that keep an actor where the data folder is: a site's own Ray has it on its head."""
    return {"resources": dict(pin)} if pin else {"label_selector": {NODE_LABEL: HEAD_NAME}}
