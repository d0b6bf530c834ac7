"""One task's match data, ready to be searched; `matcher.py` documents the fields. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from shoal.agents.registry.records import TaskId
from shoal.agents.tasks.features import Features
from shoal.agents.tasks.shapes import RECORDS
from shoal.agents.tasks.template import Template
from shoal.agents.tasks.turns import Rule


class Matchable(Protocol):
    """A task, or a route that knows its task."""

    @property
    def name(self) -> str: ...

    @property
    def match(self) -> Mapping[str, Any]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Face:
    instruction: Template | None
    record: str
    keys: frozenset[str]

    def fits(self, features: Features, instructions: Sequence[str]) -> bool:
        if self.instruction is not None and not any(self.instruction.fits(text) for text in instructions):
            return False
        if not self.record:
            return features.structure not in RECORDS
        return str(features.structure) == self.record and (
            not features.keys or not self.keys or not self.keys.isdisjoint(features.keys)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """One task's match data, ready to be searched."""

    id: TaskId
    name: str
    tools: bool
    format: str
    faces: tuple[Face, ...]
    structures: frozenset[str]
    languages: frozenset[str]
    tool_set: frozenset[str]
    open_prompts: bool
    open_tools: bool
    weights: Mapping[str, float]
    bias: float
    turn: Rule
    #: tasks of one template have the same
    family: tuple[str, ...]
    likeness: tuple[float, ...]

    def is_of_kind(self, features: Features) -> bool:
        """Whether its calls offered tools, or none, and asked for the same format, as the request does."""
        return self.tools == features.has_tools and self.format == features.format


def read_known(task_id: TaskId, task: Matchable) -> Known:
    """Read a task that has match data."""
    data = task.match
    return Known(
        id=task_id,
        name=task.name,
        tools=bool(data["tools"]),
        format=str(data["format"]),
        faces=tuple(
            Face(
                instruction=None if face["instruction"] is None else Template.from_dict(face["instruction"]),
                record=str(face["record"]),
                keys=frozenset(face["keys"]),
            )
            for face in data["faces"]
        ),
        structures=frozenset(data["structures"]),
        languages=frozenset(data["languages"]),
        tool_set=frozenset(data["tool_set"]),
        open_prompts=bool(data["open_prompts"]),
        open_tools=bool(data["open_tools"]),
        weights=data["weights"],
        bias=float(data["bias"]),
        turn=tuple((str(mark), bool(wanted)) for mark, wanted in data.get("turn", ())),
        family=tuple(run for template in data["templates"] for run in template["runs"]),
        likeness=tuple(float(cosine) for cosine in data.get("likeness", ())) if data.get("wording") else (),
    )
