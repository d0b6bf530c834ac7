"""The chat service of one process of the site, put together: of a gateway replica, and of the router actor for its plans.

Owns the wiring of what both need (spool, registry, generalist, specialists, the followed snapshot) and its end. Use it in one event
loop. What is decided, asked and answered is in `service.py`.
"""

from __future__ import annotations

import asyncio
import functools
import secrets
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from shoal.agents.curation.recognition import recognition_of
from shoal.agents.feedback.audit_view import AuditView, audit_of
from shoal.agents.feedback.expenses import SqlExpenses
from shoal.agents.learning.learning_costs import TaskCosts
from shoal.agents.learning.second_opinions import Adviser
from shoal.agents.ports import Clock
from shoal.agents.registry.placements import SqlPlacements
from shoal.agents.registry.records import TaskId
from shoal.agents.registry.store import SqlRegistry
from shoal.agents.routing.router_actor import ROUTER_NAME
from shoal.agents.routing.snapshot import LIVE_STATES, Snapshot, build_snapshot
from shoal.agents.traces.chat import Usage
from shoal.agents.traces.trace import Trace
from shoal.config import Config
from shoal.errors import ShoalError, StorageFull
from shoal.home import Home
from shoal.nodes.identity import node_identity
from shoal.nodes.site_key import load_or_create_key
from shoal.nodes.spool import SpoolWriter, SystemClock
from shoal.serve.advisers import second_opinions
from shoal.serve.deployer import ServeHandle
from shoal.serve.expense_book import ExpenseBook
from shoal.serve.follower import Fetch, Follower
from shoal.serve.generalist import OpenAIGeneralist
from shoal.serve.judging import SlotJudge
from shoal.serve.metrics import Metrics
from shoal.serve.placing import last_placement
from shoal.serve.ports import Observe, Place, Plans
from shoal.serve.service import ChatService
from shoal.serve.settings import ServiceSettings
from shoal.serve.specialist_client import RemoteSpecialists
from shoal.serve.specialist_host import this_place

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


def make_generalist(config: Config) -> OpenAIGeneralist | None:
    """The configured generalist; None where there is none. Raises ConfigError where its key is not set."""
    generalist = config.generalist
    if generalist is None:
        return None
    return OpenAIGeneralist(generalist.base_url, generalist.model, generalist.api_key(), generalist.timeout_s)


def first_snapshot(
    registry: SqlRegistry, config: Config
) -> tuple[Snapshot, dict[str, str], dict[str, Place]]:
    """What to decide on before the router actor has said anything: a process answers whether or not that lives."""
    snapshot = build_snapshot(
        epoch=registry.epoch(),
        tasks=registry.tasks(),
        versions=registry.versions(),
        canary_share=config.rollout.canary_share,
    )
    placed = last_placement(SqlPlacements(registry.database))
    places = {name: Place(**place) for name, place in placed["places"].items()}
    return snapshot, placed["addresses"], places


class SiteService:
    """One process's service.

    Args:
        writer: begins the name of the process's spool files.
        fetch: asks the router actor for what is newer.
        observe, charge, plans: see `ChatService`.
        actors: finds the router actor, which is told of replicas that serve another version than they should.
    """

    def __init__(
        self,
        home: Home,
        config: Config,
        registry: SqlRegistry,
        *,
        writer: str,
        fetch: Fetch,
        observe: Observe,
        charge: Callable[[str, float], None],
        actors: Actors,
        plans: Plans | None = None,
    ) -> None:
        self._home = home
        self._registry = registry
        self._actors = actors
        clock = SystemClock()
        self._spool = SpoolWriter(
            home.spool,
            load_or_create_key(home.key),
            writer_id=writer,
            min_free_bytes=int(config.storage.min_free_mb * (1 << 20)),
        )
        self._specialists = RemoteSpecialists(
            ServeHandle,
            lambda: self.follower.where,
            clock,
            lambda: self.follower.places,
            lambda: self.follower.digests,
            self._tell_wrong_version,
        )
        self.follower = Follower(fetch, self._specialists.expect)
        self._generalist = make_generalist(config)
        self._expenses = ExpenseBook(SqlExpenses(registry.database).add)
        judge_model = second_opinions(config, ask_twice=0).loss
        here = this_place()
        identity = node_identity()
        self.service = ChatService(
            router=lambda: self.follower.router,
            generalist=self._generalist,
            specialists=self._specialists,
            record=self._record,
            observe=observe,
            clock=clock,
            ids=new_trace_id,
            node=here.node or identity.name,
            tier=here.tier or identity.tier,
            settings=ServiceSettings.from_config(config),
            judge=SlotJudge(
                self._folder_of,
                judge_model,
                recognition=recognition_of(config.privacy),
                used=functools.partial(self._judged, judge_model, clock),
            ),
            admit=RoomKeeper(home.root, config.storage.min_free_mb).admit,
            charge=charge,
            spend=self._expenses.add,
            plans=plans,
            metrics=Metrics(audits=self._audits),
        )

    async def close(self) -> None:
        await self.follower.close()
        self._specialists.close()
        await self.service.close()
        await self._expenses.close()
        if self._generalist is not None:
            await self._generalist.close()
        self._spool.close()

    def _audits(self) -> dict[str, AuditView]:
        """Of the versions that are asked. A database that does not answer has none to show."""
        try:
            names = {task.id: task.name for task in self._registry.tasks()}
            return {
                f"{names[v.task_id]}@{v.number}": audit_of(v, self._registry.evidence(v.key))
                for v in self._registry.versions()
                if v.state in LIVE_STATES and v.task_id in names
            }
        except ShoalError:
            return {}

    def _tell_wrong_version(self, version_key: str, why: str) -> None:
        self.service.background.start(functools.partial(self._tell_router, version_key, why))

    async def _tell_router(self, version_key: str, why: str) -> None:
        router = await self._actors.get(ROUTER_NAME)
        await router.wrong_version.remote(version_key, why)

    def _judged(self, model: Adviser | None, clock: Clock, version_key: str, usages: Sequence[Usage]) -> None:
        costs = TaskCosts(task_id=TaskId(version_key.rpartition("@")[0]), now=clock.now)
        costs.asked("judge", usages, None if model is None else model.price)
        for expense in costs.opinions:
            self._expenses.add(expense)

    def _record(self, trace: Trace) -> None:
        self._spool.append(trace.to_dict())

    def _folder_of(self, key: str) -> Path | None:
        """A version's model folder. Asked once for each version, beside the calls."""
        task_id = TaskId(key.rpartition("@")[0])
        folder = next((v.folder for v in self._registry.versions(task_id) if v.key == key), None)
        return None if folder is None else self._home.models / folder


class Actors:
    """Handles of the site's named actors, found once and found again where one was made anew. Use it in one event loop."""

    def __init__(self, find: Callable[[str], Any]) -> None:
        self._find = find
        self._found: dict[str, Any] = {}

    async def get(self, name: str) -> Any:
        """The actor's handle. Raises ValueError where there is none of this name."""
        if name not in self._found:
            self._found[name] = await asyncio.to_thread(self._find, name)
        return self._found[name]

    def forget(self, name: str) -> None:
        """The actor died for good: another may have been made under its name."""
        self._found.pop(name, None)
