"""The gateway as a Serve deployment: puts the chat service together in the replica's process and gives it its two ways in.

Owns the wiring of one replica and nothing else: what is decided, asked and answered is in `service.py`, the HTTP routes are in
`http_api.py`, gRPC in `grpc_api.py`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
from ray import serve

from shoal.agents.registry.keys import SqlKeys
from shoal.agents.registry.records import TaskId
from shoal.agents.registry.store import SqlRegistry
from shoal.agents.routing.router_actor import NAMESPACE, ROUTER_NAME
from shoal.agents.routing.router_state import versions_to_load
from shoal.agents.routing.snapshot import Snapshot, build_snapshot
from shoal.agents.traces.trace import Trace
from shoal.config import Config
from shoal.errors import StorageFull
from shoal.home import Home
from shoal.nodes.identity import node_identity
from shoal.nodes.site_key import load_or_create_key
from shoal.nodes.spool import SpoolWriter, SystemClock
from shoal.serve.auth import Authenticator, listens_beyond_loopback
from shoal.serve.deployer import ServeHandle
from shoal.serve.follower import Follower
from shoal.serve.generalist import OpenAIGeneralist
from shoal.serve.grpc_api import start_grpc
from shoal.serve.http_api import build_app
from shoal.serve.judging import SlotJudge
from shoal.serve.loopback import keep_to_loopback
from shoal.serve.placing import GATEWAY_APPLICATION, place
from shoal.serve.ports import FeedbackGiven, Observation
from shoal.serve.service import ChatService
from shoal.serve.settings import ServiceSettings
from shoal.serve.specialist_client import RemoteSpecialists

log = logging.getLogger("shoal.serve")

_OBSERVE_DEADLINE_S = 2.0
#: how often the free room of the disk is looked up
_ROOM_EVERY_S = 0.2


def new_trace_id() -> str:
    """Sorts by time, and cannot be guessed."""
    return f"{time.time_ns() // 1_000_000:012x}{secrets.token_hex(10)}"


class RoomKeeper:
    """Refuses new work while the disk is nearly full."""

    def __init__(self, folder: Path, min_free_mb: float) -> None:
        self._folder = folder
        self._min_free_mb = min_free_mb
        self._free_mb = float("inf")
        self._looked_at = float("-inf")

    def admit(self) -> None:
        """Raises StorageFull."""
        now = time.monotonic()
        if now - self._looked_at >= _ROOM_EVERY_S:
            self._free_mb = shutil.disk_usage(self._folder).free / (1 << 20)
            self._looked_at = now
        if self._free_mb < self._min_free_mb:
            raise StorageFull(
                f"The disk of {self._folder} must keep {self._min_free_mb:g} MiB free, and has {self._free_mb:.0f}.",
                remedy="Free some space, or lower storage.min_free_mb.",
            )


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
        self._config = Config.model_validate(config)
        clock = SystemClock()
        self._registry = SqlRegistry(self._home.database)
        self._spool = SpoolWriter(
            self._home.spool,
            load_or_create_key(self._home.key),
            writer_id=f"gateway-{os.getpid()}",
            min_free_bytes=int(self._config.storage.min_free_mb * (1 << 20)),
        )
        #: the router actor; its handle outlives its restarts
        self._actor: Any = None
        self._specialists = RemoteSpecialists(ServeHandle, lambda: self._follower.where, clock)
        self._follower = Follower(self._fetch, self._specialists.expect)
        room = RoomKeeper(self._home.root, self._config.storage.min_free_mb)
        self._auth = Authenticator(
            SqlKeys(self._registry),
            clock=clock,
            always=self._config.auth.required == "always",
            beyond_loopback=listens_beyond_loopback(self._config.serve.host),
        )
        identity = node_identity()
        self._generalist = self._make_generalist()
        self._service = ChatService(
            router=lambda: self._follower.router,
            generalist=self._generalist,
            specialists=self._specialists,
            record=self._record,
            observe=self._observe,
            clock=clock,
            ids=new_trace_id,
            node=identity.name,
            tier=identity.tier,
            settings=ServiceSettings.from_config(self._config),
            judge=SlotJudge(self._folder_of),
            admit=room.admit,
            charge=self._auth.charge,
        )
        self._follower.take(*await asyncio.to_thread(self._read_registry))
        self._follower.start()
        self._grpc = await start_grpc(
            self._service,
            self._auth,
            self._config.serve.host,
            self._config.serve.grpc_port,
            self._config.tls,
            max_body_bytes=self._config.serve.max_body_bytes,
        )

    def __serve_build_asgi_app__(self) -> Any:
        return build_app(self._service, self._auth, max_body_bytes=self._config.serve.max_body_bytes)

    async def __del__(self) -> None:
        await self._grpc.stop()
        await self._follower.close()
        self._specialists.close()
        await self._service.close()
        await self._auth.close()
        if self._generalist is not None:
            await self._generalist.close()
        self._spool.close()
        self._registry.close()

    # -- what the service needs

    def _make_generalist(self) -> OpenAIGeneralist | None:
        generalist = self._config.generalist
        if generalist is None:
            return None
        return OpenAIGeneralist(
            generalist.base_url, generalist.model, generalist.api_key(), generalist.timeout_s
        )

    def _record(self, trace: Trace) -> None:
        self._spool.append(trace.to_dict())

    async def _observe(self, event: Observation) -> None:
        """Feedback goes straight to the registry, so that it is kept also while the router actor is away."""
        if isinstance(event, FeedbackGiven):
            await asyncio.to_thread(
                self._registry.add_feedback,
                event.trace_id,
                score=event.score,
                correction=event.correction,
                comment=event.comment,
                client_id=event.client_id,
            )
            return
        actor = await self._router_actor()
        observing = actor.observe.options(max_task_retries=0).remote([event.to_dict()])
        await asyncio.wait_for(observing, _OBSERVE_DEADLINE_S)

    async def _fetch(self, token: str, wait_s: float) -> Mapping[str, Any] | None:
        actor = await self._router_actor()
        try:
            update: Mapping[str, Any] | None = await actor.next_update.options(max_task_retries=0).remote(
                token, wait_s
            )
        except ray.exceptions.ActorDiedError:
            self._actor = None  # another may have been made under the name
            raise
        return update

    async def _router_actor(self) -> Any:
        if self._actor is None:
            self._actor = await asyncio.to_thread(ray.get_actor, ROUTER_NAME, namespace=NAMESPACE)
        return self._actor

    def _folder_of(self, key: str) -> Path | None:
        """A version's model folder. Asked once for each version, beside the calls."""
        task_id = TaskId(key.rpartition("@")[0])
        folder = next((v.folder for v in self._registry.versions(task_id) if v.key == key), None)
        return None if folder is None else self._home.models / folder

    def _read_registry(self) -> tuple[Snapshot, dict[str, str]]:
        """A first snapshot of one's own: a gateway answers whether or not the router actor lives."""
        epoch = self._registry.epoch()
        versions = self._registry.versions()
        snapshot = build_snapshot(
            epoch=epoch,
            tasks=self._registry.tasks(),
            versions=versions,
            canary_share=self._config.rollout.canary_share,
        )
        loaded = versions_to_load(snapshot, versions)
        return snapshot, place(loaded, self._config.placement, self._home.models)


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
        ray_actor_options={"num_cpus": 0, **({"resources": dict(pin)} if pin else {})},
    )
    return serve.RunTarget(
        target=deployment.bind(str(home.root), config.model_dump(mode="json")),
        name=GATEWAY_APPLICATION,
        route_prefix="/",
    )
