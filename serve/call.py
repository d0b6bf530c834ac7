"""One call from its arrival to its trace: who asks, under which label, and what was found out on the way.

Pure values; knows nothing of transport, performers or storage.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias, get_args

from shoal.agents.ports import Effort, SpecialistAnswer
from shoal.agents.registry.records import OutputKind
from shoal.agents.traces.chat import Answer, ChatRequest, Privacy
from shoal.agents.traces.trace import Trace, TraceId
from shoal.errors import InvalidRequest
from shoal.serve.ports import Decided, Place

#: what a key may be good for; `admin` includes the others
Scope: TypeAlias = Literal["chat", "feedback", "plans", "admin"]
SCOPES: Final[tuple[Scope, ...]] = get_args(Scope)

_LABELS: Final[tuple[Privacy, ...]] = get_args(Privacy)
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_CONVERSATION_CHARS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who asks: a key's id, or `local` for a caller on this machine that needs no key."""

    id: str
    scopes: frozenset[str]

    @property
    def runs_of(self) -> str:
        """Whose runs of plans it may see and change: its own; all (empty) with the scope `admin`."""
        return "" if "admin" in self.scopes else self.id


LOCAL_CALLER = Caller(id="local", scopes=frozenset(SCOPES))


@dataclass(frozen=True, slots=True, kw_only=True)
class CallContext:
    """What comes beside the body: in headers over HTTP, in fields or metadata over gRPC.

    Attributes:
        tags: kept with the trace; set by plans for the calls of their steps, never by clients.
    """

    privacy: Privacy | None = None
    conversation: str | None = None
    traceparent: str | None = None
    tags: Mapping[str, Any] = field(default_factory=dict)


NO_CONTEXT = CallContext()


def read_context(get: Callable[[str], str | None]) -> CallContext:
    """Read the context from headers; `get` takes a lower-case name.

    Raises:
        InvalidRequest: an unknown privacy label, or a conversation id that is too long. A `traceparent` that is none
            is ignored, as W3C's Trace Context says.
    """
    label = read_label(get("x-shoal-privacy"), "X-Shoal-Privacy")
    conversation = get("x-shoal-conversation") or None
    if conversation is not None and len(conversation) > _CONVERSATION_CHARS:
        raise InvalidRequest(
            f"X-Shoal-Conversation may have {_CONVERSATION_CHARS} characters, got {len(conversation)}.",
            remedy="Send a shorter id.",
            param="X-Shoal-Conversation",
        )
    parent = get("traceparent")
    return CallContext(
        privacy=label,
        conversation=conversation,
        traceparent=parent if parent is not None and _TRACEPARENT.fullmatch(parent) else None,
    )


def read_label(text: str | None, param: str) -> Privacy | None:
    """A privacy label as a client writes it; None where there is none. Raises InvalidRequest."""
    label = (text or "").strip().lower()
    found = next((known for known in _LABELS if known == label), None)
    if label and found is None:
        raise InvalidRequest(
            f"{param} must be one of {', '.join(_LABELS)}, got {label[:40]!r}.",
            remedy="Leave it out for the site's default.",
            param=param,
        )
    return found


def with_conversation(request: ChatRequest, conversation: str | None) -> ChatRequest:
    """The request with the conversation's id where router and trace look for it; one in the body wins."""
    if conversation is None or request.conversation_id is not None:
        return request
    metadata = {**(request.body.get("metadata") or {}), "conversation_id": conversation}
    return ChatRequest(body={**request.body, "metadata": metadata})


def effort_tags(effort: Effort, tier: str) -> dict[str, Any]:
    """What an answer took, as a trace's tags: `compute_ms`, `compute_on` (`cpu` or `gpu`), `compute_tier`, `energy_joules`."""
    tags: dict[str, Any] = {
        "compute_ms": round(effort.compute_ms, 4),
        "compute_on": "gpu" if effort.on_gpu else "cpu",
    }
    if tier:
        tags["compute_tier"] = tier
    if effort.energy_joules is not None:
        tags["energy_joules"] = round(effort.energy_joules, 4)
    return tags


#: why a specialist that was asked did not answer the client
Fallback: TypeAlias = Literal["", "unsure", "slow", "failed", "private", "wrong_version", "withdrawn"]


@dataclass(slots=True, kw_only=True)
class Call:
    """A call under way.

    Attributes:
        request: as the router and the trace see it, with the conversation's id.
        sent: as the client sent it.
        arrived_at: seconds since the epoch.
        started: the same moment on the monotonic clock, seconds.
        deadline_s: seconds that it may take in all.
        place: where it is answered; the gateway's own place until a specialist answers.
        run_id: the run of a plan that answers it; empty for other calls.
        kind: of the task's outputs; None where the call is of no known task.
    """

    id: TraceId
    request: ChatRequest
    sent: ChatRequest
    caller: Caller
    privacy: Privacy
    traceparent: str | None
    arrived_at: float
    started: float
    epoch: int
    decision: Decided | None = None
    kind: OutputKind | None = None
    said: SpecialistAnswer | None = None
    fallback: Fallback = ""
    deadline_s: float = 120.0
    #: on the monotonic clock, when the first token of a streamed answer was there
    first_token: float | None = None
    place: Place = field(default_factory=Place)
    run_id: str = ""
    tags: Mapping[str, Any] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)

    @property
    def completion_id(self) -> str:
        return f"chatcmpl-{self.id}"

    @property
    def created(self) -> int:
        return int(self.arrived_at)

    def trace(
        self,
        response: Mapping[str, Any],
        *,
        served_by: str,
        now: float,
        cost_usd: float | None,
        incomplete: str = "",
    ) -> Trace:
        """The durable record.

        Args:
            now: the monotonic clock.
            incomplete: why the answer ended before its end (`client_closed`, or an error's code). Nothing should be
                learnt from such a trace; its tags have `incomplete`.
        """
        tags: dict[str, Any] = {**self.tags, "key": self.caller.id, "epoch": self.epoch}
        if self.decision is not None:
            tags["how"] = self.decision.how
            if self.decision.task_name:
                tags["task"] = self.decision.task_name
                tags["task_id"] = str(self.decision.task_id)
        if self.said is not None:
            tags["confidence"] = self.said.confidence
            if self.said.effort is not None:
                # also where the generalist answered after all: it was asked
                tags |= effort_tags(self.said.effort, self.said.tier)
        if self.fallback:
            tags["fallback"] = self.fallback
        if self.traceparent is not None:
            tags["traceparent"] = self.traceparent
        if incomplete:
            tags["incomplete"] = incomplete
        return Trace(
            id=self.id,
            request=self.request.body,
            response=response,
            timestamp=self.arrived_at,
            client_id=self.caller.id,
            tags=tags,
            served_by=served_by,
            latency_ms=round((now - self.started) * 1000, 3),
            first_token_ms=(
                None if self.first_token is None else round((self.first_token - self.started) * 1000, 3)
            ),
            cost_usd=cost_usd,
            privacy=self.privacy,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """An answered call, recorded.

    Attributes:
        completion: OpenAI's chat completion, as the client gets it.
        served_by: `specialist/<task>@<number>`, `generalist/<model>` or `agent/<plan>`; also the completion's `model`.
        node, tier: where it was answered: the specialist's replica, else the gateway that asked the generalist.
        cost_usd: what the generalist's tokens cost at the configured price; None where no price is configured for it.
        run_id: the run that an agent's plan made of the call; empty for other calls.
    """

    answer: Answer
    completion: Mapping[str, Any]
    trace_id: TraceId
    served_by: str
    node: str
    tier: str
    cost_usd: float | None
    run_id: str = ""
