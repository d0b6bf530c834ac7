"""One run of a plan: which step is performed when, with which label, and what becomes of the run. A pure state machine.

`handle(event) -> [commands]`. What is done is kept before it is told and before anything builds on it, so a run that is put together
again from what was kept goes on where it stood and performs nothing twice that was kept.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from shoal.agents.plans.catalogue import Catalogue
from shoal.agents.plans.following import Following
from shoal.agents.plans.labels import strictest
from shoal.agents.plans.payloads import Payloads
from shoal.agents.plans.plan import PLANNER, Plan, read_body
from shoal.agents.plans.references import INPUT, ITEM, RESERVED, references_in, resolve
from shoal.agents.plans.run_state import (
    Command,
    Event,
    Fault,
    PartFailed,
    PartPerformed,
    PartState,
    Perform,
    RunBegun,
    RunStatus,
    SavedPart,
    StepState,
    StepStatus,
    failed_behind,
)
from shoal.agents.plans.schema import breaks
from shoal.agents.traces.chat import Privacy
from shoal.errors import ShoalError, StepFailed

#: parts that one step may have
MOST_PARTS: Final = 10_000
_FIRST_DELAY_S = 0.2


class PlanRun:
    """One run.

    Args:
        label: of the run's input.
        saved: parts that are done already, from the store.
        told: (type, step) of the events that were told already, and `seq` of the last of them.
    """

    def __init__(
        self,
        run_id: str,
        plan: Plan,
        input: Mapping[str, Any],
        *,
        label: Privacy,
        catalogue: Catalogue,
        created_at: float,
        saved: Sequence[SavedPart] = (),
        told: Collection[tuple[str, str]] = (),
        failed: Mapping[str, Fault] | None = None,
        seq: int = 0,
    ) -> None:
        self.run_id = run_id
        self.plan = plan
        self.input = dict(input)
        self.label = label
        self.created_at = created_at
        self.ended_at = 0.0
        self.status = RunStatus.RUNNING
        self.output: Any = None
        self.error: dict[str, Any] | None = None
        self._payloads = Payloads(plan, catalogue)
        self._saved = {(part.step, part.part): part for part in saved}
        self._failed = dict(failed or {})
        self._steps: dict[str, StepState] = {}
        self._add("", plan.steps)
        self._following = Following(run_id, told=told, seq=seq)

    @property
    def over(self) -> bool:
        return self.status is not RunStatus.RUNNING

    def handle(self, event: Event) -> list[Command]:
        """What follows from an event. Events of steps that are over change nothing."""
        if self.over:
            return []
        at = event.at
        if isinstance(event, RunBegun):
            self._following.tell(
                at, "run_started", None, status="running", label=self.label, plan=self.plan.name
            )
        elif isinstance(event, PartPerformed):
            self._performed(event)
        elif isinstance(event, PartFailed):
            self._part_failed(event.step, event.part, event.fault, at)
        else:
            self._cancel(at)
        self._advance(at)
        return self._commands(at)

    def give_up(self, at: float, message: str) -> list[Command]:
        """End the run as failed after a fault of the machine itself, so that it is not tried again at every start."""
        self._following.forget()
        for state in self._steps.values():
            if not state.over:
                self._following.stop(state.id)
        self._finish(RunStatus.FAILED, at, error={"code": "internal_error", "message": message})
        return self._commands(at)

    def _commands(self, at: float) -> list[Command]:
        status = self.status if self.over else None
        return self._following.commands(at, status=status, output=self.output, error=self.error)

    def view(self) -> dict[str, Any]:
        """The run as plain data: see INTERFACE in docs/plans.md."""
        steps = [state.to_dict() for state in self._steps.values()]
        costs = [step["cost_usd"] for step in steps if step["cost_usd"] is not None]
        return {
            "id": self.run_id,
            "plan": self.plan.name,
            "status": str(self.status),
            "input": self.input,
            "output": self.output,
            "error": self.error,
            "label": self.label,
            "created_at": self.created_at,
            "ended_at": self.ended_at or None,
            "steps": steps,
            "result": self.plan.result,
            "cost_usd": sum(costs) if costs else None,
        }

    # -- going on

    def _add(self, scope: str, steps: Sequence[Any]) -> None:
        for step in steps:
            kind, _, name = step.use.partition("/")
            skill = self.plan.skills[name] if kind == "skill" else None
            self._steps[scope + step.id] = StepState(id=scope + step.id, scope=scope, step=step, skill=skill)

    def _advance(self, at: float) -> None:
        moved = True
        while moved and not self.over:
            moved = False
            for state in list(self._steps.values()):
                if state.status is StepStatus.WAITING:
                    moved = self._try_start(state, at) or moved
                elif state.status is StepStatus.RUNNING and state.inner is not None:
                    moved = self._try_end_planner(state, at) or moved
        if not self.over and all(state.over for state in self._steps.values()):
            self._end(at)

    def _try_start(self, state: StepState, at: float) -> bool:
        needed = [self._steps[name] for name in state.needs]
        missing = next((need for need in needed if need.over and need.status is not StepStatus.DONE), None)
        if missing is not None:
            state.status, state.ended_at = StepStatus.SKIPPED, at
            state.fault = Fault(code="skipped", message=f"it needs {missing.id}, which was not done")
            self._following.tell(at, "step_skipped", state, error=state.fault.to_dict())
            return True
        if not all(need.status is StepStatus.DONE for need in needed):
            return False
        self._start(state, needed, at)
        return True

    def _start(self, state: StepState, needed: Sequence[StepState], at: float) -> None:
        state.status, state.started_at = StepStatus.RUNNING, at
        above = self._steps[state.scope[:-1]].label if state.scope else None
        skill = state.skill.privacy if state.skill else None
        state.label = strictest([self.label, above, state.step.privacy, skill, *(n.label for n in needed)])
        if (known := self._failed.pop(state.id, None)) is not None:
            self._fail(state, known, at)
            return
        try:
            items = self._items(state)
            payloads = [
                {} if (state.id, n) in self._saved else self._payload(state, item, n)
                for n, item in enumerate(items)
            ]
        except ShoalError as error:
            self._fail(state, Fault(code=error.code, message=error.message), at)
            return
        count = {"parts": len(payloads)} if state.step.each is not None else {}
        self._following.tell(at, "step_started", state, **count)
        state.parts = [PartState(payload=payload, started_at=at) for payload in payloads]
        state.left = len(payloads)
        for number in range(len(payloads)):
            if state.status is not StepStatus.RUNNING:
                return
            saved = self._saved.get((state.id, number))
            if saved is not None:
                self._take_saved(state, number, saved)
            else:
                self._following.perform(self._perform(state, number))
        if not payloads:
            self._done(state, [], at)

    def _items(self, state: StepState) -> Sequence[Any]:
        if state.step.each is None:
            return [None]
        items = resolve(state.step.each, self._look_up(state.scope))
        if not isinstance(items, list):
            raise StepFailed(f"`each` of {state.id} must lead to a list, got {type(items).__name__}.")
        if len(items) > MOST_PARTS:
            raise StepFailed(f"{state.id} would have {len(items)} parts; a step may have {MOST_PARTS}.")
        return items

    def _payload(self, state: StepState, item: Any, number: int) -> dict[str, Any]:
        each = state.step.each is not None
        names = self._look_up(state.scope)

        def look_up(name: str) -> Any:
            return item if name == ITEM and each else names(name)

        given = resolve(state.step.input, look_up, number if each else None)
        return self._payloads.of(state, given)

    def _look_up(self, scope: str) -> Any:
        def found(name: str) -> Any:
            if name == INPUT:
                return self.input
            state = self._steps.get(scope + name)
            if state is None or state.status is not StepStatus.DONE:
                raise StepFailed(f"${name} has no value.", remedy="Only what is done can be referred to.")
            return state.output

        return found

    def _perform(self, state: StepState, number: int, delay_s: float = 0.0) -> Perform:
        kind, _, name = state.step.use.partition("/")
        return Perform(
            step=state.id,
            part=number,
            tool=name if kind == "tool" else "",
            payload=state.parts[number].payload,
            label=state.label,
            tier=state.tier,
            deadline_s=state.step.timeout_s,
            delay_s=delay_s,
        )

    # -- outcomes

    def _performed(self, event: PartPerformed) -> None:
        state = self._steps.get(event.step)
        if state is None or state.status is not StepStatus.RUNNING:
            return
        part = state.parts[event.part]
        if part.status is not StepStatus.RUNNING:
            return
        value, wrong = self._payloads.read(state, event.performed.output)
        if wrong:
            self._broke(state, event, wrong)
            return
        part.status, part.performed, part.value = StepStatus.DONE, event.performed, value
        part.ended_at = event.at
        self._following.keep(
            SavedPart(
                step=state.id,
                part=event.part,
                performed=event.performed,
                attempts=part.attempts,
                started_at=part.started_at,
                ended_at=event.at,
            )
        )
        self._part_done(state, event.at)

    def _broke(self, state: StepState, event: PartPerformed, wrong: Sequence[str]) -> None:
        """An answer that breaks its schema: the generalist is asked once where another gave it, and then no more."""
        part = state.parts[event.part]
        who = event.performed.performer
        if not who.startswith(("generalist/", "tool/")) and not part.asked_generalist:
            part.asked_generalist = True
            part.attempts += 1
            part.payload = {**part.payload, "model": "generalist"}
            self._following.perform(self._perform(state, event.part))
            return
        fault = Fault(code="step_failed", message=f"{who} gave what may not be used: {'; '.join(wrong)}")
        self._part_failed(state.id, event.part, fault, event.at)

    def _take_saved(self, state: StepState, number: int, saved: SavedPart) -> None:
        part = state.parts[number]
        part.value, _ = self._payloads.read(state, saved.performed.output, trusted=True)
        part.status, part.performed = StepStatus.DONE, saved.performed
        part.attempts, part.started_at, part.ended_at = saved.attempts, saved.started_at, saved.ended_at
        self._part_done(state, saved.ended_at)

    def _part_done(self, state: StepState, at: float) -> None:
        state.left -= 1
        if state.left:
            return
        values = [part.value for part in state.parts]
        if state.step.use == PLANNER:
            steps, state.inner_result = read_body(values[0])
            state.inner = tuple(f"{state.id}.{step.id}" for step in steps)
            state.planned = values[0]
            self._following.tell(at, "step_planned", state, output=values[0])
            self._add(f"{state.id}.", steps)
            return
        self._done(state, values if state.step.each is not None else values[0], at)

    def _done(self, state: StepState, output: Any, at: float) -> None:
        state.status, state.output, state.ended_at = StepStatus.DONE, output, at
        count = {"parts": len(state.parts)} if state.step.each is not None else {}
        self._following.tell(at, "step_done", state, output=output, **count)

    def _try_end_planner(self, state: StepState, at: float) -> bool:
        inner = [self._steps[name] for name in state.inner or ()]
        if not all(step.over for step in inner):
            return False
        state.label = strictest([state.label, *(step.label for step in inner)])
        try:
            output = resolve(state.inner_result, self._look_up(f"{state.id}."))
        except ShoalError as error:
            wanted = [
                f"{state.id}.{r.name}" for r in references_in(state.inner_result) if r.name not in RESERVED
            ]
            failed = failed_behind(self._steps, wanted)
            fault = failed.fault if failed is not None and failed.fault is not None else None
            self._fail(state, fault or Fault(code=error.code, message=error.message), at)
        else:
            self._done(state, output, at)
        return True

    def _part_failed(self, name: str, number: int, fault: Fault, at: float) -> None:
        state = self._steps.get(name)
        if state is None or state.status is not StepStatus.RUNNING:
            return
        part = state.parts[number]
        if part.status is not StepStatus.RUNNING:
            return
        part.failures += 1
        if fault.may_pass and part.failures <= state.step.retries:
            part.attempts += 1
            delay = _FIRST_DELAY_S * 2 ** (part.failures - 1)
            self._following.perform(self._perform(state, number, delay))
            return
        part.status, part.ended_at = StepStatus.FAILED, at
        self._fail(state, fault, at)

    def _fail(self, state: StepState, fault: Fault, at: float) -> None:
        state.status, state.fault, state.ended_at = StepStatus.FAILED, fault, at
        self._following.stop(state.id)
        self._following.tell(at, "step_failed", state, error=fault.to_dict())

    def _cancel(self, at: float) -> None:
        for state in self._steps.values():
            if not state.over:
                state.status, state.ended_at = StepStatus.CANCELLED, at
                self._following.stop(state.id)
        self._finish(RunStatus.CANCELLED, at, error={"code": "cancelled", "message": "the run was cancelled"})

    def _end(self, at: float) -> None:
        needed = [r.name for r in references_in(self.plan.result) if r.name not in RESERVED]
        if (first := failed_behind(self._steps, needed)) is not None:
            fault = first.fault or Fault(code="step_failed", message="it failed")
            error = {"code": fault.code, "message": f"step {first.id}: {fault.message}", "step": first.id}
            self._finish(RunStatus.FAILED, at, error=error)
            return
        try:
            output = resolve(self.plan.result, self._look_up(""))
        except ShoalError as failed:
            self._finish(RunStatus.FAILED, at, error={"code": failed.code, "message": failed.message})
            return
        if wrong := breaks(output, self.plan.output):
            message = f"the result breaks the plan's schema: {wrong[0]}"
            self._finish(RunStatus.FAILED, at, error={"code": "plan_failed", "message": message})
            return
        self.output = output
        self._finish(RunStatus.DONE, at)

    def _finish(self, status: RunStatus, at: float, *, error: dict[str, Any] | None = None) -> None:
        self.status, self.error, self.ended_at = status, error, at
        more = {"error": error} if error else {"output": self.output}
        self._following.tell(at, f"run_{status}", None, status=str(status), label=self.label, **more)
