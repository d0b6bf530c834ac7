"""One gateway's inside, put together of doubles: no Ray, no model, no disk."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from shoal.agents.fakes import FakeClock, FunctionGeneralist
from shoal.agents.feedback.ledger import Expense
from shoal.agents.ports import Generalist, SpecialistAnswer
from shoal.agents.registry.records import OutputKind, TaskId, VersionState
from shoal.agents.routing.snapshot import Performer, Route, Snapshot
from shoal.agents.traces.chat import ChatRequest
from shoal.errors import ShoalError
from shoal.serve.auth import Authenticator, KeyRing
from shoal.serve.client import AsyncClient
from shoal.serve.client_http import AsyncHttpTransport
from shoal.serve.fakes import FunctionSpecialists, ListObserver, ListRecord, MarkRouter, MemoryPlans
from shoal.serve.grpc_api import GrpcServer, start_grpc
from shoal.serve.http_api import build_app
from shoal.serve.service import ChatService
from shoal.serve.settings import ServiceSettings

SERVING = Performer(key="t1@3", number=3, state=VersionState.SERVING, threshold=0.8, share=1.0)
SHADOW = Performer(key="t2@1", number=1, state=VersionState.SHADOW, threshold=0.8, share=0.0)


def sure(request: ChatRequest) -> SpecialistAnswer:
    return SpecialistAnswer(content=f"small: {request.last_user_text}", confidence=0.95)


def unsure(request: ChatRequest) -> SpecialistAnswer:
    return SpecialistAnswer(content="a guess", confidence=0.3, reason="never seen")


def route(name: str, *performers: Performer, kind: OutputKind = OutputKind.LABEL) -> Route:
    task_id = performers[0].key.partition("@")[0] if performers else name
    return Route(
        task_id=TaskId(task_id),
        name=name,
        output_kind=kind,
        match={"mark": f"[{name}]"},
        performers=performers,
    )


@dataclass
class Bench:
    """A gateway's parts; change them before `service` is first used, but for the snapshot's epoch and routes."""

    generalist: Generalist | None = field(
        default_factory=lambda: FunctionGeneralist(lambda request: f"large: {request.last_user_text}")
    )
    specialists: FunctionSpecialists = field(
        default_factory=lambda: FunctionSpecialists({"t1@3": sure, "t2@1": sure})
    )
    record: ListRecord = field(default_factory=ListRecord)
    observer: ListObserver = field(default_factory=ListObserver)
    clock: FakeClock = field(default_factory=FakeClock)
    routes: tuple[Route, ...] = (route("triage", SERVING), route("mood", SHADOW))
    epoch: int = 7
    ready: bool = True
    settings: ServiceSettings = field(default_factory=ServiceSettings)
    keys: KeyRing | None = None
    beyond_loopback: bool = False
    admit_error: ShoalError | None = None
    charged: list[tuple[str, float]] = field(default_factory=list)
    spent: list[Expense] = field(default_factory=list)
    chance: Callable[[], float] = lambda: 0.999
    background_limit: int = 64
    plans: MemoryPlans = field(
        default_factory=lambda: MemoryPlans({"report": lambda i: [i["question"], "b"]})
    )
    _service: ChatService | None = None

    @property
    def service(self) -> ChatService:
        if self._service is None:
            numbers = itertools.count(1)
            self._service = ChatService(
                router=lambda: (
                    MarkRouter(Snapshot(epoch=self.epoch, routes=self.routes)) if self.ready else None
                ),
                generalist=self.generalist,
                specialists=self.specialists,
                record=self.record,
                observe=self.observer,
                clock=self.clock,
                ids=lambda: f"trace-{next(numbers)}",
                node="node-a",
                tier="local",
                settings=self.settings,
                admit=self._admit,
                charge=lambda key, usd: self.charged.append((key, usd)),
                spend=self.spent.append,
                chance=self.chance,
                background_limit=self.background_limit,
                plans=self.plans,
            )
        return self._service

    @property
    def auth(self) -> Authenticator:
        return Authenticator(
            self.keys, clock=self.clock, beyond_loopback=self.beyond_loopback, addresses=frozenset
        )

    def app(self, **options: Any) -> FastAPI:
        return build_app(self.service, self.auth, **options)

    def http(self, peer: str = "127.0.0.1", **options: Any) -> httpx.AsyncClient:
        """A bare HTTP client into the application, as if from `peer`."""
        transport = httpx.ASGITransport(self.app(**options), client=(peer, 50000), raise_app_exceptions=False)
        return httpx.AsyncClient(transport=transport, base_url="http://shoal.test")

    async def grpc(self, **options: Any) -> GrpcServer:
        return await start_grpc(self.service, self.auth, "127.0.0.1", 0, **options)

    def _admit(self) -> None:
        if self.admit_error is not None:
            raise self.admit_error


def ask(text: str, mark: str = "", **more: Any) -> dict[str, Any]:
    """A request body; `mark` names the task whose mark is in it."""
    messages = [{"role": "system", "content": f"[{mark}] Do it."}] if mark else []
    return {"model": "auto", "messages": [*messages, {"role": "user", "content": text}], **more}


@pytest.fixture
def bench() -> Bench:
    return Bench()


@dataclass
class Way:
    """A client into a bench over one of the two ways in."""

    name: str
    _closers: list[Callable[[], Any]] = field(default_factory=list)

    async def client(self, bench: Bench, api_key: str | None = None) -> AsyncClient:
        if self.name == "http":
            inner = httpx.ASGITransport(bench.app(), raise_app_exceptions=False)
            url = "http://shoal.test"
            client = AsyncClient(url, transport=AsyncHttpTransport(url, api_key, 10.0, transport=inner))
        else:
            server = await bench.grpc()
            self._closers.append(lambda: server.stop(0))
            client = AsyncClient(f"grpc://127.0.0.1:{server.port}", api_key, timeout=10.0)
        self._closers.insert(0, client.close)
        return client

    async def close(self) -> None:
        for close in self._closers:
            await close()


@pytest.fixture(params=["http", "grpc"])
async def way(request: pytest.FixtureRequest) -> AsyncIterator[Way]:
    made = Way(request.param)
    yield made
    await made.close()
