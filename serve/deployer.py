"""Tells Ray Serve which specialists to run. The only module that deploys them; decides nothing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
from ray import serve

from shoal.agents.registry.records import Version
from shoal.cluster.needs import Needs, actor_options
from shoal.config import PlacementConfig
from shoal.serve.placing import (
    DEPLOYMENT,
    GATEWAY_APPLICATION,
    HOST_APPLICATION,
    PREFIX,
    default_needs,
    folder_mb,
    needs_of,
    place,
)
from shoal.serve.specialist_host import SpecialistHost

log = logging.getLogger("shoal.serve")

_REPORT_DEADLINE_S = 2.0
#: what makes Serve restart replicas when it changes; the list of versions is not part of it
_CODE_VERSION = "1"


class ServeHandle:
    """A Serve handle as `HostHandle`. Use it in one event loop only."""

    def __init__(self, application: str) -> None:
        self._handle = serve.get_deployment_handle(DEPLOYMENT, app_name=application)

    async def ask(self, key: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        said: Mapping[str, Any] = await self._handle.ask.remote(key, body)
        return said

    async def ping(self) -> Mapping[str, Any]:
        said: Mapping[str, Any] = await self._handle.ping.remote()
        return said

    async def report(self) -> Mapping[str, Any]:
        said: Mapping[str, Any] = await self._handle.report.remote()
        return said


def specialist_application(name: str, versions: Sequence[Mapping[str, str]], options: dict[str, Any]) -> Any:
    """A Serve application of one specialist deployment."""
    deployment = serve.deployment(
        SpecialistHost,
        name=DEPLOYMENT,
        num_replicas=1,
        max_ongoing_requests=256,
        logging_config={"enable_access_log": False},
        health_check_period_s=1,
        # loading a model may hold the interpreter for seconds
        health_check_timeout_s=15,
        graceful_shutdown_wait_loop_s=0.2,
        graceful_shutdown_timeout_s=5,
        ray_actor_options=options,
        user_config={"versions": [dict(version) for version in versions]},
    )
    # serve.run gives each deployment a random version, and Serve restarts the replicas of another version; with a fixed one a new list
    # of versions only reconfigures them (what `serve deploy` with a configuration file does)
    deployment._version = _CODE_VERSION
    return serve.RunTarget(target=deployment.bind(), name=name, route_prefix=None)


class ServeDeployer:
    """Implements `ReportingDeployer`. Use it in one event loop only.

    Args:
        pin: custom resources that every replica must ask for, to stay on the node of the model folders.
    """

    def __init__(
        self, models: Path, placement: PlacementConfig, *, pin: Mapping[str, float] | None = None
    ) -> None:
        self._models = models
        self._placement = placement
        self._pin = dict(pin or {})
        self._handles: dict[str, ServeHandle] = {}
        #: application -> what it was last told to run; equal things are not told twice
        self._told: dict[str, tuple[Any, ...]] = {}
        self._where: dict[str, str] = {}

    def addresses(self) -> dict[str, str]:
        """Version key -> application, of what was last ensured."""
        return dict(self._where)

    async def ensure(self, versions: Sequence[Version]) -> None:
        """Make exactly these versions loaded somewhere. Returns when Serve has been told; loading goes on.

        Raises:
            whatever Ray raises where Serve does not answer; call it again then.
        """
        where = await asyncio.to_thread(place, versions, self._placement, self._models)
        await asyncio.to_thread(self._deploy, versions, where)
        self._where = where

    def _deploy(self, versions: Sequence[Version], where: Mapping[str, str]) -> None:
        declared = [name for name in ray.cluster_resources() if not name.startswith("node:")]
        running = {name for name in serve.status().applications if name.startswith(PREFIX)}
        targets = []
        for name in sorted({*where.values(), *(running & {HOST_APPLICATION})}):
            held = [v for v in versions if where[v.key] == name]
            specs = [{"key": v.key, "folder": str(self._models / v.folder), "sha256": v.sha256} for v in held]
            options = self._options(name, held, declared)
            told = (specs, options)
            if name in running and self._told.get(name) == told:
                continue
            targets.append((name, told, specialist_application(name, specs, options)))
        if targets:
            serve.run_many(
                [target for _, _, target in targets],
                wait_for_ingress_deployment_creation=False,
                wait_for_applications_running=False,
            )
            self._told.update({name: told for name, told, _ in targets})
        for name in running - set(where.values()) - {HOST_APPLICATION, GATEWAY_APPLICATION}:
            serve.delete(name, _blocking=False)
            self._told.pop(name, None)
            self._handles.pop(name, None)

    def _options(self, name: str, held: Sequence[Version], declared: Sequence[str]) -> dict[str, Any]:
        # the host's options must not depend on what it holds: a change of options restarts its replica
        needs: Needs = default_needs(self._placement)
        if name != HOST_APPLICATION:
            needs = needs_of(held[0], self._placement, folder_mb(self._models / held[0].folder))
        options = actor_options(needs, declared=declared)
        if self._pin:
            options["resources"] = {**options.get("resources", {}), **self._pin}
        return options

    async def loaded(self) -> frozenset[str]:
        """Keys that answer now."""
        return frozenset(key for report in await self._reports() for key in report["loaded"])

    async def failures(self) -> dict[str, str]:
        """Key -> why it can never be loaded as it is."""
        return {key: report["failed"][key] for report in await self._reports() for key in report["corrupt"]}

    async def _reports(self) -> list[Mapping[str, Any]]:
        found = []
        for name in sorted(set(self._where.values())):
            if name not in self._handles:
                self._handles[name] = ServeHandle(name)
            try:
                found.append(await asyncio.wait_for(self._handles[name].report(), _REPORT_DEADLINE_S))
            except Exception as error:  # noqa: BLE001 - a replica that is starting or dead says nothing
                log.debug("%s does not report: %r", name, error)
        return found
