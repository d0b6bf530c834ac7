"""What the placement actor last said, read from its file: nodes with telemetry, placements, why here and why not there. Loads no Ray."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shoal.cluster.needs import Needs
from shoal.cluster.placement import Decision, NodeState, Weights, busy, decide
from shoal.cluster.placement_loop import read_demand
from shoal.cluster.reading import read_reading
from shoal.errors import SiteError
from shoal.nodes.telemetry import Gpus, GpuState

#: a placement actor that has written nothing for so long is away
SILENT_S = 6.0


def read_placement(path: Path) -> dict[str, Any]:
    """What the actor last said, with `age_s`. Raises SiteError where it never said anything."""
    try:
        said: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise SiteError("No placement actor runs here.", remedy="Start a site: shoal up") from None
    return {**said, "age_s": max(0.0, time.time() - float(said["at"]))}


def node_states(said: Mapping[str, Any]) -> list[NodeState]:
    """The nodes as they were."""
    found = []
    for node in said["nodes"]:
        reading = None if node["reading"] is None else read_reading(node["reading"])
        found.append(NodeState(**{**node, "reading": reading}))
    return sorted(found, key=lambda node: (not node.head, node.name))


def decision_afresh(said: Mapping[str, Any]) -> Decision:
    """What would be decided if nothing ran anywhere yet."""
    return decide(
        [read_demand(demand) for demand in said["demands"]],
        node_states(said),
        host_needs=Needs(**said["host_needs"]),
        weights=Weights(**said["weights"]),
    )


def nodes_table(said: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row for each node, for people and programs."""
    decision = Decision.from_dict(said["decision"])
    held: dict[str, int] = {}
    for found in decision.assignments.values():
        held[found.node] = held.get(found.node, 0) + 1
    return [
        {
            "name": node.name,
            "tier": node.tier,
            "simulated": node.simulated,
            "head": node.head,
            "alive": node.alive,
            "cpus": node.cpus,
            "busy": None if node.reading is None else busy(node.reading),
            "memory_total_mb": None if node.reading is None else node.reading.host.memory_total_mb,
            "memory_available_mb": None if node.reading is None else node.reading.host.memory_available_mb,
            "gpus": gpu_text(None if node.reading is None else node.reading.gpus),
            "gpu_devices": [] if node.reading is None else [d.name for d in node.reading.gpus.devices],
            "specialists": held.get(node.name, 0),
            "id": node.id,
        }
        for node in node_states(said)
    ]


def gpu_text(gpus: Gpus | None) -> str:
    """GPUs in a few words; an absence says which it is."""
    if gpus is None:
        return "no telemetry yet"
    if gpus.state is not GpuState.PRESENT:
        return {GpuState.NO_DRIVER: "no driver", GpuState.NO_DEVICE: "no device"}.get(gpus.state, "failed")
    parts = []
    for device in gpus.devices:
        used = "" if device.utilisation is None else f" {device.utilisation:.0%}"
        watts = "" if device.power_watts is None else f" {device.power_watts:.0f} W"
        free = f"{device.memory_free_mb / 1024:.0f} of {device.memory_total_mb / 1024:.0f} GB free"
        parts.append(f"{device.name}{used}{watts}, {free}")
    return "; ".join(parts)
