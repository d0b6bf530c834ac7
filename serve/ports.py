"""What the chat service needs from whoever deploys it, and what it tells them. Implemented over Ray by the site.

Owns the Protocols and the events; knows nothing of HTTP, gRPC or Ray. Doubles for tests are in `serve/fakes.py`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal, Protocol, TypeAlias

from shoal.agents.contract.loss import Judgement
from shoal.agents.feedback.ledger import Expense
from shoal.agents.ports import SpecialistAnswer
from shoal.agents.registry.records import OutputKind
from shoal.agents.routing.snapshot import Performer, Route, Snapshot
from shoal.agents.traces.chat import Answer, ChatRequest, Privacy
from shoal.agents.traces.trace import Trace


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where replicas run: a node's name and its tier; both empty where that is not known."""

    node: str = ""
    tier: str = ""

    @property
    def keeps_local_only(self) -> bool:
        """Whether `local-only` data may go there. A place that is not known is none."""
        return self.tier in ("edge", "local")


class SpecialistClient(Protocol):
    """Reaches the replica that holds a version, wherever it runs."""

    def place_of(self, version_key: str) -> Place:
        """Where the version's replicas are placed, as last heard."""
        ...

    async def ask(self, version_key: str, request: ChatRequest, *, deadline_s: float) -> SpecialistAnswer:
        """Put a request to the version `<task id>@<number>`.

        Raises:
            SpecialistUnavailable: no replica holds the version, or it died over the request.
            DeadlineExceeded: no answer within `deadline_s`.
        """
        ...


class Decided(Protocol):
    """What a router says of one request: `shoal.agents.routing.router.Decision`."""

    @property
    def task_id(self) -> str | None: ...
    @property
    def task_name(self) -> str | None: ...
    @property
    def performer(self) -> Performer | None:
        """The version to ask first; None where the generalist is asked straight away."""
        ...

    @property
    def shadows(self) -> Sequence[Performer]: ...
    @property
    def how(self) -> str:
        """How the task was recognised, or why none was, in a word."""
        ...

    @property
    def reasons(self) -> Sequence[str]: ...
    @property
    def pinned(self) -> bool:
        """The client named the specialist: nobody else answers for it."""
        ...

    def accept(self, confidence: float) -> bool:
        """Whether an answer of this confidence may go to the client."""
        ...


class Routing(Protocol):
    """Decides over one snapshot: `shoal.agents.routing.router.Router`."""

    @property
    def snapshot(self) -> Snapshot: ...
    def decide(self, request: ChatRequest, *, generalist_model: str | None) -> Decided:
        """Raises NotFound where `model` names nothing here."""
        ...

    def route(self, task_name: str) -> Route | None: ...


#: writes a trace where it survives the death of the process; raises StorageFull. A call is finished only after it.
Record: TypeAlias = Callable[[Trace], None]


