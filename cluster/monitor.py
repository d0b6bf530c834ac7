"""The node monitor: a Ray actor on each node that says what it measures. Decides nothing."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from shoal.nodes.telemetry import MachineTelemetry

NAMESPACE = "shoal"


class NodeMonitor:
    """One for a node. What it must remember is nothing: it measures anew."""

    def __init__(self) -> None:
        self._telemetry = MachineTelemetry(time.time)
        self._telemetry.read()  # the first look has no span to measure over

    def reading(self) -> dict[str, Any]:
        """`Reading` as plain data."""
        return asdict(self._telemetry.read())


def monitor_name(node_id: str) -> str:
    return f"shoal-monitor-{node_id[:12]}"


def start_monitor(node_id: str) -> Any:
    """The monitor of a node, made where there is none. Returns at once."""
    return (
        ray.remote(NodeMonitor)
        .options(
            name=monitor_name(node_id),
            namespace=NAMESPACE,
            lifetime="detached",
            get_if_exists=True,
            num_cpus=0,
            max_restarts=-1,
            max_task_retries=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node_id=node_id, soft=False),
        )
        .remote()
    )
