"""Which task a request belongs to, decided from the request alone.

A task's `match` is plain data (msgpack and JSON take it), made by the finder:

    v             1; a record without it matches nothing
    tools, format offered tools or none; asked-for format as `features.format_of` writes it
    fingerprints  of the prompts that the log had, most frequent first (at most 5,000)
    open_prompts  whether the log's prompts keep being new (a name or a date in them); else a new one is an anomaly
    templates     of the system prompts; see `template.Template`
    faces         outward looks of the input: `{"instruction": template|None, "record": structure|"", "keys": [...]}`
    structures    of inputs that the log had; `languages` likewise ("" stands for undecided)
    weights, bias evidence -> weight, where several tasks share prompt and looks
    turn          `[[mark, holds], ...]`: the stage of the conversation, where a prompt's turns are of several kinds; see `turns.py`
    tool_set      functions that the log offered, with their parameters; `open_tools` as `open_prompts`
    asks          what the log's calls asked for beyond the message; see `agents/routing/capability.py`
    merged_into   id of the task that the owner merged this one into
    split         `{"of": id, "fingerprints": [...], "contains": [...], "also": [id, ...]}`: the owner's rule for calls split
                  off that task, and off those that were made of its calls since
    about         counts for people; see `about.py`. Nothing is recognised by it
    retired       its calls belong to other tasks now

Pure. Knows nothing of who answers a task.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from shoal.agents.registry.records import TaskId
from shoal.agents.tasks.features import (
    Features,
    PromptMemo,
    evidence_of,
    features_of,
    instructions_in,
    language,
)
from shoal.agents.tasks.language import UNDECIDED
from shoal.agents.tasks.shapes import RECORDS
from shoal.agents.tasks.template import Template
from shoal.agents.tasks.turns import Rule, kind_of
from shoal.agents.traces.chat import ChatRequest

MATCH_VERSION = 1


class Novelty(StrEnum):
    """What is new about a request, against all calls that its task (or any task) has had."""

    SYSTEM_PROMPT = "system_prompt"
    PROMPT = "prompt"
    TOOLS = "tools"
    FORMAT = "format"
    INPUT = "input"
    LANGUAGE = "language"


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """The task of a request, and how it was recognised.

    Attributes:
        task_id: None where the request belongs to no task.
        how: `fingerprint`, `template`, `layout`, `text` or `turn` (the layout or the words of the input, or the stage of the
            conversation decided between tasks of one prompt), `owner` (by an owner's correction), or `none`.
        novelty: with a task: the request fits, but is new in this respect; whether a specialist may still be asked is
            the router's decision (`agents/routing/router.py`). Without one: what is new.
        reason: the same in plain words.
    """

    task_id: TaskId | None
    how: str
    novelty: Novelty | None = None
    reason: str = ""


class Matchable(Protocol):
    """A task, or a route that knows its task."""

    @property
    def name(self) -> str: ...

    @property
    def match(self) -> Mapping[str, Any]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class _Face:
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
class _Known:
    """One task's match data, ready to be searched."""

    id: TaskId
    name: str
    tools: bool
    format: str
    faces: tuple[_Face, ...]
    structures: frozenset[str]
    languages: frozenset[str]
    tool_set: frozenset[str]
    open_prompts: bool
    open_tools: bool
    weights: Mapping[str, float]
    bias: float
    turn: Rule


@dataclass(slots=True)
class _Corrections:
    merged: dict[TaskId, TaskId] = field(default_factory=dict)
    #: by the task that calls are split off
    split: dict[TaskId, list[tuple[TaskId, frozenset[str], tuple[str, ...]]]] = field(
        default_factory=lambda: defaultdict(list)
    )


class Matcher:
    """Recognises tasks. Immutable but for a memo of masked prompts; safe to share within one thread or event loop.

    Args:
        tasks: (id, task or route) pairs; those without match data match nothing.
        corrected: apply the owner's merges and splits; without them the task as found is returned.
    """

    def __init__(self, tasks: Sequence[tuple[TaskId, Matchable]], *, corrected: bool = True) -> None:
        self._prompt_of = PromptMemo()
        self._by_fingerprint: dict[str, list[_Known]] = defaultdict(list)
        self._by_template: list[tuple[Template, list[_Known]]] = []
        self._corrections = _Corrections()
        self._stages = False
        templates: dict[Template, list[_Known]] = defaultdict(list)
        for task_id, task in tasks:
            data = task.match
            if corrected:
                self._correct(task_id, data)
            if data.get("v") != MATCH_VERSION or data.get("retired"):
                continue
            known = _known(task_id, task)
            self._stages = self._stages or bool(known.turn)
            for fingerprint in data["fingerprints"]:
                self._by_fingerprint[fingerprint].append(known)
            for template in data["templates"]:
                templates[Template.from_dict(template)].append(known)
        self._by_template = sorted(templates.items(), key=lambda item: (-item[0].size, item[0].runs))

    def _correct(self, task_id: TaskId, data: Mapping[str, Any]) -> None:
        if data.get("merged_into"):
            self._corrections.merged[task_id] = TaskId(data["merged_into"])
        if rule := data.get("split"):
            off = (task_id, frozenset(rule.get("fingerprints", ())), tuple(rule.get("contains", ())))
            for source in (rule["of"], *rule.get("also", ())):
                self._corrections.split[TaskId(source)].append(off)

    def match(self, request: ChatRequest) -> Match:
        """The request's task. p50 about 0.02 ms for a prompt that the log had."""
        return self.match_features(features_of(request, self._prompt_of, stage=self._stages))

    def match_features(self, features: Features) -> Match:
        """As `match`, for features read before."""
        candidates = self._by_fingerprint.get(features.fingerprint)
        how, novelty, reason = "fingerprint", None, ""
        if not candidates:
            candidates = self._fitting(features)
            if not candidates:
                return self._unknown(features)
            how, novelty = "template", Novelty.PROMPT
            reason = "its system prompt fits the task's template, but is new"
        fitting = self._of_face(candidates, features)
        if not fitting:
            return Match(
                task_id=None, how="none", novelty=Novelty.INPUT, reason=_new_input(candidates, features)
            )
        if len(fitting) > 1:
            likely = _by_words(fitting, features)
            if likely is None:
                reason = f"none of its words tells whether it is a call of {_names(fitting)}"
                return Match(task_id=None, how="none", novelty=Novelty.INPUT, reason=reason)
            how, fitting = "text", [likely]
        elif len(candidates) > 1:
            how = "turn" if fitting[0].turn else "layout"
        known = fitting[0]
        spoken = language(features)
        if spoken != UNDECIDED and spoken not in known.languages:
            return Match(
                task_id=None,
                how="none",
                novelty=Novelty.LANGUAGE,
                reason=f"its input is in another language ({spoken}) than any call of {known.name}",
            )
        if novelty is None or known.open_prompts:
            novelty, reason = None, ""
            new_tools = [name for name in features.tools if name not in known.tool_set]
            if new_tools and not known.open_tools:
                novelty = Novelty.TOOLS
                reason = f"no call of {known.name} offered the tool {new_tools[0]}"
        task_id, corrected = self._corrected(known.id, features)
        return Match(task_id=task_id, how="owner" if corrected else how, novelty=novelty, reason=reason)

    def _fitting(self, features: Features) -> list[_Known]:
        """Tasks of the longest template that the prompt fits."""
        text = features.prompt.text
        for template, tasks in self._by_template:
            if template.fits(text):
                same = [t for t in tasks if t.tools == features.has_tools and t.format == features.format]
                if same:
                    return same
        return []

    def _unknown(self, features: Features) -> Match:
        """Why no task's prompt fits."""
        text = features.prompt.text
        near = next((tasks[0] for template, tasks in self._by_template if template.fits(text)), None)
        if near is None:
            what = "its system prompt fits" if text.strip() else "it has no system prompt, and so fits"
            return Match(
                task_id=None, how="none", novelty=Novelty.SYSTEM_PROMPT, reason=f"{what} no known task"
            )
        if near.tools != features.has_tools:
            offered = "offers tools" if features.has_tools else "offers no tools"
            return Match(
                task_id=None,
                how="none",
                novelty=Novelty.TOOLS,
                reason=f"it has the prompt of {near.name} but {offered}",
            )
        return Match(
            task_id=None,
            how="none",
            novelty=Novelty.FORMAT,
            reason=f"it has the prompt of {near.name} but asks for another response_format",
        )

    def _of_face(self, candidates: list[_Known], features: Features) -> list[_Known]:
        """Candidates whose calls have looked like this one; those with a frequent instruction around the input come first."""
        structure = str(features.structure)
        staged = [known for known in candidates if known.turn]
        if staged:
            kind = kind_of([known.turn for known in staged], features.marks)
            return [] if kind is None else [staged[kind]]
        if len(candidates) == 1 and not candidates[0].faces:
            return candidates if structure in candidates[0].structures or features.has_tools else []
        instructions = instructions_in(features)
        instructed: list[_Known] = []
        of_record: list[_Known] = []
        plain: list[_Known] = []
        for known in candidates:
            for face in known.faces:
                if face.fits(features, instructions):
                    (instructed if face.instruction else of_record if face.record else plain).append(known)
                    break
        fitting = instructed or of_record or plain
        return [known for known in fitting if structure in known.structures]

    def _corrected(self, task_id: TaskId, features: Features) -> tuple[TaskId, bool]:
        """Follow the owner's merges and splits. Each is followed at most once, so that a circle ends."""
        passed: set[TaskId] = set()
        while task_id not in passed:
            passed.add(task_id)
            for child, fingerprints, contains in self._corrections.split.get(task_id, ()):
                if features.fingerprint in fingerprints or _contains(features, contains):
                    task_id = child
                    break
            else:
                task_id = self._corrections.merged.get(task_id, task_id)
        return task_id, len(passed) > 1


def _contains(features: Features, needles: tuple[str, ...]) -> bool:
    if not needles:
        return False
    text = f"{features.prompt.masked}\n{features.input}".lower()
    return any(needle.lower() in text for needle in needles)


def _known(task_id: TaskId, task: Matchable) -> _Known:
    data = task.match
    return _Known(
        id=task_id,
        name=task.name,
        tools=bool(data["tools"]),
        format=str(data["format"]),
        faces=tuple(
            _Face(
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
    )


def _by_words(tasks: list[_Known], features: Features) -> _Known | None:
    """The task whose weights speak most for the request's words; None where no task has a weight for any of them."""
    evidence = evidence_of(features)
    weights = [known.weights for known in tasks]
    if not any(token in some for token in evidence if token[0] != "\x01" for some in weights):
        return None
    scores = [k.bias + sum(k.weights.get(token, 0.0) for token in evidence) for k in tasks]
    return tasks[scores.index(max(scores))]


def _names(tasks: Sequence[_Known]) -> str:
    return " or ".join(known.name for known in tasks[:3])


def _new_input(candidates: list[_Known], features: Features) -> str:
    names = _names(candidates)
    shape = str(features.structure).replace("_", " ")
    if features.keys and any(str(features.structure) in known.structures for known in candidates):
        return f"its input is a record with keys that no call of {names} had ({', '.join(features.keys[:3])})"
    return f"its input ({shape}) is laid out as in no call of {names}"