class Judge(Protocol):
    """Whether a specialist's answer is wrong where the generalist said `reference`, by the task's loss.

    Implementations: `serve/judging.py`.
    """

    def __call__(
        self,
        version_key: str,
        kind: OutputKind,
        request: ChatRequest,
        said: str,
        reference: Answer,
        *,
        calls: Sequence[Mapping[str, Any]] = (),
        private: bool = False,
    ) -> Judgement | Awaitable[Judgement]:
        """The verdict, to be awaited where somebody has to be asked for it.

        Args:
            said, calls: the text and the function calls of the specialist's answer.
            private: the call is `local-only`.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonMade:
    """A version and the generalist both answered one call.

    Attributes:
        source: `shadow`: the generalist answered the client; `audit`: the specialist did, the generalist was asked after.
        agrees: by the task's loss; meaningless where `judged` is False, because no loss is defined for the answer.
        confidence: in [0, 1], the version's own.
        accepted: the confidence reached the version's threshold: this answer would have gone (or went) to the client.
        at: seconds since the epoch.
    """

    task_id: str
    task_name: str
    version_key: str
    source: Literal["shadow", "audit"]
    judged: bool
    agrees: bool
    confidence: float
    accepted: bool
    trace_id: str
    at: float

    def to_dict(self) -> dict[str, Any]:
        """Plain data with `type`: msgpack takes it as it is."""
        return {"type": "comparison", **asdict(self)}


@dataclass(frozen=True, slots=True, kw_only=True)
class InputsSeen:
    """A version was asked a few times: how sure it was, and nothing of what was said.

    Attributes:
        bins: of its confidences where the router chose it, in the order of the calls (`agents/contract/drift.py`).
        given: how many of its answers were sure enough for its contract and went to clients, also where they named it.
        key: unique; ties of the test are broken by it.
        since: when the first of the calls came, seconds since the epoch; `at`: when the last was answered.
    """

    version_key: str
    bins: tuple[int, ...]
    given: int
    key: str
    since: float
    at: float

    def to_dict(self) -> dict[str, Any]:
        """Plain data with `type`: msgpack takes it as it is."""
        return {"type": "inputs", **asdict(self)}


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedbackGiven:
    """A client's verdict on an answer that it got.

    Attributes:
        score: in [-1, 1]; None where only a correction or comment was given.
        correction: the message that the answer should have been, as OpenAI's JSON.
        client_id: who gave it.
        at: seconds since the epoch.
    """

    trace_id: str
    client_id: str
    score: float | None
    correction: dict[str, Any] | None
    comment: str
    at: float

    def to_dict(self) -> dict[str, Any]:
        """Plain data with `type`: msgpack takes it as it is."""
        return {"type": "feedback", **asdict(self)}


Observation: TypeAlias = ComparisonMade | InputsSeen | FeedbackGiven

#: notes what was spent beside a call; returns at once
Spend: TypeAlias = Callable[[Expense], None]

#: takes an event to the feedback actor. For feedback its return means: kept. May raise; other events are then dropped.
Observe: TypeAlias = Callable[[Observation], Awaitable[None]]

#: why the gateway is not ready yet; empty when it is
Unready: TypeAlias = Callable[[], Sequence[str]]


#: runs that a list holds, over HTTP and over gRPC
LISTED_RUNS: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class RunAsked:
    """A run that a client wants.

    Attributes:
        name: of a plan that is known here; empty where `plan` is given.
        input: the run's input object.
        privacy: label of the input.
        caller: who asks: a key's id, or `local`.
        plan: a plan as plain data, run as it is.
        run_id: unique; drawn by the gateway, so that asking twice starts one run.
    """

    run_id: str
    name: str
    input: Mapping[str, Any]
    privacy: Privacy
    caller: str
    plan: Mapping[str, Any] | None = None


class Plans(Protocol):
    """Runs of plans, wherever they are carried out: `serve/remote_plans.py` over the router actor.

    Runs and events are plain data; see `RunView` and the events in `shoal.agents.plans`. All raise NotFound for a run or plan
    that does not exist, and SiteError where the router actor does not come back in time. Where `owner` is given, runs of other
    callers do not exist.
    """

    async def start(self, asked: RunAsked) -> None:
        """Returns when the run is durable. Raises InvalidRequest where plan or input is wrong."""
        ...

    def events(self, run_id: str, *, after: int = 0, owner: str = "") -> AsyncIterator[dict[str, Any]]:
        """Events with a greater `seq` than `after`, those of the past and those to come; ends with the run."""
        ...

    async def get(self, run_id: str, *, owner: str = "") -> dict[str, Any]: ...

    async def cancel(self, run_id: str, *, owner: str = "") -> dict[str, Any]: ...

    async def resume(self, run_id: str, *, owner: str = "") -> dict[str, Any]:
        """Go on with a run that failed or was cancelled; what is done is not done again."""
        ...

    async def runs(self, limit: int, *, owner: str = "") -> list[dict[str, Any]]:
        """The newest first."""
        ...

    async def names(self) -> list[str]:
        """Plans that can be named, in alphabetical order."""
        ...
