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
    wording       n-gram -> share of the task's calls that have it; `likeness` how alike its own calls are to it; see `likeness.py`
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

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from shoal.agents.registry.records import TaskId
from shoal.agents.tasks.features import (
    Features,
    PromptMemo,
    evidence_of,
    features_of,
    instructions_in,
    language,
)
from shoal.agents.tasks.known import Known, Matchable, read_known
from shoal.agents.tasks.language import UNDECIDED
from shoal.agents.tasks.likeness import TextIndex, likeness
from shoal.agents.tasks.template import Template
from shoal.agents.tasks.template_index import TemplateIndex
from shoal.agents.tasks.turns import kind_of
from shoal.agents.traces.chat import ChatRequest

MATCH_VERSION = 1
#: by its wording a request is a task's only if so many of the task's own calls are no more typical,
_LEAST_LIKENESS = 0.05
#: and if it is so surely this task's and no other's
_LEAST_SURE = 0.75


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
            conversation decided between tasks of one prompt), `owner` (by an owner's correction), or `none`. Where no task
            had such a prompt: `inside` (a task's prompt stands in it, among other text) or `wording` (its input is worded
            like a task's).
        confidence: in [0, 1], that it is this task and no other: 1 where prompt, layout or stage decide, what the words say
            where they do; 0 without a task.
        novelty: with a task: the request fits, but is new in this respect; whether a specialist may still be asked is
            the router's decision (`agents/routing/router.py`). Without one: what is new.
        reason: the same in plain words.
    """

    task_id: TaskId | None
    how: str
    novelty: Novelty | None = None
    reason: str = ""
    confidence: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Near:
    """A task that a request's words are like.

    Attributes:
        likeness: the share of the task's own calls that are no more alike to it than the request, in [0, 1].
    """

    task_id: TaskId
    name: str
    likeness: float


@dataclass(frozen=True, slots=True)
class _Candidates:
    """Tasks that a request may be of, by what was recognised of it."""

    tasks: list[Known]
    how: str
    confidence: float = 1.0
    novelty: Novelty | None = None
    reason: str = ""


@dataclass(slots=True)
class _Corrections:
    merged: dict[TaskId, TaskId] = field(default_factory=dict)
    #: by the task that calls are split off
    split: dict[TaskId, list[tuple[TaskId, frozenset[str], tuple[str, ...]]]] = field(
        default_factory=lambda: defaultdict(list)
    )


class Matcher:
    """Recognises tasks. Immutable but for memos; safe to share within one thread or event loop.

    Args:
        tasks: (id, task or route) pairs; those without match data match nothing.
        corrected: apply the owner's merges and splits; without them the task as found is returned.
        by_words: also recognise calls whose prompt no task had, by a task's prompt inside it or by their wording. Learning
            does not: what is like a task's calls need not be one.
    """

    def __init__(
        self, tasks: Sequence[tuple[TaskId, Matchable]], *, corrected: bool = True, by_words: bool = False
    ) -> None:
        self._prompt_of = PromptMemo()
        self._by_fingerprint: dict[str, list[Known]] = defaultdict(list)
        self._corrections = _Corrections()
        self._stages = False
        self._by_words = by_words
        self._worded: list[Known] = []
        templates: dict[Template, list[Known]] = defaultdict(list)
        wordings: list[Mapping[str, float]] = []
        for task_id, task in tasks:
            data = task.match
            if corrected:
                self._correct(task_id, data)
            if data.get("v") != MATCH_VERSION or data.get("retired"):
                continue
            known = read_known(task_id, task)
            self._stages = self._stages or bool(known.turn)
            for fingerprint in data["fingerprints"]:
                self._by_fingerprint[fingerprint].append(known)
            for template in data["templates"]:
                templates[Template.from_dict(template)].append(known)
            if known.likeness:
                self._worded.append(known)
                wordings.append(data["wording"])
        self._templates = TemplateIndex(templates)
        self._text = TextIndex(wordings)

    def _correct(self, task_id: TaskId, data: Mapping[str, Any]) -> None:
        if data.get("merged_into"):
            self._corrections.merged[task_id] = TaskId(data["merged_into"])
        if rule := data.get("split"):
            off = (task_id, frozenset(rule.get("fingerprints", ())), tuple(rule.get("contains", ())))
            for source in (rule["of"], *rule.get("also", ())):
                self._corrections.split[TaskId(source)].append(off)

    def features(self, request: ChatRequest) -> Features:
        """What `match_features` and `nearest` read."""
        return features_of(request, self._prompt_of, stage=self._stages)

    def match(self, request: ChatRequest) -> Match:
        """The request's task. p50 about 0.02 ms for a prompt that the log had."""
        return self.match_features(self.features(request))

    def match_features(self, features: Features) -> Match:
        """As `match`, for features read before."""
        candidates = self._candidates(features)
        if candidates is None:
            return self._unknown(features)
        how, confidence = candidates.how, candidates.confidence
        novelty, reason = candidates.novelty, candidates.reason
        fitting = self._of_face(candidates.tasks, features)
        if not fitting:
            reason = _new_input(candidates.tasks, features)
            return Match(task_id=None, how="none", novelty=Novelty.INPUT, reason=reason)
        told = how in ("fingerprint", "template")
        if len(fitting) > 1:
            likely, sure = _by_words(fitting, features)
            if likely is None:
                reason = f"none of its words tells whether it is a call of {_names(fitting)}"
                return Match(task_id=None, how="none", novelty=Novelty.INPUT, reason=reason)
            how, confidence, fitting = "text" if told else how, confidence * sure, [likely]
        elif len(candidates.tasks) > 1 and told:
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
        if novelty is None or (novelty is Novelty.PROMPT and known.open_prompts):
            novelty, reason = None, ""
            new_tools = [name for name in features.tools if name not in known.tool_set]
            if new_tools and not known.open_tools:
                novelty = Novelty.TOOLS
                reason = f"no call of {known.name} offered the tool {new_tools[0]}"
        task_id, corrected = self._corrected(known.id, features)
        how = "owner" if corrected and told else how
        return Match(task_id=task_id, how=how, novelty=novelty, reason=reason, confidence=confidence)

    def nearest(self, features: Features, *, most: int = 3) -> list[Near]:
        """Tasks that the request's words are like, the most alike first, whatever its prompt; those that are not at all left out."""
        near = [
            Near(task_id=known.id, name=known.name, likeness=round(like, 3))
            for like, known in self._alike(features)[:most]
        ]
        return [task for task in near if task.likeness > 0]

    def _candidates(self, features: Features) -> _Candidates | None:
        """By fingerprint, else by template, else by words where those count; None where none fits."""
        same = self._by_fingerprint.get(features.fingerprint)
        if same:
            return _Candidates(same, "fingerprint")
        for tasks in self._templates.fitting(features.prompt.text):
            if same := [known for known in tasks if known.is_of_kind(features)]:
                why = "its system prompt fits the task's template, but is new"
                return _Candidates(same, "template", novelty=Novelty.PROMPT, reason=why)
        if not self._by_words:
            return None
        for tasks in self._templates.inside(features.prompt.text):
            if same := [known for known in tasks if known.is_of_kind(features)]:
                why = f"the prompt of {_names(same)} stands in its system prompt, among text that no call had"
                return _Candidates(same, "inside", novelty=Novelty.SYSTEM_PROMPT, reason=why)
        return self._by_wording(features)

    def _by_wording(self, features: Features) -> _Candidates | None:
        """The tasks of the template whose calls are worded like the request; None where no calls are, or those of several."""
        alike = [(like, known) for like, known in self._alike(features) if known.is_of_kind(features)]
        if not alike or alike[0][0] < _LEAST_LIKENESS:
            return None
        like, first = alike[0]
        family = [known for _, known in alike if known.family == first.family]
        other = next((other for other, known in alike if known.family != first.family), 0.0)
        confidence = like / (like + other)
        if confidence < _LEAST_SURE:
            return None
        prompt = "its system prompt is new" if features.prompt.text.strip() else "it has no system prompt"
        why = f"{prompt}; its input is worded like calls of {first.name}: {like:.0%} of those are no more typical"
        return _Candidates(family, "wording", confidence, Novelty.SYSTEM_PROMPT, why)

    def _alike(self, features: Features) -> list[tuple[float, Known]]:
        """Each task with the request's likeness to it, the most alike first."""
        cosines = self._text.cosines(evidence_of(features)).tolist()
        found = [
            (likeness(cosine, known.likeness), cosine, known)
            for cosine, known in zip(cosines, self._worded, strict=True)
            if cosine > known.likeness[0]
        ]
        found.sort(key=lambda item: (-item[0], -item[1], item[2].id))
        return [(like, known) for like, _, known in found]

    def _unknown(self, features: Features) -> Match:
        """Why no task's prompt fits."""
        text = features.prompt.text
        near = next((tasks[0] for tasks in self._templates.fitting(text)), None)
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

    def _of_face(self, candidates: list[Known], features: Features) -> list[Known]:
        """Candidates whose calls have looked like this one; those with a frequent instruction around the input come first."""
        structure = str(features.structure)
        staged = [known for known in candidates if known.turn]
        if staged:
            kind = kind_of([known.turn for known in staged], features.marks)
            return [] if kind is None else [staged[kind]]
        if len(candidates) == 1 and not candidates[0].faces:
            return candidates if structure in candidates[0].structures or features.has_tools else []
        instructions = instructions_in(features)
        instructed: list[Known] = []
        of_record: list[Known] = []
        plain: list[Known] = []
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


def _by_words(tasks: list[Known], features: Features) -> tuple[Known | None, float]:
    """The task whose weights speak most for the request's words, and how surely (the weights are a logistic regression's).

    None where no task has a weight for any of them.
    """
    evidence = evidence_of(features)
    weights = [known.weights for known in tasks]
    if not any(token in some for token in evidence if token[0] != "\x01" for some in weights):
        return None, 0.0
    scores = [k.bias + sum(k.weights.get(token, 0.0) for token in evidence) for k in tasks]
    best = max(scores)
    return tasks[scores.index(best)], 1 / sum(math.exp(score - best) for score in scores)


def _names(tasks: Sequence[Known]) -> str:
    return " or ".join(known.name for known in tasks[:3])


def _new_input(candidates: list[Known], features: Features) -> str:
    names = _names(candidates)
    shape = str(features.structure).replace("_", " ")
    if features.keys and any(str(features.structure) in known.structures for known in candidates):
        return f"its input is a record with keys that no call of {names} had ({', '.join(features.keys[:3])})"
    return f"its input ({shape}) is laid out as in no call of {names}"
