"""The placement actor: a detached Ray actor around `PlacementLoop`. Looks at nodes, keeps a monitor on each, carries calls in and out.

If it dies Ray starts it again; it reads back what it had decided, and what runs goes on running meanwhile.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import ray

from shoal.cluster.monitor import NAMESPACE, monitor_name, start_monitor
from shoal.cluster.needs import MEMORY_RESOURCE, Needs
from shoal.cluster.placement import NodeState, Weights
from shoal.cluster.placement_loop import PlacementLoop, read_demand
from shoal.cluster.ports import Carrier, PlacementStore
from shoal.cluster.reading import read_reading
from shoal.nodes.identity import HEAD_NAME, NODE_LABEL, SIMULATED_LABEL, TIER_LABEL, node_identity
from shoal.nodes.telemetry import Reading

log = logging.getLogger("shoal.placement")

PLACEMENT_NAME: Final = "shoal-placement"

_ROUND_S = 1.0
_READING_DEADLINE_S = 1.0
#: a monitor that said nothing for so long is not believed any more
_STALE_S = 15.0
_CUSTOM = ("node:", "memory", "object_store_memory", "CPU", "GPU", "accelerator_type")


class PlacementActor:
    """One for a site, on the node of its data folder.

    Args:
        status: a file that is rewritten each round, for commands that load no Ray.
        carrier, store: make these, in this process.
    """

    def __init__(
        self,
        status: str,
        carrier: Callable[[], Carrier],
        store: Callable[[], PlacementStore],
        host_needs: Needs,
        weights: Weights,
        pin: Mapping[str, float],
    ) -> None:
        self._status = Path(status)
        self._loop = PlacementLoop(
            carrier=carrier(), store=store(), host_needs=host_needs, weights=weights, pin=pin
        )
        self._loop.recall()
        self._lock = threading.Lock()
        self._orders: list[Callable[[], None]] = []
        self._pinned = bool(pin)
        self._here = ray.get_runtime_context().get_node_id()
        self._monitors: dict[str, Any] = {}
        self._readings: dict[str, Reading] = {}
        self._started = time.time()
        threading.Thread(target=lambda: asyncio.run(self._go()), name="placement", daemon=True).start()

    # -- called by the router actor and the gateway

    async def ensure(
        self, demands: Sequence[Mapping[str, Any]], items: Mapping[str, Mapping[str, str]]
    ) -> dict[str, Any]:
        """Make exactly these wanted, and say how it stands. Asked again and again; equal things change nothing."""
        read = [read_demand(demand) for demand in demands]
        with self._lock:
            self._orders.append(lambda: self._loop.want(read, items))
        return self._answer()

    async def afresh(self) -> dict[str, Any]:
        """Decide once more, as if nothing ran anywhere: `shoal placement apply`."""
        before = self._loop.decisions
        with self._lock:
            self._orders.append(self._loop.afresh)
        for _ in range(200):
            if self._loop.decisions > before:
                break
            await asyncio.sleep(0.05)
        return self._loop.standing()

    async def standing(self) -> dict[str, Any]:
        return self._loop.standing()

    def _answer(self) -> dict[str, Any]:
        return {
            "pid": os.getpid(),
            "addresses": self._loop.addresses(),
            "places": self._loop.places(),
            "loaded": list(self._loop.loaded),
            "corrupt": dict(self._loop.corrupt),
            "trouble": self._loop.trouble,
        }

    # -- the deciding thread

    async def _go(self) -> None:
        while True:
            started = time.monotonic()
            try:
                nodes = await asyncio.to_thread(ray.nodes)
                await self._keep_monitors(nodes)
                self._loop.see(self._states(nodes))
                with self._lock:
                    orders, self._orders = self._orders, []
                for order in orders:
                    order()
                await self._loop.round(_declared(nodes))
            except Exception:
                log.exception("a round of placement failed; trying again")
            try:
                self._write_status()
            except OSError:
                log.exception("%s cannot be written", self._status)
            wait_s = 0.05 if self._orders else _ROUND_S
            await asyncio.sleep(max(0.05, wait_s - (time.monotonic() - started)))

    async def _keep_monitors(self, nodes: Sequence[Mapping[str, Any]]) -> None:
        alive = {node["NodeID"] for node in nodes if node["Alive"]}
        for gone in [node_id for node_id in self._monitors if node_id not in alive]:
            monitor = self._monitors.pop(gone)
            self._readings.pop(gone, None)
            # it is pinned to a node that does not come back
            await asyncio.to_thread(ray.kill, monitor)
        for node_id in alive - set(self._monitors):
            self._monitors[node_id] = await asyncio.to_thread(start_monitor, node_id)
        await asyncio.gather(*(self._read(node_id, monitor) for node_id, monitor in self._monitors.items()))

    async def _read(self, node_id: str, monitor: Any) -> None:
        try:
            said = await asyncio.wait_for(monitor.reading.remote(), _READING_DEADLINE_S)
            self._readings[node_id] = read_reading(said)
        except Exception as error:  # noqa: BLE001 - a monitor that starts or died says nothing
            log.debug("no reading of %s: %r", node_id, error)
            known = self._readings.get(node_id)
            if known is not None and time.time() - known.at > _STALE_S:
                del self._readings[node_id]

    def _states(self, nodes: Sequence[Mapping[str, Any]]) -> list[NodeState]:
        found: dict[str, NodeState] = {}
        for node in nodes:
            state = node_state(node, here=self._here, models_everywhere=not self._pinned)
            # Ray remembers dead nodes; one that came back under its name replaces them
            if state.alive or state.name not in found:
                found[state.name] = replace(state, reading=self._readings.get(state.id))
        return list(found.values())

    def _write_status(self) -> None:
        monitors = {node: monitor_name(node) for node in self._monitors}
        body = {
            **self._loop.standing(),
            "at": time.time(),
            "pid": os.getpid(),
            "started_at": self._started,
            "monitors": monitors,
        }
        draft = self._status.with_suffix(f".{os.getpid()}")
        draft.write_text(json.dumps(body), encoding="utf-8")
        draft.rename(self._status)


def node_state(node: Mapping[str, Any], *, here: str, models_everywhere: bool) -> NodeState:
    """A row of `ray.nodes()`. A node that says no name is called by its id.

    One that says no tier counts as `cloud`: private data must not be sent where nobody said that it may go. This node knows better.
    """
    labels: Mapping[str, str] = node.get("Labels") or {}
    resources: Mapping[str, float] = node.get("Resources") or {}
    node_id = str(node["NodeID"])
    return NodeState(
        id=node_id,
        name=labels.get(NODE_LABEL) or node_id,
        tier=labels.get(TIER_LABEL) or (node_identity().tier if node_id == here else "cloud"),
        alive=bool(node["Alive"]),
        simulated=labels.get(SIMULATED_LABEL) == "1",
        head=node_id == here,
        has_models=models_everywhere or node_id == here,
        cpus=float(resources.get("CPU", 0.0)),
        gpus=float(resources.get("GPU", 0.0)),
        memory_mb=float(resources.get(MEMORY_RESOURCE, float(resources.get("memory", 0.0)) / (1 << 20))),
    )


def _declared(nodes: Sequence[Mapping[str, Any]]) -> list[str]:
    names = {name for node in nodes if node["Alive"] for name in node.get("Resources") or {}}
    return sorted(name for name in names if not name.startswith(_CUSTOM))


def start_placement(
    status: Path,
    carrier: Callable[[], Carrier],
    store: Callable[[], PlacementStore],
    *,
    host_needs: Needs,
    weights: Weights,
    pin: Mapping[str, float] | None = None,
) -> Any:
    """Start the actor, or take the one that runs. Returns at once."""
    return (
        ray.remote(PlacementActor)
        .options(
            name=PLACEMENT_NAME,
            namespace=NAMESPACE,
            lifetime="detached",
            get_if_exists=True,
            num_cpus=0,
            max_restarts=-1,
            max_task_retries=0,
            max_concurrency=64,
            resources=dict(pin or {}) or None,
            # on the node of the data folder: a site's own Ray has it on its head
            label_selector=None if pin else {NODE_LABEL: HEAD_NAME},
        )
        .remote(str(status), carrier, store, host_needs, weights, dict(pin or {}))
    )
