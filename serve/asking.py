"""Asks for one call: the agent or the specialist first, and the generalist where they give no answer that may be given.

Owns who may see a call's data and what happens where somebody is unsure, slow or away. Records nothing; that is the service's.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace

from shoal.agents.ports import Clock, Generalist, SpecialistAnswer
from shoal.agents.registry.records import VersionState
from shoal.agents.routing.snapshot import Performer
from shoal.agents.traces.chat import Answer, Delta
from shoal.errors import (
    DeadlineExceeded,
    GeneralistUnavailable,
    NoPerformer,
    PrivacyViolation,
    ShoalError,
    SpecialistUnavailable,
    WrongVersion,
)
from shoal.serve.agent_calls import is_agent, run_agent
from shoal.serve.call import Call
from shoal.serve.metrics import Metrics
from shoal.serve.ports import Place, Plans, Routing, SpecialistClient
from shoal.serve.settings import ServiceSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """Whom a service may ask. `generalist` and `plans` are None where it has none."""

    generalist: Generalist | None
    specialists: SpecialistClient
    plans: Plans | None
    clock: Clock
    settings: ServiceSettings
    metrics: Metrics
    router: Callable[[], Routing | None]

    async def answer(self, call: Call) -> Answer:
        answer = await self.answer_whole(call)
        return answer if answer is not None else await self.ask_generalist(call)

    async def answer_whole(self, call: Call) -> Answer | None:
        """The agent's or the specialist's answer; None where the generalist is to be asked."""
        if self.plans is None or not is_agent(call.request):
            return await self._ask_specialist(call)
        call.run_id = call.id
        answer, _ = await run_agent(
            self.plans,
            call.request,
            run_id=call.run_id,
            caller=call.caller.id,
            privacy=call.privacy,
            deadline_s=self.left_s(call),
        )
        return answer

    async def _ask_specialist(self, call: Call) -> Answer | None:
        """The specialist's answer if it is sure enough; else None, and `call` says why.

        Where the client named the specialist its failure is the call's, and it has all of the call's time.
        """
        decision = call.decision
        if decision is None or decision.performer is None:
            return None
        performer, pinned = decision.performer, decision.pinned
        if not self._may_see(call, performer):
            return None
        limit = self.left_s(call) if pinned else self.settings.specialist_deadline_s
        said = None
        try:
            async with asyncio.timeout(limit):
                said = await self.specialists.ask(performer.key, call.request, deadline_s=limit)
        except (DeadlineExceeded, TimeoutError):
            call.fallback = "slow"
            call.reasons.append(f"{performer.key} did not answer within {limit:g} s")
            if pinned:
                raise DeadlineExceeded(
                    f"The specialist {performer.key} did not answer within {limit:g} s.",
                    remedy="Name the model auto, and the generalist answers meanwhile.",
                ) from None
        except ShoalError as error:
            call.fallback = "wrong_version" if isinstance(error, WrongVersion) else "failed"
            call.reasons.append(f"{performer.key}: {error.message}")
            if pinned:
                raise
        call.said = said
        if said is not None and (why := self._withdrawn(call, performer)):
            call.fallback = "withdrawn"
            call.reasons.append(why)
            if pinned:
                raise NoPerformer(f"The specialist {why}.", remedy="Name the model auto.")
            said = None
        if said is not None and (not said.given or not decision.accept(said.confidence)):
            call.fallback = "unsure"
            call.reasons.append(_not_sure(performer, said))
            if pinned:
                raise NoPerformer(
                    f"The specialist {_not_sure(performer, said)}.", remedy="Name the model auto."
                )
        if said is None or call.fallback:
            self.metrics.fell_back(decision.task_name or "", call.fallback)
            return None
        if said.node:
            call.place = Place(node=said.node, tier=said.tier)
        return Answer(
            content=said.content,
            model=f"specialist/{decision.task_name}@{performer.number}",
            tool_calls=tuple(
                {"id": f"call_{call.id}_{n}", **called} for n, called in enumerate(said.tool_calls)
            ),
            finish_reason="tool_calls" if said.tool_calls else "stop",
        )

    def _withdrawn(self, call: Call, performer: Performer) -> str:
        """Why a version may not answer any more that was asked: it was taken back meanwhile. Empty where it may."""
        router = self.router()
        decision = call.decision
        if decision is None or router is None or router.snapshot.epoch <= call.epoch:
            return ""
        route = router.route(decision.task_id or "")
        now = next((p for p in (route.performers if route else ()) if p.key == performer.key), None)
        if now is None or (now.state is VersionState.SHADOW and performer.state is not VersionState.SHADOW):
            return f"{performer.key} was taken back while it was asked"
        return ""

    def _may_see(self, call: Call, performer: Performer) -> bool:
        """Whether the specialist runs where the call's data may go. Raises PrivacyViolation where the client named it."""
        if call.privacy != "local-only":
            return True
        place = self.specialists.place_of(performer.key)
        if place.keeps_local_only:
            return True
        where = f"{place.node}, a {place.tier} node" if place.tier else "a node that is not known"
        call.fallback = "private"
        call.reasons.append(f"{performer.key} runs on {where}, and the call is `local-only`")
        if call.decision is not None and call.decision.pinned:
            raise PrivacyViolation(
                f"The call is `local-only`, and {performer.key} runs on {where}.",
                remedy="Place the specialist on an edge or local node: `placement.tier`.",
            )
        self.metrics.fell_back((call.decision and call.decision.task_name) or "", call.fallback)
        return False

    def generalist_for(self, call: Call) -> Generalist:
        why = "; ".join(call.reasons) or "no specialist is meant for it"
        if call.fallback in ("slow", "failed", "wrong_version", "withdrawn") and not self._may_ask_generalist(
            call
        ):
            raise SpecialistUnavailable(
                f"The specialist did not answer ({why}), and nobody else may.",
                remedy="Try again: it is being restarted, or is busy.",
            )
        if self.generalist is None:
            raise NoPerformer(
                f"No specialist answers this call ({why}), and the site has no generalist.",
                remedy="Start the site with --generalist URL --model NAME.",
            )
        if call.privacy == "local-only" and not self.settings.generalist_local:
            raise PrivacyViolation(
                f"The call is `local-only`, no specialist answers it ({why}), and the generalist may not see it.",
                remedy="Send it with another label; or, where the generalist runs on this very machine and sends nothing on, "
                "say so: `generalist.local: true`.",
            )
        return self.generalist

    def _may_ask_generalist(self, call: Call) -> bool:
        return self.generalist is not None and (
            call.privacy != "local-only" or self.settings.generalist_local
        )

    async def ask_generalist(self, call: Call) -> Answer:
        generalist = self.generalist_for(call)
        try:
            answer = await generalist.chat(call.sent, deadline_s=self.left_s(call))
        except ShoalError as error:
            self.metrics.generalist_failed(error.code)
            raise
        return replace(answer, model=f"generalist/{generalist.model}")

    async def first(self, source: AsyncIterator[Delta], *, from_generalist: bool) -> Delta:
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

    def left_s(self, call: Call) -> float:
        return max(0.001, call.deadline_s - (self.clock.monotonic() - call.started))


def _not_sure(performer: Performer, said: SpecialistAnswer) -> str:
    if not said.given:
        return f"{performer.key} has no answer" + (f": {said.reason}" if said.reason else "")
    why = f", {said.reason}" if said.reason else ""
    return f"{performer.key} is not sure enough: {said.confidence:.3f} of {performer.threshold:.3f}{why}"
