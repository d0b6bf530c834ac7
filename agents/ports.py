"""What this room needs from whoever is above it. `serve/` implements these and hands them in at start-up.

Each Protocol has a fake that is product code, used by tests and examples, in `agents/fakes.py`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from shoal.agents.registry.lifecycle import Asker, Move
from shoal.agents.registry.records import Task, TaskId, Version
from shoal.agents.traces.chat import Answer, ChatRequest, Delta, Privacy
from shoal.agents.traces.trace import Trace, TraceId

if TYPE_CHECKING:
    from shoal.agents.plans.catalogue import Catalogue


class Clock(Protocol):
    def now(self) -> float:
        """Seconds since the epoch."""
        ...

    def monotonic(self) -> float:
        """Seconds on a clock that never goes back."""
        ...


class Generalist(Protocol):
    """The large model behind Shoal."""

    @property
    def model(self) -> str: ...

    async def chat(self, request: ChatRequest, *, deadline_s: float) -> Answer:
        """Raises GeneralistUnavailable, GeneralistRefused, DeadlineExceeded."""
        ...

    def stream(self, request: ChatRequest, *, deadline_s: float) -> AsyncIterator[Delta]:
        """Raises as `chat` does, before the first piece or between two."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """What an answer took.

    Attributes:
        compute_ms: time in the engine, a batch's split evenly over its answers. Whoever shares the core makes it longer.
        on_gpu: whether it is time of a GPU.
        energy_joules: of the GPU, by NVML's counter; None where there is no GPU, or it does not count.
    """

    compute_ms: float
    on_gpu: bool = False
    energy_joules: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SpecialistAnswer:
    """A specialist's own answer, before anyone decided whether it is sure enough.

    Attributes:
        content: the text; None where it has none to give: it calls functions, or it has no answer (`reason` says why).
        tool_calls: functions called, in OpenAI's form without ids, which are made when the answer is given to a client.
        confidence: in [0, 1]; compared with the version's threshold.
        node, tier: where the replica runs that gave it; empty where it does not say.
        effort: what it took; None where nobody measured it.
    """

    content: str | None
    confidence: float
    reason: str = ""
    node: str = ""
    tier: str = ""
    tool_calls: Sequence[Mapping[str, Any]] = ()
    effort: Effort | None = None

    @property
    def given(self) -> bool:
        """Whether there is an answer at all."""
        return self.content is not None or bool(self.tool_calls)


class Engine(Protocol):
    """One loaded specialist. Implementations: `serve/engines/`."""

    def answer(self, requests: Sequence[ChatRequest]) -> list[SpecialistAnswer]:
        """Answers in the order of the requests. Blocking; call it off the event loop."""
        ...


class EngineLoader(Protocol):
    def __call__(self, folder: Path) -> Engine:
        """Verify a model folder against its card and load it. Raises CorruptModel."""
        ...


class Embedder(Protocol):
    """Turns texts into vectors, such that likeness of meaning is closeness. Implementations: `agents/learning/embedders.py`."""

    @property
    def name(self) -> str:
        """As `learning.embedder` names it; with `digest` it says which one a version was trained with."""
        ...

    @property
    def digest(self) -> str:
        """Hex SHA-256 of all that its vectors depend on: the same digest gives the same vectors."""
        ...

    @property
    def size(self) -> int:
        """Length of a vector."""
        ...

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """One row for each text, shape (texts, size), of Euclidean norm 1; all zero for a text that has nothing to embed."""
        ...


class TraceStore(Protocol):
    """Readable, scrubbed traces."""

    def add(self, traces: Iterable[Trace]) -> int:
        """Scrub and store; a trace whose id is already there replaces the old one. Returns how many were stored."""
        ...

    def scan(self) -> Iterator[Trace]:
        """All traces, oldest first."""
        ...

    def get(self, trace_id: TraceId) -> Trace | None: ...

    def pick(self, ids: Collection[str]) -> list[Trace]:
        """The traces of these ids that are there, in any order."""
        ...

    def count(self) -> int: ...


class Registry(Protocol):
    """Tasks and versions, durable. Every change raises `epoch` by one."""

    def epoch(self) -> int: ...

    def tasks(self) -> list[Task]: ...

    def task(self, name_or_id: str) -> Task:
        """Raises NotFound."""
        ...

    def put_tasks(self, tasks: Sequence[Task]) -> None:
        """Insert or replace by id; one change."""
        ...

    def versions(self, task_id: TaskId | None = None) -> list[Version]:
        """Oldest first."""
        ...

    def add_version(self, version: Version, *, moves: Sequence[Move] = ()) -> None:
        """`moves`: of other versions, in the same change, at the gate's word."""
        ...

    def next_number(self, task_id: TaskId) -> int:
        """The number for a task's next version; those of removed ones are not used again."""
        ...

    def begin_training(self, task_id: TaskId, number: int) -> None:
        """This process trains a version, until `add_version` or `end_training`. Raises Conflict where another one does."""
        ...

    def end_training(self, task_id: TaskId, number: int, *, reason: str) -> None:
        """There will be no such version. No error where it is not being trained."""
        ...

    def move(self, moves: Sequence[Move], *, asker: Asker, epoch: int | None = None) -> int:
        """Carry out what was decided at `epoch` (None for any): all of it or nothing, as one change, which is kept in the history.

        Raises NotFound, StaleDecision, and Conflict for what `lifecycle.py` does not have. Returns the epoch that it made.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Performed:
    """What came of a step of a plan, or of one part of it.

    Attributes:
        output: a model's text, or a tool's answer as JSON.
        performer: `specialist/<task>@<version>`, `generalist/<model>` or `tool/<name>`.
        node, tier: where.
        trace_id: of the call; empty for a tool.
        cost_usd: None where no price is configured.
    """

    output: Any
    performer: str
    node: str = ""
    tier: str = ""
    trace_id: str = ""
    cost_usd: float | None = None


class StepPerformer(Protocol):
    """Performs the steps of plans. Implemented over the chat service and Ray in `serve/`."""

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
        """Put a chat request (its `model` is auto, generalist or specialist/<task>) to whom the router chooses.

        Raises:
            PrivacyViolation: nobody may see the data.
            ShoalError: as a call's.
        """
        ...

    async def call_tool(
        self, name: str, arguments: Mapping[str, Any], *, privacy: Privacy, tier: str, deadline_s: float
    ) -> Performed:
        """Raises NotFound, PrivacyViolation, DeadlineExceeded, StepFailed."""
        ...

    def catalogue(self) -> Catalogue:
        """What plans may use, right now."""
        ...


class Deployer(Protocol):
    """Makes versions answer. Implemented over Ray Serve in `serve/`."""

    async def ensure(self, versions: Sequence[Version]) -> None:
        """Make exactly these versions loaded somewhere; load what is missing, unload what is left over."""
        ...
