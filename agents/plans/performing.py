"""One part of a step, performed within its time; whatever becomes of it is an event of the run. Decides nothing."""

from __future__ import annotations

import asyncio
import logging

from shoal.agents.plans.run_state import Fault, PartFailed, PartPerformed, Perform
from shoal.agents.ports import Clock, Performed, StepPerformer
from shoal.errors import (
    DeadlineExceeded,
    GeneralistUnavailable,
    RateLimited,
    ShoalError,
    SiteError,
    SpecialistUnavailable,
    StepFailed,
)

log = logging.getLogger("shoal.plans")

#: failures after which another attempt may go well
_MAY_PASS = (
    DeadlineExceeded,
    GeneralistUnavailable,
    RateLimited,
    SiteError,
    SpecialistUnavailable,
    StepFailed,
)


class PartPerforming:
    """Use it in one event loop.

    Args:
        max_parallel: parts that are performed at once, over all runs.
    """

    def __init__(self, performer: StepPerformer, clock: Clock, max_parallel: int) -> None:
        self._performer = performer
        self._clock = clock
        self._room = asyncio.Semaphore(max_parallel)

    async def perform(self, command: Perform, *, run_id: str, caller: str) -> PartPerformed | PartFailed:
        """Never raises for what is performed."""
        if command.delay_s:
            await asyncio.sleep(command.delay_s)
        step, part = command.step, command.part
        try:
            async with self._room:
                performed = await self._ask(command, run_id, caller)
        except ShoalError as error:
            fault = Fault(code=error.code, message=str(error), may_pass=isinstance(error, _MAY_PASS))
            return PartFailed(step=step, part=part, fault=fault, at=self._clock.now())
        except Exception:
            log.exception("a fault over %s of the run %s", step, run_id)
            fault = Fault(code="internal_error", message="Shoal failed over this step; its log says why.")
            return PartFailed(step=step, part=part, fault=fault, at=self._clock.now())
        return PartPerformed(step=step, part=part, performed=performed, at=self._clock.now())

    async def _ask(self, command: Perform, run_id: str, caller: str) -> Performed:
        """Within the step's time, whatever the performer does."""
        limit = command.deadline_s
        try:
            async with asyncio.timeout(limit):
                if command.tool:
                    return await self._performer.call_tool(
                        command.tool,
                        command.payload,
                        privacy=command.label,
                        tier=command.tier,
                        deadline_s=limit,
                    )
                return await self._performer.ask(
                    command.payload,
                    privacy=command.label,
                    tier=command.tier,
                    step=command.step,
                    run_id=run_id,
                    caller=caller,
                    deadline_s=limit,
                )
        except TimeoutError:
            raise DeadlineExceeded(
                f"The step {command.step} was not done within {limit:g} s.",
                remedy="Give it more `timeout_s`.",
            ) from None
