"""The gateway as a Serve deployment: gives the chat service of its process its two ways in.

Owns the wiring of one replica and nothing else: what is decided, asked and answered is in `service.py`, the HTTP routes are in
`http_api.py`, gRPC in `grpc_api.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
from ray import serve

from shoal.agents.feedback.version_events import version_events
from shoal.agents.registry.keys import SqlKeys
from shoal.agents.registry.store import SqlRegistry
from shoal.agents.routing.router_actor import NAMESPACE, PLANS_GROUP, ROUTER_NAME
from shoal.cluster.placement_actor import PLACEMENT_NAME
from shoal.config import Config
from shoal.errors import SiteError
from shoal.home import Home
from shoal.nodes.logs import log_to
from shoal.nodes.spool import SystemClock
from shoal.serve.auth import Authenticator, listens_beyond_loopback
from shoal.serve.grpc_api import start_grpc
from shoal.serve.http_api import build_app
from shoal.serve.loopback import keep_to_loopback
from shoal.serve.placing import GATEWAY_APPLICATION, on_data_node
from shoal.serve.ports import FeedbackGiven, Observation
from shoal.serve.remote_learning import RemoteLearning
from shoal.serve.remote_plans import RemotePlans
from shoal.serve.site_service import Actors, SiteService, first_snapshot

_APPLY_DEADLINE_S = 20.0


class Gateway:
    """One replica.

    Args:
        home: the site's data folder.
        config: `Config` as plain data.
    """

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, home: str, config: Mapping[str, Any]
    ) -> None:
        keep_to_loopback()
        self._home = Home(Path(home))
        log_to(self._home.logs, "gateway")
        self._config = Config.model_validate(config)
        self._registry = SqlRegistry(self._home.database)
        self._actors = Actors(functools.partial(ray.get_actor, namespace=NAMESPACE))
        self._learning = RemoteLearning(self._actors, self._registry, sender=f"gateway-{uuid.uuid4().hex}")
        self._auth = Authenticator(
            SqlKeys(self._registry),
            clock=SystemClock(),
            always=self._config.auth.required == "always",
            beyond_loopback=listens_beyond_loopback(self._config.serve.host),
        )
        self._site = SiteService(
            self._home,
            self._config,
            self._registry,
            writer=f"gateway-{os.getpid()}",
            fetch=self._fetch,
            observe=self._observe,
            charge=self._auth.charge,
            actors=self._actors,
            plans=RemotePlans(self._ask_plans),
        )
        self._site.follower.take(*await asyncio.to_thread(first_snapshot, self._registry, self._config))
        self._site.follower.start()
        self._grpc = await start_grpc(
            self._site.service,
            self._auth,
            self._config.serve.host,
            self._config.serve.grpc_port,
            self._config.tls,
            max_body_bytes=self._config.serve.max_body_bytes,
        )

    def __serve_build_asgi_app__(self) -> Any:
        return build_app(
            self._site.service,
            self._auth,
            max_body_bytes=self._config.serve.max_body_bytes,
            apply=self._apply_placement,
            learning=self._learning,
            history=functools.partial(version_events, self._registry),
        )

    async def __del__(self) -> None:
        await self._grpc.stop()
        await self._site.close()
        await self._learning.close()
        await self._auth.close()
        self._registry.close()

    # -- what the service needs

    async def _observe(self, event: Observation) -> None:
        """Feedback goes straight to the registry, so that it is kept also while the actors are away."""
        if isinstance(event, FeedbackGiven):
            await asyncio.to_thread(
                self._registry.add_feedback,
                event.trace_id,
                score=event.score,
                correction=event.correction,
                comment=event.comment,
                client_id=event.client_id,
            )
            # it is kept: that the actor hears of it at once is a kindness, and it looks for itself
            self._site.service.background.start(functools.partial(self._nudge, event))
            return
        await self._learning.observe(event)

    async def _nudge(self, event: Observation) -> None:
        with contextlib.suppress(SiteError):
            await self._learning.observe(event)

    async def _fetch(self, token: str, wait_s: float) -> Mapping[str, Any] | None:
        actor = await self._actors.get(ROUTER_NAME)
        try:
            update: Mapping[str, Any] | None = await actor.next_update.options(max_task_retries=0).remote(
                token, wait_s
            )
        except ray.exceptions.ActorDiedError:
            self._actors.forget(ROUTER_NAME)
            raise
        return update

    async def _ask_plans(self, what: str, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        actor = await self._actors.get(ROUTER_NAME)
        try:
            plans = actor.plans.options(max_task_retries=0, concurrency_group=PLANS_GROUP)
            said: Mapping[str, Any] = await plans.remote(what, dict(arguments))
        except ray.exceptions.ActorDiedError:
            self._actors.forget(ROUTER_NAME)
            raise
        return said

    async def _apply_placement(self) -> Mapping[str, Any]:
        actor = await self._actors.get(PLACEMENT_NAME)
        said: Mapping[str, Any] = await asyncio.wait_for(actor.afresh.remote(), _APPLY_DEADLINE_S)
        return said


def gateway_application(home: Home, config: Config, *, pin: Mapping[str, float] | None = None) -> Any:
    """The application to run at `/`."""
    deployment = serve.deployment(
        serve.ingress()(Gateway),
        name="gateway",
        num_replicas=1,
        max_ongoing_requests=1024,
        # a line for each call, written on the path of the call, is what the traces are for
        logging_config={"enable_access_log": False},
        health_check_period_s=1,
        health_check_timeout_s=10,
        graceful_shutdown_wait_loop_s=0.2,
        graceful_shutdown_timeout_s=5,
        ray_actor_options={"num_cpus": 0, **(on_data_node(pin or {}))},
    )
    return serve.RunTarget(
        target=deployment.bind(str(home.root), config.model_dump(mode="json")),
        name=GATEWAY_APPLICATION,
        route_prefix="/",
    )
