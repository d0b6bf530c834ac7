"""Specialists compared with the generalist, beside the calls: shadows and audits.

Owns what is asked after a call was answered, and the events that come of it. No client ever waits for any of this.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from shoal.agents.feedback.ledger import Expense, compute_of
from shoal.agents.ports import Clock, Generalist, SpecialistAnswer
from shoal.agents.registry.records import TaskId, VersionState
from shoal.agents.routing.snapshot import Performer
from shoal.agents.traces.chat import Answer, Usage
from shoal.agents.traces.tokens import usage_of
from shoal.errors import ShoalError
from shoal.serve.background import Background
from shoal.serve.call import Call
from shoal.serve.metrics import Metrics
from shoal.serve.ports import ComparisonMade, Judge, Observe, SpecialistClient, Spend
from shoal.serve.settings import ServiceSettings

#: answers that were not cut short: only these are worth comparing with
_WHOLE = frozenset({"stop", "tool_calls", "function_call"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparisons:
    """Asks the generalist now and then where a specialist answered, and shadows what the generalist was asked.

    `chance` is uniform in [0, 1): it picks the audits, and the calls on which shadows are compared while another version is asked.
    """

    generalist: Generalist | None
    specialists: SpecialistClient
    observe: Observe
    spend: Spend
    judge: Judge
    clock: Clock
    chance: Callable[[], float]
    settings: ServiceSettings
    metrics: Metrics
    background: Background

    def follow_up(self, call: Call, answer: Answer) -> None:
        """Start what follows a call that was answered in full."""
        decision = call.decision
        if decision is None or call.kind is None:
            return
        if decision.pinned:
            return  # whoever names a specialist chooses what it is asked: no sample of its task's calls
        # a shadow is compared on a fair sample of the task's calls, not only on those of which another version was unsure
        drawn = decision.performer is None or self.chance() < self.settings.audit_share
        if not answer.model.startswith("specialist/"):
            if drawn:
                self._ask_shadows(call, answer)
        elif (
            decision.performer is not None
            and call.said is not None
            and self._may_audit(call)
            # a canary's every answer is audited: it is there to be compared, on few calls
            and (drawn or decision.performer.state is VersionState.CANARY)
        ):
            self._start(partial(self._audit, call, decision.performer, call.said, shadows=drawn))

    def _ask_shadows(self, call: Call, reference: Answer) -> None:
        for shadow in () if call.decision is None else call.decision.shadows:
            if call.privacy != "local-only" or self.specialists.place_of(shadow.key).keeps_local_only:
                self._start(partial(self._shadow, call, shadow, reference))

    def _may_audit(self, call: Call) -> bool:
        return self.generalist is not None and (
            call.privacy != "local-only" or self.settings.generalist_local
        )

    def _start(self, work: Callable[[], Any]) -> None:
        if not self.background.start(work):
            self.metrics.dropped()

    async def _shadow(self, call: Call, performer: Performer, reference: Answer) -> None:
        limit = self.settings.specialist_deadline_s
        try:
            async with asyncio.timeout(limit):
                said = await self.specialists.ask(performer.key, call.request, deadline_s=limit)
        except (ShoalError, TimeoutError):
            return
        self._note_shadow(call, said)
        await self._compare(call, performer, said, reference, "shadow")

    async def _audit(
        self, call: Call, performer: Performer, said: SpecialistAnswer, *, shadows: bool
    ) -> None:
        if self.generalist is None:
            return
        reference = await self.generalist.chat(call.sent, deadline_s=self.settings.deadline_s)
        self._note_audit(call, usage_of(call.request, reference))
        if shadows:
            self._ask_shadows(call, reference)
        await self._compare(call, performer, said, reference, "audit")

    def _note_shadow(self, call: Call, said: SpecialistAnswer) -> None:
        if said.effort is None or call.decision is None:
            return
        self.metrics.computed(str(call.decision.task_name), said.effort.compute_ms / 1000)
        self.spend(
            Expense(
                kind="shadow",
                task_id=TaskId(str(call.decision.task_id)),
                at=self.clock.now(),
                compute=compute_of(said.effort),
                energy_joules=said.effort.energy_joules,
            )
        )

    def _note_audit(self, call: Call, usage: Usage) -> None:
        if call.decision is None:
            return
        usd = self.settings.cost_usd(usage)
        if usd is not None:
            self.metrics.spent(usd, "audits")
        self.spend(
            Expense(
                kind="audit",
                task_id=TaskId(str(call.decision.task_id)),
                at=self.clock.now(),
                calls=1,
                prompt_tokens=usage.prompt_tokens,
                completion_tokens=usage.completion_tokens,
                usd=usd or 0.0,
                unpriced=int(usd is None),
            )
        )

    async def _compare(
        self,
        call: Call,
        performer: Performer,
        said: SpecialistAnswer,
        reference: Answer,
        source: Literal["shadow", "audit"],
    ) -> None:
        if call.decision is None or call.kind is None or not said.given:
            return
        if reference.finish_reason not in _WHOLE:
            return
        task_id, task_name = str(call.decision.task_id), str(call.decision.task_name)
        asked = self.judge(
            performer.key,
            call.kind,
            call.request,
            said.content or "",
            reference,
            calls=said.tool_calls,
            private=call.privacy == "local-only",
        )
        verdict = await asked if inspect.isawaitable(asked) else asked
        outcome = "undefined" if not verdict.defined else "differs" if verdict.wrong else "agrees"
        self.metrics.compared(task_name, source, outcome)
        await self.observe(
            ComparisonMade(
                task_id=task_id,
                task_name=task_name,
                version_key=performer.key,
                source=source,
                judged=verdict.defined,
                agrees=not verdict.wrong,
                confidence=said.confidence,
                accepted=said.confidence >= performer.threshold,
                trace_id=call.id,
                at=self.clock.now(),
            )
        )
