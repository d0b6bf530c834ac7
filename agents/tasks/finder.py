"""Finds the tasks in unlabelled traces: which calls are the same job.

Calls are grouped by fingerprint (masked system prompt, tools or none, asked-for format); fingerprints of one template are
merged (`families.py`); a prompt that hides several jobs is split (`split.py`). What comes out is match data, and every
call's task is then what the matcher says from its request alone: serving and learning see the same tasks. The owner's
corrections are carried over. Deterministic; knows nothing of models, storage or Ray.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from shoal.agents.registry.records import OutputKind, Task, TaskId
from shoal.agents.tasks.calls import Call, outputs_of, read_calls
from shoal.agents.tasks.families import Family, Variant, find_families
from shoal.agents.tasks.features import digest
from shoal.agents.tasks.match_data import asks_of, match_data, output_kind_of
from shoal.agents.tasks.matcher import Match, Matcher
from shoal.agents.tasks.naming import DULL, slug, telling_words, unique
from shoal.agents.tasks.split import MIN_PART, Part, split_calls, without_answers
from shoal.agents.tasks.template import Template, content_words
from shoal.agents.traces.trace import Trace, TraceId

#: fewer calls than this are no task
MIN_CALLS = MIN_PART
#: distinct prompts that may found families; rarer ones can only join
_MAX_VARIANTS = 3000
_MAX_DESCRIPTION = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What was found.

    Attributes:
        tasks: those found and those known before; a known one whose calls belong to others now is retired
            (`match["retired"]`), one without calls in this log stays as it was.
        assignment: every trace's task; None where it is unclustered.
        reasons: for unclustered traces, why.
    """

    tasks: list[Task]
    assignment: dict[TraceId, TaskId | None]
    reasons: dict[TraceId, str]


@dataclass(slots=True)
class _Draft:
    """A job before it has a name: one part of a family of prompts."""

    template: Template
    part: Part
    siblings: int

    @property
    def calls(self) -> list[Call]:
        return self.part.calls


def find_tasks(
    traces: Iterable[Trace], *, known: Sequence[Task], seed: int, now: float, use_answers: bool = True
) -> Found:
    """Find tasks; keep id, name and creation time of those that are `known`.

    Args:
        traces: in any order that is the same from run to run.
        known: the registry's tasks, with the owner's corrections in `Task.match`.
        seed: of the samples that splits are decided on.
        now: seconds since the epoch, for tasks that are new.
        use_answers: False to group by the requests alone; answers then only tell a task's kind of output. Where all
            answers are missing or the same, it is so anyhow.
    """
    calls = read_calls(traces)
    drafts, small = _drafts(calls if use_answers else without_answers(calls), seed)
    tasks = _as_tasks(drafts, now)
    tasks = _recognised(tasks, drafts, calls, known)
    return _assigned(tasks, calls, small)


# --- jobs


def _drafts(calls: Sequence[Call], seed: int) -> tuple[list[_Draft], dict[str, int]]:
    """Jobs, largest family first; and the fingerprints of groups that are too small, with their sizes."""
    by_kind: dict[tuple[bool, str], dict[str, list[Call]]] = defaultdict(lambda: defaultdict(list))
    for call in calls:
        by_kind[call.features.has_tools, call.features.format][call.features.fingerprint].append(call)
    drafts: list[_Draft] = []
    small: dict[str, int] = {}
    for groups in by_kind.values():
        for family, inside in _families(groups):
            if len(inside) < MIN_CALLS:
                small.update(dict.fromkeys({c.features.fingerprint for c in inside}, len(inside)))
                continue
            parts = [p for p in split_calls(inside, seed=seed) if len(p.calls) >= MIN_CALLS]
            drafts.extend(_Draft(template=family.template, part=part, siblings=len(parts)) for part in parts)
    drafts.sort(key=lambda draft: (-len(draft.calls), draft.calls[0].id))
    return drafts, small


