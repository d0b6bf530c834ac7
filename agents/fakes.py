"""Doubles for this room's ports, used by tests and examples. They are product code: typed, and true to the Protocol."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

from shoal.agents.ports import SpecialistAnswer
from shoal.agents.registry.records import Version
from shoal.agents.traces.chat import Answer, ChatRequest, Delta
from shoal.errors import ShoalError


@dataclass
class FakeClock:
    """A clock that moves only when told to."""

    seconds: float = 1_700_000_000.0

    def now(self) -> float:
        return self.seconds

    def monotonic(self) -> float:
        return self.seconds

    def advance(self, seconds: float) -> None:
        self.seconds += seconds


@dataclass
class FunctionGeneralist:
    """A generalist that is a Python function from request to text. `error`, if set, is raised instead."""

    function: Callable[[ChatRequest], str]
    model: str = "fake-generalist"
    error: ShoalError | None = None
    requests: list[ChatRequest] = field(default_factory=list)

    async def chat(self, request: ChatRequest, *, deadline_s: float) -> Answer:
        self.requests.append(request)
        if self.error is not None:
            raise self.error
        return Answer(content=self.function(request), model=self.model)

    async def stream(self, request: ChatRequest, *, deadline_s: float) -> AsyncIterator[Delta]:
        answer = await self.chat(request, deadline_s=deadline_s)
        for word in (answer.content or "").split(" "):
            yield Delta(content=word + " ")
        yield Delta(finish_reason="stop")


@dataclass
class FunctionEngine:
    """An engine that is a Python function from request to answer."""

    function: Callable[[ChatRequest], SpecialistAnswer]

    def answer(self, requests: Sequence[ChatRequest]) -> list[SpecialistAnswer]:
        return [self.function(request) for request in requests]


@dataclass
class FakeDeployer:
    """Remembers which versions should be loaded."""

    deployed: list[str] = field(default_factory=list)

    async def ensure(self, versions: Sequence[Version]) -> None:
        self.deployed = [version.key for version in versions]
