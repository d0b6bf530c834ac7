"""The router actor's way to the placement actor. Implements `ReportingDeployer`; keeps the last answer while that actor is away."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray

from shoal.agents.registry.database import Database
from shoal.agents.registry.placements import SqlPlacements
from shoal.agents.registry.records import Version
from shoal.agents.registry.store import SqlRegistry
from shoal.cluster.monitor import NAMESPACE
from shoal.cluster.placement import Weights
from shoal.cluster.placement_actor import PLACEMENT_NAME, start_placement
from shoal.config import Config, PlacementConfig
from shoal.home import Home
from shoal.serve.deployer import ServeCarrier
from shoal.serve.placing import demands_of, host_needs, items_of, last_placement
from shoal.serve.site_service import Actors

log = logging.getLogger("shoal.serve")

_DEADLINE_S = 3.0


class RemoteDeployer:
    """Use it in one event loop only.

    Args:
        names: task id -> its name, for people.
        first: what was last decided, from the store: where versions are asked until the actor answers.
    """

    def __init__(
        self,
        models: Path,
        placement: PlacementConfig,
        names: Callable[[], Mapping[str, str]],
        first: Mapping[str, Any] | None = None,
    ) -> None:
        self._models = models
        self._placement = placement
        self._names = names
        self._actors = Actors(functools.partial(ray.get_actor, namespace=NAMESPACE))
        self._wanted: tuple[Version, ...] = ()
        self._said: Mapping[str, Any] = first or {"addresses": {}, "places": {}, "loaded": [], "corrupt": {}}

    def addresses(self) -> dict[str, str]:
        """Version key -> application."""
        return dict(self._said["addresses"])

    def places(self) -> dict[str, dict[str, str]]:
        """Application -> its node and tier."""
        return {name: dict(place) for name, place in self._said["places"].items()}

    async def ensure(self, versions: Sequence[Version]) -> None:
        """Make exactly these wanted. Returns when the placement actor knows; raises while it is away."""
        self._wanted = tuple(versions)
        await self._ask()

    async def loaded(self) -> frozenset[str]:
        """Keys that answer now. Says again what is wanted, so that an actor that came back knows."""
        try:
            await self._ask()
        except Exception as error:  # noqa: BLE001 - it is away in one of many ways; it comes back
            log.debug("the placement actor does not answer: %r", error)
        return frozenset(self._said["loaded"])

    async def failures(self) -> dict[str, str]:
        """Key -> why it can never be loaded as it is."""
        return dict(self._said["corrupt"])

    async def _ask(self) -> None:
        names = await asyncio.to_thread(self._names)
        demands = await asyncio.to_thread(demands_of, self._wanted, names, self._placement, self._models)
        actor = await self._actors.get(PLACEMENT_NAME)
        asked = actor.ensure.remote(
            [asdict(demand) for demand in demands], items_of(self._wanted, self._models)
        )
        try:
            self._said = await asyncio.wait_for(asked, _DEADLINE_S)
        except ray.exceptions.ActorDiedError:
            self._actors.forget(PLACEMENT_NAME)
            raise


def make_deployer(home: Home, config: Config) -> RemoteDeployer:
    """The router actor's deployer, in its process."""
    registry = SqlRegistry(home.database)

    def names() -> dict[str, str]:
        return {task.id: task.name for task in registry.tasks()}

    first = last_placement(SqlPlacements(registry.database))
    return RemoteDeployer(home.models, config.placement, names, first)


def start_site_placement(home: Home, config: Config, *, pin: Mapping[str, float]) -> Any:
    """Start the placement actor of a site, or take the one that runs."""
    weights = config.placement.weights
    return start_placement(
        home.placement_status,
        ServeCarrier,
        functools.partial(_open_store, home),
        host_needs=host_needs(config.placement),
        weights=Weights(latency=weights.latency, energy=weights.energy, cost=weights.cost),
        pin=pin,
    )


def _open_store(home: Home) -> SqlPlacements:
    return SqlPlacements(Database(home.database))