def _families(groups: Mapping[str, list[Call]]) -> list[tuple[Family, list[Call]]]:
    """Families of prompts with their calls in log order."""
    ranked = sorted(groups, key=lambda fingerprint: (-len(groups[fingerprint]), fingerprint))
    founders, others = ranked[:_MAX_VARIANTS], ranked[_MAX_VARIANTS:]
    families = find_families(
        [Variant(groups[f][0].features.prompt.text, outputs_of(groups[f])) for f in founders]
    )
    inside = [[call for member in family.members for call in groups[founders[member]]] for family in families]
    wide = [n for n, family in enumerate(families) if len(family.members) > 1]
    for fingerprint in others:
        text = groups[fingerprint][0].features.prompt.text
        fitting = next((n for n in wide if families[n].template.fits(text)), None)
        if fitting is not None:
            inside[fitting].extend(groups[fingerprint])
    return list(zip(families, inside, strict=True))


# --- tasks


def _as_tasks(drafts: Sequence[_Draft], now: float) -> list[Task]:
    words_of = [set(word.lower() for word in content_words(draft.template.tokens)) for draft in drafts]
    elsewhere = Counter(word for words in words_of for word in words)
    tasks: list[Task] = []
    taken: set[str] = set()
    ids: set[str] = set()
    for draft, words in zip(drafts, words_of, strict=True):
        data = match_data(draft.part, draft.template)
        kind = output_kind_of(draft.calls)
        others = elsewhere.copy()
        others.subtract(words)
        name = unique(_name(draft, others, kind), taken)
        shape = outputs_of(draft.calls).shapes.most_common(1)[0][0]
        parts = (*draft.template.runs, repr(data["faces"]), shape, data["format"], str(data["tools"]))
        key = unique(digest(*parts)[:10], ids)
        taken.add(name)
        ids.add(key)
        tasks.append(
            Task(
                id=TaskId(f"t{key}"),
                name=name,
                output_kind=kind,
                calls=len(draft.calls),
                description=_description(draft, kind),
                match=data,
                created_at=now,
            )
        )
    return tasks


def _name(draft: _Draft, elsewhere: Counter[str], kind: OutputKind) -> str:
    tokens = draft.template.tokens
    instructions = [f.instruction for f in draft.part.faces if f.instruction is not None]
    if instructions:
        tokens = [*instructions[0].tokens, *tokens]
    if draft.siblings <= 1 or instructions:
        return slug(telling_words(tokens, elsewhere)) or slug(_input_words(draft, kind)) or f"{kind}-task"
    base = telling_words(tokens, Counter(), count=1)
    return slug([*base, *_input_words(draft, kind)]) or f"{kind}-task"


def _input_words(draft: _Draft, kind: OutputKind) -> list[str]:
    """What tells a job from its siblings: keys of its records, its functions, its labels, or words of its inputs."""
    keys = Counter(key for call in draft.calls for key in call.features.keys)
    if sum(bool(c.features.keys) for c in draft.calls) > len(draft.calls) / 2:
        return [key for key, _ in keys.most_common(2)]
    if draft.calls[0].features.has_tools:
        words = Counter(
            w for c in draft.calls for tool in c.features.tools for w in _parts(tool.split("(")[0])
        )
    elif kind is OutputKind.LABEL:
        labels = outputs_of(draft.calls).labels
        words = Counter()
        for label, count in labels.items():
            words.update(dict.fromkeys(_parts(label), count))
    else:
        words = Counter(
            w for c in draft.calls[:1000] for w in set(c.features.input.lower().split()) if w.isalpha()
        )
        if weights := draft.part.weights:
            words = Counter({w: round(n * max(0.0, weights.get(w, 0.0))) for w, n in words.items()})
    return [w for w in content_words([w for w, _ in words.most_common(100)]) if w not in DULL][:3]


