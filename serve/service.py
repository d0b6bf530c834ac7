"""The chat service: decide, ask the specialist, fall back to the generalist, record, answer.

Owns the order of these for one gateway replica. Knows nothing of HTTP, gRPC or Ray: both ways in are thin siblings over it,
and everything that it needs is handed in.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from shoal.agents.ports import Clock, Generalist, SpecialistAnswer
from shoal.agents.registry.records import VersionState
from shoal.agents.routing.snapshot import Performer
from shoal.agents.traces.chat import Answer, ChatRequest, Delta, Usage
from shoal.agents.traces.trace import TraceId
from shoal.errors import (
    DeadlineExceeded,
    GeneralistUnavailable,
    NoPerformer,
    NotFound,
    PrivacyViolation,
    ShoalError,
)
from shoal.serve.background import Background
from shoal.serve.call import NO_CONTEXT, Call, CallContext, Caller, Served, with_conversation
from shoal.serve.collect import Collector, text_pieces
from shoal.serve.comparisons import Comparisons
from shoal.serve.feedback import FeedbackBody
from shoal.serve.judging import judge_plainly
from shoal.serve.metrics import Metrics
from shoal.serve.ports import FeedbackGiven, Judge, Observe, Record, Routing, SpecialistClient, Unready
from shoal.serve.settings import BACKGROUND_LIMIT, ServiceSettings
from shoal.serve.stream import ServedStream, StreamHead
from shoal.serve.tokens import estimate_usage, usage_of


def _nothing() -> Sequence[str]:
    return ()


def _let_in() -> None:
    return None


def _charge_nobody(key_id: str, usd: float) -> None:
    return None


class ChatService:
    """Answers calls.

    Args:
        router: the router over the newest snapshot; None until there is one, and then the generalist answers everything.
        generalist: None where the site has none.
        specialists: reaches the replicas.
        record: writes a trace where it survives the process; raises StorageFull. A call is finished only after it.
        observe: takes comparisons and feedback to the router actor.
        ids: a new trace id; unique and fit for a URL.
        admit: raises StorageFull where a record would have no room, before anybody is asked.
        charge: counts USD against a key.
        unready: why the gateway is not ready; empty when it is.
        judge: the task's loss; the default leaves texts undefined.
        chance: uniform in [0, 1); picks the calls that are audited.
    """

    def __init__(
        self,
        *,
        router: Callable[[], Routing | None],
        generalist: Generalist | None,
        specialists: SpecialistClient,
        record: Record,
        observe: Observe,
        clock: Clock,
        ids: Callable[[], str],
        node: str,
        tier: str,
        settings: ServiceSettings | None = None,
        metrics: Metrics | None = None,
        judge: Judge = judge_plainly,
        admit: Callable[[], None] = _let_in,
        charge: Callable[[str, float], None] = _charge_nobody,
        unready: Unready = _nothing,
        chance: Callable[[], float] = random.random,
        background_limit: int = BACKGROUND_LIMIT,
    ) -> None:
        self._router = router
        self._generalist = generalist
        self._specialists = specialists
        self._record = record
        self._observe = observe
        self._clock = clock
        self._ids = ids
        self.node = node
        self.tier = tier
        self._settings = settings or ServiceSettings()
        self.metrics = metrics or Metrics()
        self._admit = admit
        self._charge = charge
        self._unready = unready
        self.background = Background(background_limit)
        self._comparisons = Comparisons(
            generalist=generalist,
            specialists=specialists,
            observe=observe,
            judge=judge,
            clock=clock,
            chance=chance,
            settings=self._settings,
            metrics=self.metrics,
            background=self.background,
        )

    # -- calls -------------------------------------------------------------------------------------------------------

    async def chat(self, request: ChatRequest, caller: Caller, context: CallContext = NO_CONTEXT) -> Served:
        """Answer a call whole.

        Raises:
            NotFound: `model` names nothing here.
            NoPerformer, PrivacyViolation: no specialist is sure, and there is no generalist or it may not see the data.
            GeneralistUnavailable, GeneralistRefused, DeadlineExceeded: the generalist's.
            StorageFull: there is no room for the record; the answer is withheld.
        """
        try:
            call = self._begin(request, caller, context)
            spoken = await self._ask_specialist(call)
            answer = spoken if spoken is not None else await self._ask_generalist(call)
            answer = replace(answer, usage=usage_of(request, answer))
            completion = answer.to_openai(completion_id=call.completion_id, created=call.created)
            if not completion.get("usage"):
                completion["usage"] = answer.usage.to_openai()
            cost = self._settle(call, answer, completion, answer.usage)
        except ShoalError as error:
            self.metrics.failed(error.code)
            raise
        return Served(
            answer=answer,
            completion=completion,
            trace_id=call.id,
            served_by=answer.model,
            node=self.node,
            tier=self.tier,
            cost_usd=cost,
        )

    async def stream(
        self, request: ChatRequest, caller: Caller, context: CallContext = NO_CONTEXT
    ) -> ServedStream:
        """Answer a call piece by piece. Raises as `chat`, here where it happens before the first piece.

        Close the stream when done with it.
        """
        try:
            call = self._begin(request, caller, context)
            spoken = await self._ask_specialist(call)
            if spoken is not None:
                served_by = spoken.model
                source = _pieces(spoken)
            else:
                generalist = self._generalist_for(call)
                served_by = f"generalist/{generalist.model}"
                source = generalist.stream(call.sent, deadline_s=self._left_s(call))
            first = await self._first(source, from_generalist=spoken is None)
        except ShoalError as error:
            self.metrics.failed(error.code)
            raise
        return ServedStream(
            head=StreamHead(
                completion_id=call.completion_id,
                created=call.created,
                trace_id=call.id,
                served_by=served_by,
                node=self.node,
                tier=self.tier,
            ),
            first=first,
            source=source,
            settle=partial(self._settle_stream, call, served_by),
            include_usage=bool((request.body.get("stream_options") or {}).get("include_usage")),
        )

    # -- other ways in -----------------------------------------------------------------------------------------------

    async def feedback(self, said: FeedbackBody, caller: Caller) -> None:
        """Take a client's verdict. Returns when the router actor has it; raises what `observe` raises."""
        await self._observe(
            FeedbackGiven(
                trace_id=said.trace_id,
                client_id=caller.id,
                score=said.score,
                correction=said.correction,
                comment=said.comment,
                at=self._clock.now(),
            )
        )

    def models(self) -> list[dict[str, Any]]:
        """OpenAI's model objects: what `model` may be, right now."""
        found = [("auto", "shoal")]
        if self._generalist is not None:
            found += [("generalist", "shoal"), (self._generalist.model, "generalist")]
        router = self._router()
        if router is not None:
            live = (VersionState.SERVING, VersionState.CANARY)
            found += [
                (f"specialist/{route.name}", "shoal")
                for route in router.snapshot.routes
                if any(performer.state in live for performer in route.performers)
            ]
        names = dict(found)
        return [
            {"id": name, "object": "model", "created": 0, "owned_by": owner} for name, owner in names.items()
        ]

    def model(self, name: str) -> dict[str, Any]:
        """One of `models`. Raises NotFound."""
        for model in self.models():
            if model["id"] == name:
                return model
        raise NotFound(
            f"There is no model {name!r} here.", remedy="GET /v1/models lists them.", param="model"
        )

    def unready(self) -> list[str]:
        """Why the gateway should get no calls yet; empty when it should."""
        reasons = list(self._unready())
        if self._router() is None:
            reasons.append("no router snapshot yet")
        return reasons

    async def close(self) -> None:
        """Stop what runs in the background."""
        await self.background.close()

    # -- deciding and asking -----------------------------------------------------------------------------------------

    def _begin(self, request: ChatRequest, caller: Caller, context: CallContext) -> Call:
        self._admit()
        router = self._router()
        call = Call(
            id=TraceId(self._ids()),
            request=with_conversation(request, context.conversation),
            sent=request,
            caller=caller,
            privacy=context.privacy or self._settings.default_privacy,
            traceparent=context.traceparent,
            arrived_at=self._clock.now(),
            started=self._clock.monotonic(),
            epoch=0 if router is None else router.snapshot.epoch,
        )
        if router is None:
            if request.model.startswith("specialist/"):
                raise NoPerformer("The gateway has no router snapshot yet.", remedy="Try again in a second.")
            call.reasons.append("the gateway has no router snapshot yet")
            return call
        model = None if self._generalist is None else self._generalist.model
        call.decision = router.decide(call.request, generalist_model=model)
        call.reasons.extend(call.decision.reasons)
        route = router.route(call.decision.task_name) if call.decision.task_name else None
        call.kind = None if route is None else route.output_kind
        self.metrics.epoch(call.epoch)
        return call

    async def _ask_specialist(self, call: Call) -> Answer | None:
        """The specialist's answer if it is sure enough; else None, and `call` says why.

        Where the client named the specialist its failure is the call's, and it has all of the call's time.
        """
        decision = call.decision
        if decision is None or decision.performer is None:
            return None
        performer, pinned = decision.performer, decision.pinned
        limit = self._left_s(call) if pinned else self._settings.specialist_deadline_s
        said = None
        try:
            async with asyncio.timeout(limit):
                said = await self._specialists.ask(performer.key, call.request, deadline_s=limit)
        except (DeadlineExceeded, TimeoutError):
            call.fallback = "slow"
            call.reasons.append(f"{performer.key} did not answer within {limit:g} s")
            if pinned:
                raise DeadlineExceeded(
                    f"The specialist {performer.key} did not answer within {limit:g} s.",
                    remedy="Name the model auto, and the generalist answers meanwhile.",
                ) from None
        except ShoalError as error:
            call.fallback = "failed"
            call.reasons.append(f"{performer.key}: {error.message}")
            if pinned:
                raise
        call.said = said
        if said is not None and (said.content is None or not decision.accept(said.confidence)):
            call.fallback = "unsure"
            call.reasons.append(_not_sure(performer, said))
            if pinned:
                raise NoPerformer(
                    f"The specialist {_not_sure(performer, said)}.", remedy="Name the model auto."
                )
        if said is None or call.fallback:
            self.metrics.fell_back(decision.task_name or "", call.fallback)
            return None
        return Answer(content=said.content, model=f"specialist/{decision.task_name}@{performer.number}")

    def _generalist_for(self, call: Call) -> Generalist:
        why = "; ".join(call.reasons) or "no specialist is meant for it"
        if self._generalist is None:
            raise NoPerformer(
                f"No specialist answers this call ({why}), and the site has no generalist.",
                remedy="Start the site with --generalist URL --model NAME.",
            )
        if call.privacy == "local-only" and not self._settings.generalist_local:
            raise PrivacyViolation(
                f"The call is `local-only`, no specialist answers it ({why}), and the generalist is not on this machine.",
                remedy="Send it with another X-Shoal-Privacy, or run a generalist on this machine.",
            )
        return self._generalist

    async def _ask_generalist(self, call: Call) -> Answer:
        generalist = self._generalist_for(call)
        try:
            answer = await generalist.chat(call.sent, deadline_s=self._left_s(call))
        except ShoalError as error:
            self.metrics.generalist_failed(error.code)
            raise
        return replace(answer, model=f"generalist/{generalist.model}")

    async def _first(self, source: AsyncIterator[Delta], *, from_generalist: bool) -> Delta:
        """The first piece, so that an error before it still has a status of its own."""
        try:
            return await anext(source)
        except StopAsyncIteration:
            error = GeneralistUnavailable("The generalist's stream is empty.", remedy="Check the endpoint.")
            self.metrics.generalist_failed(error.code)
            raise error from None
        except ShoalError as error:
            if from_generalist:
                self.metrics.generalist_failed(error.code)
            raise

    def _left_s(self, call: Call) -> float:
        return max(0.001, self._settings.deadline_s - (self._clock.monotonic() - call.started))

    # -- recording ---------------------------------------------------------------------------------------------------

    def _settle(
        self, call: Call, answer: Answer, completion: Mapping[str, Any], usage: Usage, *, incomplete: str = ""
    ) -> float | None:
        """Record an answer, count it and start what follows; returns its cost."""
        by_specialist = answer.model.startswith("specialist/")
        cost = 0.0 if by_specialist else self._settings.cost_usd(usage)
        now = self._clock.monotonic()
        self._record(
            call.trace(completion, served_by=answer.model, now=now, cost_usd=cost, incomplete=incomplete)
        )
        performer = answer.model.partition("@")[0] if by_specialist else "generalist"
        self.metrics.answered(performer, now - call.started, usage.prompt_tokens, usage.completion_tokens)
        if cost:
            self.metrics.spent(cost)
            self._charge(call.caller.id, cost)
        if incomplete:
            self.metrics.incomplete(incomplete)
        else:
            self._comparisons.follow_up(call, answer)
        return cost

    def _settle_stream(self, call: Call, served_by: str, collected: Collector, incomplete: str) -> Usage:
        usage = collected.usage or estimate_usage(call.request, collected.text)
        completion = collected.completion(
            completion_id=call.completion_id, created=call.created, model=served_by, usage=usage
        )
        answer = Answer.from_openai(completion, model=served_by)
        if incomplete not in ("", "client_closed", "no_finish_reason"):
            self.metrics.generalist_failed(incomplete)
        self._settle(call, answer, completion, usage, incomplete=incomplete)
        return usage


def _not_sure(performer: Performer, said: SpecialistAnswer) -> str:
    if said.content is None:
        return f"{performer.key} has no answer" + (f": {said.reason}" if said.reason else "")
    why = f", {said.reason}" if said.reason else ""
    return f"{performer.key} is not sure enough: {said.confidence:.3f} of {performer.threshold:.3f}{why}"


async def _pieces(answer: Answer) -> AsyncIterator[Delta]:
    """A whole answer as a stream."""
    for piece in text_pieces(answer.content or ""):
        yield Delta(content=piece)
    yield Delta(content=None if answer.content else "", finish_reason=answer.finish_reason)
