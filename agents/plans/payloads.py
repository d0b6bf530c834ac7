"""What a performer is given for a part of a step, and what is read out of its answer. Pure.

A model gets a chat request's body, a tool its arguments. An answer that breaks its schema is told why.
"""

from __future__ import annotations

import json
from typing import Any

from shoal.agents.plans.catalogue import Catalogue
from shoal.agents.plans.plan import PLANNER, Plan, validate_body
from shoal.agents.plans.planner import planner_prompt, read_json_answer
from shoal.agents.plans.run_state import StepState
from shoal.agents.plans.schema import breaks
from shoal.agents.plans.values import no_json
from shoal.errors import NotFound, StepFailed


class Payloads:
    """For the steps of one run."""

    def __init__(self, plan: Plan, catalogue: Catalogue) -> None:
        self._plan = plan
        self._catalogue = catalogue

    def of(self, state: StepState, given: Any) -> dict[str, Any]:
        """The payload for a resolved input. Raises NotFound, StepFailed."""
        kind, _, name = state.step.use.partition("/")
        if kind == "tool":
            return self._arguments(state, name, given)
        system, model = state.step.system, state.step.use
        if kind == PLANNER:
            system, model = planner_prompt(self._plan, self._catalogue), "auto"
        elif state.skill is not None:
            system, model = state.skill.system, state.skill.use
        messages = [{"role": "system", "content": system}] if system else []
        messages.append({"role": "user", "content": as_text(given)})
        return {"model": model, "messages": messages, "temperature": 0}

    def _arguments(self, state: StepState, name: str, given: Any) -> dict[str, Any]:
        info = self._catalogue.tools.get(name)
        if info is None:
            raise NotFound(
                f"There is no tool {name!r} here.", remedy="shoal.yaml names the tools under `tools`."
            )
        arguments = {} if given is None else given
        if not isinstance(arguments, dict):
            raise StepFailed(f"A tool takes an object, and {state.id} gives {type(arguments).__name__}.")
        if wrong := breaks(arguments, info.input):
            raise StepFailed(f"The arguments for the tool {name} break its schema: {'; '.join(wrong)}.")
        return arguments

    def read(self, state: StepState, output: Any, *, trusted: bool = False) -> tuple[Any, list[str]]:
        """(the value that other steps see, why it may not be used).

        Args:
            trusted: it was checked before, when it was kept.
        """
        kind, _, name = state.step.use.partition("/")
        value = output
        if kind == PLANNER or (kind != "tool" and state.schema):
            value, why = read_json_answer(str(output))
            if why:
                return None, [why]
        if trusted:
            return value, []
        if fault := no_json(value):
            path, why = fault
            return None, [f"`{path}`: {why}" if path else why]
        if kind == "tool":
            schemas = [state.step.output, self._catalogue.tools[name].output]
            return value, [wrong for schema in schemas for wrong in breaks(value, schema)]
        if kind == PLANNER:
            return value, validate_body(value, self._plan, self._catalogue)
        return value, breaks(value, state.schema)


def as_text(given: Any) -> str:
    """What a model is told: a text as it is, anything else as JSON."""
    return given if isinstance(given, str) else json.dumps(given, ensure_ascii=False)