def _parts(name: str) -> list[str]:
    """Words of a snake_case or CamelCase name."""
    return [part.lower() for part in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|[^\W\d_A-Za-z]+", name)]


def _description(draft: _Draft, kind: OutputKind) -> str:
    one = len({call.features.fingerprint for call in draft.calls}) == 1
    prompt = draft.calls[0].features.prompt.masked if one else draft.template.shown()
    parts = [" ".join(prompt.split())]
    for face in draft.part.faces:
        if face.instruction is not None:
            parts.append(face.instruction.shown().strip())
    if draft.siblings > 1:
        records = sorted({face.record for face in draft.part.faces if face.record})
        parts.append(f"input: {', '.join(records) or 'text'}; answers: {kind}")
    text = " | ".join(part for part in parts if part)
    return text if len(text) <= _MAX_DESCRIPTION else text[: _MAX_DESCRIPTION - 1] + "…"


# --- what is known already


def _recognised(
    tasks: Sequence[Task], drafts: Sequence[_Draft], calls: Sequence[Call], known: Sequence[Task]
) -> list[Task]:
    """Found tasks under the identity of those known, by the calls that they share; then what is known and was not found."""
    if not known:
        return list(tasks)
    before = Matcher([(task.id, task) for task in known], corrected=False)
    earlier: dict[TraceId, TaskId] = {}
    for call in calls:
        task_id = before.match_features(call.features).task_id
        if task_id is not None:
            earlier[call.id] = task_id
    had = Counter(earlier.values())
    shared = [Counter(earlier[c.id] for c in draft.calls if c.id in earlier) for draft in drafts]
    pairs = sorted(
        ((count, n, task_id) for n, counter in enumerate(shared) for task_id, count in counter.items()),
        key=lambda item: (-item[0], item[1], item[2]),
    )
    identity: dict[int, TaskId] = {}
    for count, n, task_id in pairs:
        if n in identity or task_id in identity.values():
            continue
        if 2 * count >= min(len(drafts[n].calls), had[task_id]):
            identity[n] = task_id
    by_id = {task.id: task for task in known}
    taken_names, taken_ids = {task.name for task in known}, set(by_id)
    found: list[Task] = []
    for n, task in enumerate(tasks):
        if n in identity:
            found.append(_kept(by_id[identity[n]], task))
            continue
        name, task_id = unique(task.name, taken_names), TaskId(unique(task.id, taken_ids))
        taken_names.add(name)
        taken_ids.add(task_id)
        found.append(replace(task, name=name, id=task_id))
    heirs = {task_id: found[n].id for _, n, task_id in reversed(pairs)}
    return found + _left_over(known, set(identity.values()), heirs, found)


def _kept(old: Task, new: Task) -> Task:
    """The known task with what was found now; the owner's word stays."""
    corrections = {key: old.match[key] for key in ("merged_into", "split") if key in old.match}
    return replace(
        old,
        match={**new.match, **corrections},
        calls=new.calls,
        output_kind=new.output_kind,
        description=new.description,
    )


def _left_over(
    known: Sequence[Task], found: set[TaskId], heirs: Mapping[TaskId, TaskId], tasks: Sequence[Task]
) -> list[Task]:
    """Known tasks that were not found: retired where others have their calls, else as they were."""
    names = {task.id: task.name for task in tasks}
    left = []
    for task in known:
        if task.id in found:
            continue
        data = dict(task.match)
        if "v" in data and task.id in heirs:
            data["retired"] = True
            task = replace(task, reason=f"its calls belong to {names[heirs[task.id]]} now")
        if rule := data.get("split"):
            data["split"] = {
                **rule,
                "of": heirs.get(rule["of"], rule["of"]) if rule["of"] not in found else rule["of"],
            }
        left.append(replace(task, match=data, calls=0))
    return left


# --- every call's task


def _assigned(tasks: Sequence[Task], calls: Sequence[Call], small: Mapping[str, int]) -> Found:
    matcher = Matcher([(task.id, task) for task in tasks])
    assignment: dict[TraceId, TaskId | None] = {}
    reasons: dict[TraceId, str] = {}
    inside: dict[TaskId, list[Call]] = defaultdict(list)
    for call in calls:
        match = matcher.match_features(call.features)
        assignment[call.id] = match.task_id
        if match.task_id is None:
            reasons[call.id] = _why_unclustered(call, match, small)
        else:
            inside[match.task_id].append(call)
    return Found(
        tasks=[_counted(task, inside.get(task.id, [])) for task in tasks],
        assignment=assignment,
        reasons=reasons,
    )


def _why_unclustered(call: Call, match: Match, small: Mapping[str, int]) -> str:
    size = small.get(call.features.fingerprint)
    if size is not None:
        return f"only {size} calls like it; a task needs {MIN_CALLS}"
    return match.reason


def _counted(task: Task, calls: Sequence[Call]) -> Task:
    """The task with what its calls say after the owner's corrections."""
    if not calls:
        return replace(task, calls=0)
    data = dict(task.match)
    data["asks"] = asks_of(calls)
    return replace(task, calls=len(calls), output_kind=output_kind_of(calls), match=data)
