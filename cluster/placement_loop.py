"""The placement actor's work without Ray: keeps demands and the decision, decides anew when either or a node changes.

Decides by `placement.py`, has it carried out by a `Carrier`, keeps it in a `PlacementStore`. Nodes and their readings are handed in.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from shoal.cluster.needs import Needs, actor_options
from shoal.cluster.placement import Assignment, Decision, Demand, NodeState, Weights, decide, host_asks
from shoal.cluster.ports import Application, Carrier, PlacementStore
from shoal.nodes.identity import NODE_LABEL

log = logging.getLogger("shoal.placement")


#: rounds that a first decision waits for the telemetry of a node
_PATIENCE = 3


class PlacementLoop:
    """One per placement actor; used in its own event loop.

    Args:
        host_needs: what a node's shared host asks for.
        pin: custom resources that every replica must ask for, where models are on one node only.
    """

    def __init__(
        self,
        *,
        carrier: Carrier,
        store: PlacementStore,
        host_needs: Needs,
        weights: Weights,
        pin: Mapping[str, float],
    ) -> None:
        self._carrier = carrier
        self._store = store
        self._host_needs = host_needs
        self._weights = weights
        self._pin = dict(pin)
        #: what is wanted, and key -> what its application must be told; None before anybody said
        self.demands: tuple[Demand, ...] | None = None
        self._items: dict[str, Mapping[str, str]] = {}
        self.decision = Decision()
        self.nodes: tuple[NodeState, ...] = ()
        self.loaded: tuple[str, ...] = ()
        self.corrupt: dict[str, str] = {}
        self.trouble = ""
        self.decisions = 0
        self._shape: object = None
        self._dirty = True
        self._carried = False
        #: rounds that a new node's telemetry was waited for
        self._waited = 0

    def recall(self) -> None:
        """Read back what was decided before a restart: what runs stays where it is."""
        body = self._store.read()
        if body is None:
            return
        self.decision = Decision.from_dict(body["decision"])
        self.demands = tuple(read_demand(demand) for demand in body["demands"])
        self._items = {key: dict(item) for key, item in body["items"].items()}

    def want(self, demands: Sequence[Demand], items: Mapping[str, Mapping[str, str]]) -> None:
        """Make exactly these wanted."""
        wanted = tuple(sorted(demands, key=lambda demand: demand.key))
        if wanted != self.demands or dict(items) != self._items:
            self.demands, self._items = wanted, dict(items)
            self._dirty = True

    def afresh(self) -> None:
        """Decide once more, as if nothing ran anywhere."""
        self.decision = Decision()
        self._dirty = True

    def see(self, nodes: Sequence[NodeState]) -> None:
        """The nodes as they are now. A change of which there are, not of how busy they are, asks for a new decision."""
        self.nodes = tuple(nodes)
        shape = [(n.id, n.name, n.tier, n.alive, n.cpus, n.gpus) for n in self.nodes]
        if shape != self._shape:
            self._shape = shape
            self._dirty = True

    async def round(self, declared: Sequence[str]) -> None:
        """Decide where something changed, have it carried out, and look what became of it.

        Args:
            declared: names of the custom resources that nodes declare.
        """
        if self.demands is None or not self.nodes:
            return
        if self._dirty and self._waits_for_telemetry():
            return
        if self._dirty:
            self._dirty = False
            decision = decide(
                self.demands,
                self.nodes,
                host_needs=self._host_needs,
                previous=self.decision.assignments,
                weights=self._weights,
            )
            self.decisions += 1
            self._carried = self._carried and _same(decision, self.decision)
            self.decision = decision
            await asyncio.to_thread(self._store.write, self._body())
            await self._carry_out(declared)
        elif not self._carried:
            await self._carry_out(declared)
        await self._look()

    def _waits_for_telemetry(self) -> bool:
        """A moment's patience with monitors that are just starting; nobody waits for one for long."""
        missing = any(node.alive and node.reading is None for node in self.nodes)
        self._waited = self._waited + 1 if missing else 0
        return missing and self._waited <= _PATIENCE

    async def _carry_out(self, declared: Sequence[str]) -> None:
        try:
            await self._carrier.carry_out(self.applications(declared))
        except Exception as error:
            self._carried = False
            self.trouble = repr(error)
            raise
        self._carried, self.trouble = True, ""

    async def _look(self) -> None:
        names = sorted({found.application for found in self.decision.assignments.values()})
        reports = await self._carrier.reports(names)
        self.loaded = tuple(sorted(key for report in reports.values() for key in report.loaded))
        self.corrupt = {key: why for report in reports.values() for key, why in report.corrupt.items()}

    def applications(self, declared: Sequence[str]) -> list[Application]:
        """What the decision asks to run, by name."""
        demands = {demand.key: demand for demand in self.demands or ()}
        by_name: dict[str, list[Assignment]] = {}
        for found in self.decision.assignments.values():
            if found.key in demands:
                by_name.setdefault(found.application, []).append(found)
        applications = []
        for name, held in sorted(by_name.items()):
            first = demands[held[0].key]
            small = [demands[found.key] for found in held]
            needs = host_asks(small, self._host_needs) if first.small else first.needs
            options = actor_options(needs, declared=declared)
            options["label_selector"] = self._selector(held[0].node)
            if self._pin:
                options["resources"] = {**options.get("resources", {}), **self._pin}
            keys = sorted(found.key for found in held)
            items = tuple(self._items[key] for key in keys if key in self._items)
            applications.append(Application(name=name, node=held[0].node, options=options, items=items))
        return applications

    def _selector(self, name: str) -> dict[str, str]:
        node = next((node for node in self.nodes if node.name == name), None)
        if node is None or node.name == node.id:
            return {"ray.io/node-id": name}
        return {NODE_LABEL: name}

    # -- for others

    def addresses(self) -> dict[str, str]:
        """Key -> application."""
        return {key: found.application for key, found in self.decision.assignments.items()}

    def places(self) -> dict[str, dict[str, str]]:
        """Application -> its node and tier."""
        return {
            found.application: {"node": found.node, "tier": found.tier}
            for found in self.decision.assignments.values()
        }

    def standing(self) -> dict[str, Any]:
        """For `shoal placement` and `shoal nodes`: demands, nodes, decision."""
        return {
            "demands": [asdict(demand) for demand in self.demands or ()],
            "nodes": [asdict(node) for node in self.nodes],
            "host_needs": asdict(self._host_needs),
            "weights": asdict(self._weights),
            "decision": self.decision.to_dict(),
            "loaded": list(self.loaded),
            "decisions": self.decisions,
            "trouble": self.trouble,
        }

    def _body(self) -> dict[str, Any]:
        return {
            "demands": [asdict(demand) for demand in self.demands or ()],
            "items": {key: dict(item) for key, item in self._items.items()},
            "decision": self.decision.to_dict(),
        }


def _same(one: Decision, other: Decision) -> bool:
    def where(decision: Decision) -> dict[str, str]:
        return {key: found.application for key, found in decision.assignments.items()}

    return where(one) == where(other)


def read_demand(data: Mapping[str, Any]) -> Demand:
    """A demand as it crosses processes."""
    return Demand(**{**data, "needs": Needs(**data["needs"])})
