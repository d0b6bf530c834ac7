"""A plan: typed steps whose inputs refer to other steps' outputs. Reads and checks its YAML, JSON or Python form.

Pure. Knows neither how a step is performed nor how a run stands.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from typing import Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from shoal.agents.plans.catalogue import Catalogue
from shoal.agents.plans.references import (
    INPUT,
    RESERVED,
    read_reference,
    references_in,
    uses_element,
)
from shoal.agents.plans.schema import breaks, schema_errors
from shoal.agents.plans.values import no_json
from shoal.agents.traces.chat import Privacy
from shoal.errors import InvalidRequest

MOST_STEPS: Final = 200
_NAME = r"^[a-z][a-z0-9_-]{0,63}$"
_USE = r"^(tool/.+|specialist/.+|skill/.+|auto|generalist|planner)$"
PLANNER: Final = "planner"


@dataclass(frozen=True, slots=True, kw_only=True)
class Skill:
    """A named way of asking a model: what a plan may use as `skill/<name>`.

    Attributes:
        use: `auto`, `generalist` or `specialist/<task>`.
        output: JSON Schema of the answer; empty where it is a text.
        tier: where it should run; empty for any.
        privacy: a label that its data has at least.
    """

    system: str
    description: str = ""
    use: str = "auto"
    output: Mapping[str, Any] = field(default_factory=dict)
    tier: str = ""
    privacy: Privacy | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One node of a plan.

    Attributes:
        use: `tool/<name>`, `specialist/<task>`, `skill/<name>`, `auto`, `generalist` or `planner`.
        each: a reference to a list: the step is performed once for each of its elements, its output is the list of outputs.
        input: JSON with references: a tool's arguments, or what a model is told.
        system: the system message for a model.
        output: JSON Schema that the output must keep.
        retries: further attempts after a failure that may pass.
    """

    id: str
    use: str
    each: str | None = None
    input: Any = None
    system: str = ""
    output: Mapping[str, Any] = field(default_factory=dict)
    tier: str = ""
    privacy: Privacy | None = None
    timeout_s: float = 60.0
    retries: int = 1

    @property
    def needs(self) -> tuple[str, ...]:
        """Ids of the steps whose outputs it refers to, in order, each once."""
        found = [reference.name for reference in references_in([self.each, self.input])]
        return tuple(dict.fromkeys(name for name in found if name not in RESERVED))


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A named plan, offered as the model `agent/<name>`.

    Attributes:
        input, output: JSON Schemas of a run's input object and of its result.
        tools: tools that a planner may use here; None for all.
        result: JSON with references.
        planner: `system`: the prompt of its planner steps, instead of the one that is made from the catalogue.
    """

    name: str
    description: str = ""
    input: Mapping[str, Any] = field(default_factory=dict)
    output: Mapping[str, Any] = field(default_factory=dict)
    skills: Mapping[str, Skill] = field(default_factory=dict)
    tools: tuple[str, ...] | None = None
    steps: tuple[Step, ...] = ()
    result: Any = None
    planner: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain data that `parse_plan` reads back to an equal plan; what has its default is left out."""
        data: dict[str, Any] = {"name": self.name}
        for name in ("description", "input", "output"):
            if value := getattr(self, name):
                data[name] = value
        if self.skills:
            data["skills"] = {name: _told(skill, Skill(system="")) for name, skill in self.skills.items()}
        if self.tools is not None:
            data["tools"] = list(self.tools)
        data["steps"] = [_told(step, Step(id="", use="")) for step in self.steps]
        data["result"] = self.result
        if self.planner:
            data["planner"] = {"system": self.planner}
        return data


def _told(value: Any, default: Any) -> dict[str, Any]:
    fields = value.__dataclass_fields__
    return {name: getattr(value, name) for name in fields if getattr(value, name) != getattr(default, name)}


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Skill(_Part):
    system: str
    description: str = ""
    use: str = Field(default="auto", pattern=r"^(auto|generalist|specialist/.+)$")
    output: dict[str, Any] = Field(default_factory=dict)
    tier: Literal["", "cloud", "edge", "local"] = ""
    privacy: Privacy | None = None


