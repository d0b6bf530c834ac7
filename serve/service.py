"""The chat service: decide, ask the specialist, fall back to the generalist, record, answer.

Owns the order of these for one gateway replica. Knows nothing of HTTP, gRPC or Ray: both ways in are thin siblings over it,
and everything that it needs is handed in.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from shoal.agents.feedback.ledger import Expense
from shoal.agents.ports import Clock, Generalist
from shoal.agents.traces.chat import Answer, ChatRequest, Delta, Privacy, Usage
from shoal.agents.traces.tokens import estimate_usage, usage_of
from shoal.agents.traces.trace import TraceId
from shoal.errors import (
    NoPerformer,
    NotFound,
    PermissionDenied,
    PrivacyViolation,
    ShoalError,
)
from shoal.serve.agent_calls import is_agent
from shoal.serve.asking import Asking
from shoal.serve.background import Background
from shoal.serve.call import NO_CONTEXT, Call, CallContext, Caller, Served, with_conversation
from shoal.serve.collect import Collector, call_pieces, text_pieces
from shoal.serve.comparisons import Comparisons
from shoal.serve.feedback import FeedbackBody
from shoal.serve.inputs import Inputs
from shoal.serve.judging import judge_plainly
from shoal.serve.metrics import Metrics
from shoal.serve.model_list import model_objects, named
from shoal.serve.ports import (
    FeedbackGiven,
    Judge,
    Observe,
    Place,
    Plans,
    Record,
    Routing,
    RunAsked,
    SpecialistClient,
    Spend,
    Unready,
)
from shoal.serve.settings import BACKGROUND_LIMIT, ServiceSettings
from shoal.serve.stream import ServedStream, StreamHead


def _nothing() -> Sequence[str]:
    return ()


def _let_in() -> None:
    return None


def _note_nothing(expense: Expense) -> None:
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
        observe: takes comparisons and feedback to the feedback actor.
        ids: a new trace id; unique and fit for a URL.
        admit: raises StorageFull where a record would have no room, before anybody is asked.
        charge: counts USD against a key.
        spend: notes what audits and shadows cost; they are nobody's key's.
        unready: why the gateway is not ready; empty when it is.
        judge: the task's loss; the default leaves texts undefined.
        chance: uniform in [0, 1); picks the calls that are audited.
        plans: runs of plans; None where the service itself performs their steps, and so takes no agent's name.
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
        spend: Spend = _note_nothing,
        unready: Unready = _nothing,
        chance: Callable[[], float] = random.random,
        background_limit: int = BACKGROUND_LIMIT,
        plans: Plans | None = None,
    ) -> None:
        self._router = router
        self._plans = plans
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
        self._inputs = Inputs(observe, clock, self.background.start)
        self._asking = Asking(
            generalist=generalist,
            specialists=specialists,
            plans=plans,
            clock=clock,
            settings=self._settings,
            metrics=self.metrics,
            router=router,
        )
        self._comparisons = Comparisons(
            generalist=generalist,
            specialists=specialists,
            observe=observe,
            spend=spend,
            judge=judge,
            clock=clock,
            chance=chance,
            settings=self._settings,
            metrics=self.metrics,
            background=self.background,
        )

    # -- calls -------------------------------------------------------------------------------------------------------

    async def chat(
        self,
        request: ChatRequest,
        caller: Caller,
        context: CallContext = NO_CONTEXT,
        *,
        deadline_s: float | None = None,
    ) -> Served:
        """Answer a call whole, within `deadline_s` (the site's where None).

        Raises:
            NotFound: `model` names nothing here.
            NoPerformer, PrivacyViolation: no specialist is sure, and there is no generalist or it may not see the data.
            GeneralistUnavailable, GeneralistRefused, DeadlineExceeded: the generalist's.
            StorageFull: there is no room for the record; the answer is withheld.
        """
        try:
            call = self._begin(request, caller, context, deadline_s)
            answer = await self._asking.answer(call)
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
            node=call.place.node,
            tier=call.place.tier,
            cost_usd=cost,
            run_id=call.run_id,
        )

    async def stream(
        self, request: ChatRequest, caller: Caller, context: CallContext = NO_CONTEXT
    ) -> ServedStream:
        """Answer a call piece by piece. Raises as `chat`, here where it happens before the first piece.

        Close the stream when done with it.
        """
        try:
            call = self._begin(request, caller, context)
            spoken = await self._asking.answer_whole(call)
            if spoken is not None:
                served_by = spoken.model
                source = _pieces(spoken)
            else:
                generalist = self._asking.generalist_for(call)
                served_by = f"generalist/{generalist.model}"
                source = generalist.stream(call.sent, deadline_s=self._asking.left_s(call))
            first = await self._asking.first(source, from_generalist=spoken is None)
        except ShoalError as error:
            self.metrics.failed(error.code)
            raise
        return ServedStream(
            head=StreamHead(
                completion_id=call.completion_id,
                created=call.created,
                trace_id=call.id,
                served_by=served_by,
                node=call.place.node,
                tier=call.place.tier,
                run_id=call.run_id,
            ),
            first=first,
            source=source,
            settle=partial(self._settle_stream, call, served_by),
            on_first_token=partial(self._note_first_token, call),
            include_usage=bool((request.body.get("stream_options") or {}).get("include_usage")),
        )

    # -- other ways in -----------------------------------------------------------------------------------------------

    async def feedback(self, said: FeedbackBody, caller: Caller) -> None:
        """Take a client's verdict. Returns when it is kept; raises what `observe` raises."""
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

    async def models(self) -> list[dict[str, Any]]:
        """OpenAI's model objects: what `model` may be, right now."""
        generalist = None if self._generalist is None else self._generalist.model
        router = self._router()
        plans = () if self._plans is None else await self._plans.names()
        return model_objects(generalist, None if router is None else router.snapshot, plans)

    async def model(self, name: str) -> dict[str, Any]:
        """One of `models`. Raises NotFound."""
        return named(name, await self.models())

    def unready(self) -> list[str]:
        """Why the gateway should get no calls yet; empty when it should."""
        reasons = list(self._unready())
        if self._router() is None:
            reasons.append("no router snapshot yet")
        return reasons

    async def close(self) -> None:
        """Stop what runs in the background."""
        with contextlib.suppress(ShoalError):
            await self._inputs.close()
        await self.background.close()

    # -- deciding -----------------------------------------------------------------------------------------

    @property
    def plans(self) -> Plans:
        """Runs of plans. Raises NotFound where this service has none."""
        if self._plans is None:
            raise NotFound("There are no plans here.", remedy="Ask the site's gateway.", param="plan")
        return self._plans

    async def run_plan(
        self,
        name: str,
        input: Mapping[str, Any],
        caller: Caller,
        *,
        privacy: Privacy | None = None,
        plan: Mapping[str, Any] | None = None,
    ) -> str:
        """Start a run; returns its id when it is durable.

        Raises:
            NotFound, InvalidRequest: there is no such plan, or plan or input is wrong.
            PermissionDenied: a plan that is not known here takes the scope `admin`.
            PrivacyViolation: `local-only` data at a gateway on a cloud node.
        """
        if plan is not None and "admin" not in caller.scopes:
            raise PermissionDenied(
                "A plan that is handed in takes a key with the scope `admin`.",
                remedy="Name a plan that the site knows, or use another key.",
            )
        self._admit()
        label = privacy or self._settings.default_privacy
        self._keep_out(label)
        run_id = self._ids()
        await self.plans.start(
            RunAsked(run_id=run_id, name=name, input=input, privacy=label, caller=caller.id, plan=plan)
        )
        return run_id

    def _keep_out(self, label: Privacy) -> None:
        if label == "local-only" and self.tier == "cloud":
            raise PrivacyViolation(
                f"The data is `local-only`, and this gateway runs on the cloud node {self.node}.",
                remedy="Send it to a gateway on an edge or local node.",
            )

    def _begin(
        self, request: ChatRequest, caller: Caller, context: CallContext, deadline_s: float | None = None
    ) -> Call:
        self._admit()
        self._keep_out(context.privacy or self._settings.default_privacy)
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
            deadline_s=min(deadline_s or self._settings.deadline_s, self._settings.deadline_s),
            place=Place(node=self.node, tier=self.tier),
            tags=context.tags,
        )
        if self._plans is not None and is_agent(request):
            if not caller.scopes & {"plans", "admin"}:
                raise PermissionDenied(
                    f"The model {request.model} runs a plan, which takes a key with the scope `plans`.",
                    remedy="Make one: shoal keys create --scope chat --scope plans.",
                    param="model",
                )
            return call
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

    # -- recording ---------------------------------------------------------------------------------------------------

    def _settle(
        self, call: Call, answer: Answer, completion: Mapping[str, Any], usage: Usage, *, incomplete: str = ""
    ) -> float | None:
        """Record an answer, count it and start what follows; returns its cost."""
        by_specialist = answer.model.startswith("specialist/")
        # what an agent's steps cost stands with the calls of the steps
        cost = 0.0 if by_specialist or call.run_id else self._settings.cost_usd(usage)
        now = self._clock.monotonic()
        self._record(
            call.trace(completion, served_by=answer.model, now=now, cost_usd=cost, incomplete=incomplete)
        )
        performer = answer.model.partition("@")[0] if by_specialist or call.run_id else "generalist"
        self.metrics.answered(performer, now - call.started, usage.prompt_tokens, usage.completion_tokens)
        self._count_money(call, usage, cost, by_specialist=by_specialist)
        if incomplete:
            self.metrics.incomplete(incomplete)
        else:
            self._inputs.note(call, given=by_specialist)
            self._comparisons.follow_up(call, answer)
        return cost

    def _count_money(self, call: Call, usage: Usage, cost: float | None, *, by_specialist: bool) -> None:
        task = "" if call.decision is None else call.decision.task_name or ""
        if call.said is not None and call.said.effort is not None:
            self.metrics.computed(task, call.said.effort.compute_ms / 1000)
        if by_specialist:
            self.metrics.avoided(task, self._settings.cost_usd(usage))
        elif cost is not None and not call.run_id:
            self.metrics.spent(cost, "answers")
            if cost:
                self._charge(call.caller.id, cost)

    def _note_first_token(self, call: Call) -> None:
        call.first_token = self._clock.monotonic()

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


async def _pieces(answer: Answer) -> AsyncIterator[Delta]:
    """A whole answer as a stream."""
    for piece in text_pieces(answer.content or ""):
        yield Delta(content=piece)
    for index, call in enumerate(answer.tool_calls):
        for part in call_pieces(index, call):
            yield Delta(tool_calls=(part,))
    said = bool(answer.content or answer.tool_calls)
    yield Delta(content=None if said else "", finish_reason=answer.finish_reason)
