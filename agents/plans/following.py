"""What follows from one event in a run of a plan, gathered while its machine decides: what to keep, tell, perform and stop. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from shoal.agents.plans.run_state import Command, Keep, Perform, RunStatus, SavedPart, StepState, StopParts


class Following:
    """One for a run.

    Args:
        told: (type, step) of the events that were told already; none is told twice.
        seq: of the last of them.
    """

    def __init__(self, run_id: str, *, told: Collection[tuple[str, str]], seq: int) -> None:
        self._run_id = run_id
        self._told = set(told)
        self._seq = seq
        self.forget()

    def forget(self) -> None:
        """Begin anew: nothing is gathered. What was told stays told."""
        self._parts: list[SavedPart] = []
        self._events: list[dict[str, Any]] = []
        self._performs: list[Perform] = []
        self._stops: list[str] = []

    def keep(self, part: SavedPart) -> None:
        self._parts.append(part)

    def perform(self, part: Perform) -> None:
        self._performs.append(part)

    def stop(self, step: str) -> None:
        """What the step has under way ends, and what it was about to begin does not."""
        self._performs = [perform for perform in self._performs if perform.step != step]
        self._stops.append(step)

    def tell(self, at: float, kind: str, state: StepState | None, **more: Any) -> None:
        """An event for whoever follows the run, of a step or (None) of the run itself."""
        key = (kind, "" if state is None else state.id)
        if key in self._told:
            return
        self._told.add(key)
        self._seq += 1
        event: dict[str, Any] = {"seq": self._seq, "run_id": self._run_id, "at": at, "type": kind}
        if state is not None:
            event |= {"step": state.id, "use": state.step.use, "status": str(state.status)}
            event |= {**state.where(), "label": state.label}
        self._events.append({**event, **more})

    def commands(
        self, at: float, *, status: RunStatus | None, output: Any, error: Mapping[str, Any] | None
    ) -> list[Command]:
        """All that was gathered, what is kept first; nothing is gathered then. `status`: of a run that has ended."""
        commands: list[Command] = []
        if self._parts or self._events or status is not None:
            commands.append(
                Keep(
                    parts=tuple(self._parts),
                    events=tuple(self._events),
                    status=status,
                    output=output,
                    error=error,
                    at=at,
                )
            )
        if self._stops:
            commands.append(StopParts(steps=tuple(self._stops)))
        commands += self._performs
        self.forget()
        return commands
