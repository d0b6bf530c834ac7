"""Who is asked first: a pure decision over one snapshot. Does nothing, waits for nobody, knows no transport.

The caller asks `decision.performer`, and the generalist where there is none or where `decision.accept(confidence)` says no.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from shoal.agents.registry.records import OutputKind, TaskId, VersionState
from shoal.agents.routing.capability import unmet
from shoal.agents.routing.snapshot import Performer, Route, Snapshot
from shoal.agents.tasks.matcher import Match, Matcher, Near, Novelty
from shoal.agents.traces.chat import ChatRequest
from shoal.errors import InvalidRequest, NotFound

AUTO = "auto"
GENERALIST = "generalist"
_SPECIALIST = "specialist/"
_AGENT = "agent/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Who is to be asked, and why.

    Attributes:
        task_id, task_name: the request's task; None and empty where it has none.
        performer: the specialist to ask first; None where the generalist is asked at once.
        shadows: specialists that answer too, for comparison only.
        how: how the task was recognised; see `Match.how`. `named` where the client named the specialist.
        confidence: in [0, 1], that the request is of this task; see `Match.confidence`. What a specialist is sure of is another thing.
        novelty: what is new about the request, if anything.
        reasons: in plain words, in the order in which they were weighed.
        pinned: the client named the specialist, so its answer counts whatever its confidence.
    """

    task_id: TaskId | None
    task_name: str
    performer: Performer | None
    shadows: tuple[Performer, ...] = ()
    how: str = "none"
    confidence: float = 0.0
    novelty: Novelty | None = None
    reasons: tuple[str, ...] = ()
    pinned: bool = False

    def accept(self, confidence: float) -> bool:
        """Whether the performer's answer is given to the client, or the generalist is asked instead."""
        if self.performer is None:
            return False
        return self.pinned or confidence >= self.performer.threshold


class Router:
    """Decides over one snapshot.

    A request that fits a task but is new in its prompt or its tools is not put to a specialist where the log says that
    new ones are not to be expected: a label task whose few prompts recur, or offered tools that no call had. For text and
    JSON a new prompt of the task's template goes to the specialist, whose own confidence then decides. A request of which
    only the wording says what it is, or whose prompt has more around the task's, is of that task but never put to a
    specialist: no evidence covers such calls before they are learnt from.

    Args:
        before: the router over an earlier snapshot. Where only versions have changed, as in a rollback, what recognises tasks
            is taken over from it instead of being made again, which takes most of a second with a thousand tasks.
    """

    def __init__(self, snapshot: Snapshot, *, before: Router | None = None) -> None:
        self.snapshot = snapshot
        self._routes: dict[TaskId, Route] = {route.task_id: route for route in snapshot.routes}
        self._by_name: dict[str, Route] = {str(route.task_id): route for route in snapshot.routes}
        self._by_name.update((route.name, route) for route in reversed(snapshot.routes))
        #: what the matcher was made of
        self._recognised_by: list[tuple[TaskId, str, Mapping[str, Any]]] = [
            (route.task_id, route.name, route.match) for route in snapshot.routes
        ]
        self._matcher: Matcher = (
            before._matcher
            if before is not None and before._recognised_by == self._recognised_by
            else Matcher([(route.task_id, route) for route in snapshot.routes], by_words=True)
        )

    def route(self, task_name: str) -> Route | None:
        """The route of a task, by its name or id."""
        return self._by_name.get(task_name)

    def nearest(self, request: ChatRequest) -> list[Near]:
        """Tasks that the request is worded like, for people: they decide only where no prompt is known."""
        return self._matcher.nearest(self._matcher.features(request))

    def decide(
        self, request: ChatRequest, *, generalist_model: str | None, any_model: bool = False
    ) -> Decision:
        """Who answers this request.

        Args:
            generalist_model: the name of the model behind Shoal; requests that name it are decided like `auto`.
            any_model: for logs, treat every request as `auto`, whatever model it names.

        Raises:
            NotFound: the request names a model, specialist or agent that does not exist.
            InvalidRequest: it names a specialist, but asks for what that cannot honour.
        """
        model = request.model
        if any_model or model == AUTO or (generalist_model is not None and model == generalist_model):
            return self._decide(request)
        if model == GENERALIST:
            return self._generalist(request)
        if model.startswith(_SPECIALIST):
            return self._named(request, model.removeprefix(_SPECIALIST))
        if model.startswith(_AGENT):
            raise NotFound(
                f"There is no agent {model.removeprefix(_AGENT)!r}.",
                remedy="GET /v1/models lists what can be named.",
                param="model",
            )
        own = f", {generalist_model}" if generalist_model else ""
        raise NotFound(
            f"The model {model!r} does not exist.",
            remedy=f"Name {AUTO}{own}, {GENERALIST} or specialist/<task>; GET /v1/models lists them.",
            param="model",
        )

    def decide_logged(self, request: ChatRequest) -> Decision:
        """As `decide` for a request from a log: the model that it names does not count."""
        return self._decide(request)

    # --- auto

    def _decide(self, request: ChatRequest) -> Decision:
        match = self._matcher.match(request)
        route = None if match.task_id is None else self._routes.get(match.task_id)
        if route is None:
            return Decision(
                task_id=None,
                task_name="",
                performer=None,
                how="none",
                novelty=match.novelty,
                reasons=(match.reason,),
            )
        reasons = [f"it is a call of {route.name}, recognised by {_HOW[match.how]}"]
        barred = self._barred(request, route, match)
        performer: Performer | None = None
        shadows: tuple[Performer, ...] = ()
        if barred is not None:
            reasons.append(barred)
        else:
            if match.reason:
                reasons.append(match.reason)
            performer, why = pick(route.performers, request)
            reasons.append(why or no_performer(route))
            shadows = tuple(p for p in route.performers if p.state == VersionState.SHADOW)
        return Decision(
            task_id=route.task_id,
            task_name=route.name,
            performer=performer,
            shadows=shadows,
            how=match.how,
            confidence=match.confidence,
            novelty=match.novelty,
            reasons=tuple(reasons),
        )

    def _barred(self, request: ChatRequest, route: Route, match: Match) -> str | None:
        """Why no specialist of the route may answer this request, however sure it is."""
        if match.novelty in (Novelty.TOOLS, Novelty.SYSTEM_PROMPT):
            return match.reason
        if match.novelty is Novelty.PROMPT and route.output_kind is OutputKind.LABEL:
            return f"{match.reason}, and {route.name} is a label task whose prompts recur"
        return unmet(request, route)

    # --- named

    def _generalist(self, request: ChatRequest) -> Decision:
        match = self._matcher.match(request)
        route = None if match.task_id is None else self._routes.get(match.task_id)
        return Decision(
            task_id=None if route is None else route.task_id,
            task_name="" if route is None else route.name,
            performer=None,
            how=match.how,
            confidence=match.confidence,
            novelty=match.novelty,
            reasons=("the request names the generalist",),
        )

    def _named(self, request: ChatRequest, name: str) -> Decision:
        task_name, _, number = name.partition("@")
        route = self.route(task_name)
        remedy = "GET /v1/models lists the specialists that answer."
        if route is None:
            raise NotFound(f"There is no specialist {name!r}.", remedy=remedy, param="model")
        found = [p for p in route.performers if not number or str(p.number) == number]
        if not found:
            why = f"it has no version {number} that answers" if route.performers else no_performer(route)
            raise NotFound(f"No specialist answers for {name!r}: {why}.", remedy=remedy, param="model")
        if reason := unmet(request, route):
            raise InvalidRequest(
                f"The specialist {route.name} cannot honour the request: {reason}.",
                remedy="Leave that out, or name the model auto.",
            )
        match = self._matcher.match(request)
        reasons = [f"the request names specialist/{name}"]
        if match.task_id != route.task_id:
            reasons.append(f"it does not look like a call of {route.name}")
        return Decision(
            task_id=route.task_id,
            task_name=route.name,
            performer=found[0],
            how="named",
            confidence=match.confidence if match.task_id == route.task_id else 0.0,
            novelty=match.novelty,
            reasons=tuple(reasons),
            pinned=True,
        )


