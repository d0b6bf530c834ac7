"""Doubles for this room's ports, used by tests and examples. They are product code: typed, and true to the Protocol."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shoal.agents.feedback.learning_runs import LearningRun
from shoal.agents.plans.catalogue import Catalogue, ToolInfo
from shoal.agents.ports import Performed, SpecialistAnswer
from shoal.agents.registry.records import Version
from shoal.agents.traces.chat import Answer, ChatRequest, Delta, Privacy
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
class WordEmbedder:
    """An embedder without a model: each word has a direction that its letters alone decide, and a text is the sum of its words.

    Attributes:
        meanings: words that are to mean the same, each with the word that stands for it.
        texts: all that was ever embedded, in order.
    """

    name: str = "fake"
    size: int = 16
    meanings: Mapping[str, str] = field(default_factory=dict)
    texts: list[str] = field(default_factory=list)

    @property
    def digest(self) -> str:
        facts = repr((self.name, self.size, sorted(self.meanings.items())))
        return hashlib.sha256(facts.encode()).hexdigest()

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.texts.extend(texts)
        out = np.zeros((len(texts), self.size), dtype=np.float32)
        for row, text in zip(out, texts, strict=True):
            for word in text.lower().split():
                key = self.meanings.get(word, word).encode()
                seed = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big")
                row += np.random.default_rng(seed).normal(size=self.size)
            row /= max(float(np.linalg.norm(row)), 1e-9)
        return out


@dataclass
class FakeDeployer:
    """Remembers which versions should be loaded."""

    deployed: list[str] = field(default_factory=list)

    async def ensure(self, versions: Sequence[Version]) -> None:
        self.deployed = [version.key for version in versions]


@dataclass
class FunctionPerformer:
    """A performer that is Python functions. It never waits unless told to.

    Attributes:
        answer: from a chat request's body to the answer's text.
        tools: by name, from arguments to the answer.
        infos: what the catalogue says of tools; made up for those without.
        faults: called before each performance with (step or tool, label); what it raises is raised.
        delay_s: how long each takes.
        calls: (step or tool, label, payload) of every performance that was begun.
    """

    answer: Callable[[Mapping[str, Any]], str] = lambda body: str(body["messages"][-1]["content"])
    tools: dict[str, Callable[[Mapping[str, Any]], Any]] = field(default_factory=dict)
    infos: dict[str, ToolInfo] = field(default_factory=dict)
    faults: Callable[[str, Privacy], None] = lambda name, label: None
    delay_s: float = 0.0
    performer: str = "specialist/fake@1"
    calls: list[tuple[str, Privacy, Mapping[str, Any]]] = field(default_factory=list)

    async def ask(
        self,
        body: Mapping[str, Any],
        *,
        privacy: Privacy,
        tier: str,
        step: str,
        run_id: str,
        caller: str,
        deadline_s: float,
    ) -> Performed:
        self.calls.append((step, privacy, body))
        await asyncio.sleep(self.delay_s)
        self.faults(step, privacy)
        who = "generalist/fake" if body["model"] == "generalist" else self.performer
        return Performed(
            output=self.answer(body), performer=who, node="node-a", tier=tier or "local", trace_id=f"t-{step}"
        )

    async def call_tool(
        self, name: str, arguments: Mapping[str, Any], *, privacy: Privacy, tier: str, deadline_s: float
    ) -> Performed:
        self.calls.append((name, privacy, arguments))
        await asyncio.sleep(self.delay_s)
        self.faults(name, privacy)
        return Performed(
            output=self.tools[name](arguments), performer=f"tool/{name}", node="node-a", tier=tier or "local"
        )

    def catalogue(self) -> Catalogue:
        made_up = {name: ToolInfo(name=name, description=name) for name in self.tools}
        return Catalogue(tools={**made_up, **self.infos})


@dataclass
class ListLearner:
    """Remembers which learning runs were to be started, and stopped; carries none out.

    Attributes:
        alive: ids of the runs whose process lives.
        dies: processes end at once.
    """

    started: list[LearningRun] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    alive: set[str] = field(default_factory=set)
    said: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    dies: bool = False
    error: OSError | None = None

    def start(self, run: LearningRun) -> None:
        if self.error is not None:
            raise self.error
        self.started.append(run)
        if not self.dies:
            self.alive.add(run.id)

    def is_starting(self, run_id: str) -> bool:
        return run_id in self.alive

    def stop(self, run: LearningRun) -> None:
        self.stopped.append(run.id)
        self.alive.discard(run.id)

    def progress(self, run_id: str) -> Mapping[str, Any] | None:
        return self.said.get(run_id)
