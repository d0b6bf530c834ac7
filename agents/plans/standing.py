"""A run put together from what was kept of it, and how it stands by that alone. Pure; performs nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from shoal.agents.plans.catalogue import Catalogue, ToolInfo
from shoal.agents.plans.machine import PlanRun
from shoal.agents.plans.run_state import Fault, RunBegun, RunStatus
from shoal.agents.plans.runs import StoredRun

#: events that were told once and need not be told again by a run that goes on
_ONCE = frozenset({"run_started", "step_started", "step_planned", "step_done"})

#: ends of steps that hold as long as the run goes on, and no longer once it is resumed after its end
_OVER = frozenset({"step_failed", "step_skipped"})
_ENDS = frozenset({"run_failed", "run_cancelled", "run_done"})


def put_together(stored: StoredRun, catalogue: Catalogue) -> PlanRun:
    """The run as it can go on: `RunBegun` takes it to where it stood.

    What failed in a run that has not ended stays failed; one that ended is resumed to try it again.
    """
    row = stored.row
    going_on = _since_last_end(stored.events) if stored.status is RunStatus.RUNNING else []
    over = [event for event in going_on if event["type"] in _OVER]
    once = {(e["type"], e.get("step", "")) for e in stored.events if e["type"] in _ONCE}
    return PlanRun(
        row.id,
        row.plan,
        row.input,
        label=row.label,
        catalogue=catalogue,
        created_at=row.created_at,
        saved=stored.parts,
        told=once | {(e["type"], e["step"]) for e in over},
        failed={e["step"]: Fault(**e["error"]) for e in over if e["type"] == "step_failed"},
        seq=max((e["seq"] for e in stored.events), default=0),
    )


def kept_view(stored: StoredRun) -> dict[str, Any]:
    """How a run stands by what is kept alone: what was under way is shown as running, although nobody may be at it."""
    if stored.view is not None:
        return dict(stored.view)
    uses = {step.use for step in stored.row.plan.steps} | {event.get("use", "") for event in stored.events}
    names = [use.partition("/")[2] for use in uses if use.startswith("tool/")]
    run = put_together(stored, Catalogue(tools={n: ToolInfo(name=n, description="") for n in names}))
    run.handle(RunBegun(at=stored.row.created_at))
    return run.view()


def _since_last_end(events: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    ends = [place for place, event in enumerate(events) if event["type"] in _ENDS]
    return events[ends[-1] + 1 :] if ends else events