_HOW = {
    "fingerprint": "its prompt",
    "template": "the template of its prompt",
    "layout": "its prompt and the layout of its input",
    "text": "its prompt and the words of its input",
    "turn": "its prompt and the stage of the conversation",
    "owner": "its prompt and the owner's correction",
    "inside": "the task's prompt inside its own",
    "wording": "the wording of its input",
}


def pick(performers: Sequence[Performer], request: ChatRequest) -> tuple[Performer | None, str]:
    """The performer to ask, and why: the canary for its share of conversations, else the one that serves, else nobody."""
    canary = next((p for p in performers if p.state == VersionState.CANARY), None)
    serving = next((p for p in performers if p.state == VersionState.SERVING), None)
    if canary is not None and lot(canary.key, request) < canary.share:
        return (
            canary,
            f"version {canary.number} is a canary and this conversation is in its {canary.share:.0%}",
        )
    if serving is not None:
        return serving, f"version {serving.number} serves"
    return None, ""


def no_performer(route: Route) -> str:
    """Why nobody but the generalist answers a task."""
    states = {p.state: p for p in route.performers}
    if VersionState.CANARY in states:
        canary = states[VersionState.CANARY]
        return f"version {canary.number} is a canary and this conversation is not in its {canary.share:.0%}"
    if VersionState.SHADOW in states:
        return f"version {states[VersionState.SHADOW].number} is in shadow; it answers once it is promoted"
    return f"no specialist answers: {route.reason}" if route.reason else "it has no specialist that answers"


def lot(key: str, request: ChatRequest) -> float:
    """A number in [0, 1) that is the same for all calls of one conversation, or of one request where it has no conversation."""
    conversation = request.conversation_id
    who = conversation or json.dumps(request.messages, sort_keys=True, ensure_ascii=False, default=str)
    drawn = blake2b(f"{key}\x1f{who}".encode("utf-8", "surrogatepass"), digest_size=7).digest()
    return int.from_bytes(drawn, "big") / 2**56