class _BodyStep(_Part):
    """A step as a planner may write it."""

    id: str = Field(pattern=_NAME)
    use: str = Field(pattern=_USE)
    each: str | None = None
    input: Any = None

    @model_validator(mode="after")
    def _checked(self) -> Self:
        if self.id in RESERVED:
            raise ValueError(f"a step may not be called {self.id}")
        if self.each is not None and read_reference(self.each) is None:
            raise ValueError("`each` must be a reference to a list, such as $data.records")
        return self


class _Step(_BodyStep):
    system: str = ""
    output: dict[str, Any] = Field(default_factory=dict)
    tier: Literal["", "cloud", "edge", "local"] = ""
    privacy: Privacy | None = None
    timeout_s: float = Field(default=60.0, gt=0, le=3600)
    retries: int = Field(default=1, ge=0, le=10)

    @model_validator(mode="after")
    def _planner_is_one(self) -> Self:
        if self.use == PLANNER and (self.each is not None or self.output):
            raise ValueError("a planner writes one plan: it takes neither `each` nor `output`")
        return self


class _Planner(_Part):
    system: str


class _Body(_Part):
    steps: list[_BodyStep] = Field(min_length=1, max_length=MOST_STEPS)
    result: Any


class _Plan(_Part):
    name: str = Field(pattern=_NAME)
    description: str = ""
    input: dict[str, Any] = Field(default_factory=dict)
    output: dict[str, Any] = Field(default_factory=dict)
    skills: dict[str, _Skill] = Field(default_factory=dict)
    tools: tuple[str, ...] | None = None
    steps: list[_Step] = Field(min_length=1, max_length=MOST_STEPS)
    result: Any
    planner: _Planner | None = None


#: JSON Schema of what a planner writes, as it is shown to it
BODY_SCHEMA: Final[Mapping[str, Any]] = {
    "type": "object",
    "required": ["steps", "result"],
    "additionalProperties": False,
    "properties": {
        "steps": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "required": ["id", "use"],
                "additionalProperties": False,
                "properties": {
                    "id": {"type": "string", "pattern": _NAME},
                    "use": {"type": "string"},
                    "each": {"type": "string", "pattern": r"^\$"},
                    "input": {},
                },
            },
        },
        "result": {},
    },
}


def parse_plan(data: object, *, source: str) -> Plan:
    """Read a plan.

    Args:
        data: what YAML or JSON gave.
        source: where it is from, for messages.

    Raises:
        InvalidRequest: it is no plan; `param` is the path to the first bad field.
    """
    if fault := no_json(data):
        raise _bad(source, fault[0], fault[1], "Write JSON values: texts in quotes, such as dates, too.")
    raw = _validated(_Plan, data, source)
    for place, schema in _schemas(raw):
        if wrong := schema_errors(schema):
            raise _bad(source, place, f"no JSON Schema: {wrong[0]}", "Mend the schema.")
    plan = Plan(
        name=raw.name,
        description=raw.description,
        input=raw.input,
        output=raw.output,
        skills={name: Skill(**dict(skill)) for name, skill in raw.skills.items()},
        tools=raw.tools,
        steps=tuple(Step(**dict(step)) for step in raw.steps),
        result=raw.result,
        planner="" if raw.planner is None else raw.planner.system,
    )
    for number, step in enumerate(plan.steps):
        kind, _, name = step.use.partition("/")
        if kind == "skill" and name not in plan.skills:
            there = ", ".join(sorted(plan.skills)) or "none"
            raise _bad(source, f"steps.{number}.use", f"there is no skill {name!r}, only {there}", "Add it.")
    if wrong := graph_errors(plan.steps, plan.result):
        raise _bad(source, "steps", wrong[0], "Mend the references.")
    return plan


