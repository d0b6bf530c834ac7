"""Tells Ray Serve which specialists to run. The only module that deploys them; decides nothing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from ray import serve

from shoal.cluster.ports import Application, HeldReport
from shoal.serve.placing import DEPLOYMENT, GATEWAY_APPLICATION, PREFIX
from shoal.serve.specialist_host import SpecialistHost

log = logging.getLogger("shoal.serve")

_REPORT_DEADLINE_S = 2.0
#: what makes Serve restart replicas when it changes; the list of versions is not part of it
_CODE_VERSION = "1"


class ServeHandle:
    """A Serve handle as `HostHandle`. Use it in one event loop only.

    Serve is asked for it with the first question: the application may not be there yet, and each question then raises.
    """

    def __init__(self, application: str) -> None:
        self._application = application
        self._found: Any = None

    async def ask(self, key: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        said: Mapping[str, Any] = await self._handle().ask.remote(key, body)
        return said

    async def ping(self) -> Mapping[str, Any]:
        said: Mapping[str, Any] = await self._handle().ping.remote()
        return said

    async def report(self) -> Mapping[str, Any]:
        said: Mapping[str, Any] = await self._handle().report.remote()
        return said

    def _handle(self) -> Any:
        if self._found is None:
            self._found = serve.get_deployment_handle(DEPLOYMENT, app_name=self._application)
        return self._found


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


class ServeCarrier:
    """Implements `Carrier` of `shoal.cluster.ports` over Ray Serve. Use it in one event loop only."""

    def __init__(self) -> None:
        self._handles: dict[str, ServeHandle] = {}
        #: application -> what it was last told to run; equal things are not told twice
        self._told: dict[str, Application] = {}

    async def carry_out(self, applications: Sequence[Application]) -> None:
        """Make exactly these specialist applications run. Returns when Serve has been told; loading goes on.

        Raises:
            whatever Ray raises where Serve does not answer; call it again then.
        """
        await asyncio.to_thread(self._deploy, applications)

    def _deploy(self, applications: Sequence[Application]) -> None:
        running = {name for name in serve.status().applications if name.startswith(PREFIX)}
        wanted = {application.name: application for application in applications}
        targets = [
            specialist_application(found.name, found.items, dict(found.options))
            for found in applications
            if found.name not in running or self._told.get(found.name) != found
        ]
        if targets:
            serve.run_many(
                targets,
                wait_for_ingress_deployment_creation=False,
                wait_for_applications_running=False,
            )
        for name in running - set(wanted) - {GATEWAY_APPLICATION}:
            serve.delete(name, _blocking=False)
            self._handles.pop(name, None)
        self._told = wanted

    async def reports(self, names: Sequence[str]) -> Mapping[str, HeldReport]:
        """What those that answer say of themselves."""
        found = await asyncio.gather(*(self._report(name) for name in names))
        return {name: report for name, report in zip(names, found, strict=True) if report is not None}

    async def _report(self, name: str) -> HeldReport | None:
        try:
            if name not in self._handles:
                self._handles[name] = ServeHandle(name)
            said = await asyncio.wait_for(self._handles[name].report(), _REPORT_DEADLINE_S)
        except Exception as error:  # noqa: BLE001 - a replica that is starting or dead says nothing
            log.debug("%s does not report: %r", name, error)
            return None
        corrupt = {key: str(said["failed"][key]) for key in said["corrupt"]}
        return HeldReport(loaded=tuple(said["loaded"]), corrupt=corrupt)