def _validated(model: type[Any], data: object, source: str) -> Any:
    try:
        return model.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        path = ".".join(str(part) for part in first["loc"])
        shown = str(first.get("input"))
        raise _bad(
            source,
            path,
            f"{first['msg']}, got {shown if len(shown) <= 80 else shown[:77] + '...'}",
            "See docs/plans.md.",
        ) from None


def _bad(source: str, path: str, what: str, remedy: str) -> InvalidRequest:
    return InvalidRequest(f"{source}: `{path}`: {what}.", remedy=remedy, param=path or None)


def _schemas(raw: _Plan) -> list[tuple[str, Mapping[str, Any]]]:
    found: list[tuple[str, Mapping[str, Any]]] = [("input", raw.input), ("output", raw.output)]
    found += [(f"skills.{name}.output", skill.output) for name, skill in raw.skills.items()]
    found += [(f"steps.{number}.output", step.output) for number, step in enumerate(raw.steps)]
    return found


def graph_errors(steps: Sequence[Step], result: Any) -> list[str]:
    """What is wrong with the data flow: ids given twice, references to nothing, circles, `$item` without an `each`."""
    errors: list[str] = []
    ids = [step.id for step in steps]
    errors += [f"the id {name} is given twice" for name in dict.fromkeys(ids) if ids.count(name) > 1]
    known = set(ids)
    for step in steps:
        errors += [
            f"{step.id} refers to ${name}, and there is no such step"
            for name in step.needs
            if name not in known
        ]
        if any(uses_element(reference) for reference in references_in(step.each)):
            errors.append(f"the `each` of {step.id} refers to $item or $index, which are within it")
        if step.each is None and any(uses_element(reference) for reference in references_in(step.input)):
            errors.append(f"{step.id} refers to $item or $index and has no `each`")
    for reference in references_in(result):
        if uses_element(reference):
            errors.append(f"the result refers to {reference}, and $item and $index are a step's")
            continue
        if reference.name not in known and reference.name != INPUT:
            errors.append(f"the result refers to {reference}, and there is no such step")
    if not errors:
        try:
            TopologicalSorter({step.id: step.needs for step in steps}).prepare()
        except CycleError as error:
            errors.append(f"the steps wait for each other: {' -> '.join(map(str, error.args[1]))}")
    return errors


def read_body(body: object) -> tuple[tuple[Step, ...], Any]:
    """The steps and the result of a planner's body. Raises InvalidRequest where its shape is wrong."""
    raw: _Body = _validated(_Body, body, "the planner's plan")
    return tuple(Step(**dict(step)) for step in raw.steps), raw.result


def validate_body(body: object, plan: Plan, catalogue: Catalogue) -> list[str]:
    """Why a planner's body may not be run within this plan; empty where it may.

    Checked are its shape, its data flow, that it uses only what the catalogue and the plan's skills offer, and that a tool's
    arguments, as far as they are known beforehand, keep the tool's schema.
    """
    try:
        steps, result = read_body(body)
    except InvalidRequest as error:
        return [error.message]
    errors = graph_errors(steps, result)
    offered = catalogue.only(plan.tools)
    for step in steps:
        errors += _use_errors(step, plan, offered)
    return errors


def _use_errors(step: Step, plan: Plan, offered: Catalogue) -> list[str]:
    kind, _, name = step.use.partition("/")
    if kind == PLANNER:
        return [f"{step.id}: a planner may not call another"]
    if kind == "skill":
        return [] if name in plan.skills else [f"{step.id}: there is no skill {name!r}"]
    if kind == "specialist":
        return [] if name in offered.specialists else [f"{step.id}: there is no specialist {name!r}"]
    if kind == "tool":
        if name not in offered.tools:
            return [f"{step.id}: there is no tool {name!r}"]
        schema = offered.tools[name].input
        if any(True for _ in references_in(step.input)):
            return []  # what the references lead to is checked when the step is performed
        return [
            f"{step.id}: {wrong}" for wrong in breaks(step.input if step.input is not None else {}, schema)
        ]
    return []
