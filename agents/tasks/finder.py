"""Finds the tasks in unlabelled traces: which calls are the same job.

Calls are grouped by fingerprint (masked system prompt, tools or none, asked-for format); fingerprints of one template are
merged (`families.py`); a prompt that hides several jobs is split (`split.py`). What comes out is match data, and every
call's task is then what the matcher says from its request alone: serving and learning see the same tasks. The owner's
corrections are carried over. Deterministic; knows nothing of models, storage or Ray.

What the tasks are is decided on a bounded sample (`sample.py`); then the log is read once more and each call assigned, so
that memory grows by its id and its task alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from shoal.agents.ports import Embedder
from shoal.agents.registry.records import Task, TaskId
from shoal.agents.tasks.about import Tally
from shoal.agents.tasks.calls import Call, outputs_of, read_call, recurring_labels, settle
from shoal.agents.tasks.drafts import Draft, as_tasks
from shoal.agents.tasks.families import Family, Variant, find_families
from shoal.agents.tasks.features import PromptMemo
from shoal.agents.tasks.identity import recognised
from shoal.agents.tasks.match_data import with_likeness
from shoal.agents.tasks.matcher import Match, Matcher
from shoal.agents.tasks.sample import MAX_SAMPLE, Sample
from shoal.agents.tasks.split import MIN_PART, split_calls, without_answers
from shoal.agents.tasks.turns import Rule
from shoal.agents.traces.trace import Trace, TraceId

#: fewer calls than this are no task
MIN_CALLS = MIN_PART
#: distinct prompts that may found families; rarer ones can only join
_MAX_VARIANTS = 3000


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


def find_tasks(
    traces: Iterable[Trace],
    *,
    known: Sequence[Task],
    seed: int,
    now: float,
    use_answers: bool = True,
    max_sample: int = MAX_SAMPLE,
    embedder: Embedder | None = None,
) -> Found:
    """Find tasks; keep id, name and creation time of those that are `known`.

    Args:
        traces: in any order that is the same from run to run. What can be iterated again (a list, or an object whose
            `__iter__` scans the store) is read twice where it has more than `max_sample` calls, and then never held in
            memory; an iterator is held.
        known: the registry's tasks, with the owner's corrections in `Task.match`.
        seed: of the samples that splits are decided on.
        now: seconds since the epoch, for tasks that are new.
        use_answers: False to group by the requests alone; answers then only tell a task's kind of output. Where all
            answers of a prompt are missing or the same, it is so anyhow.
        max_sample: calls on which it is decided what the tasks are.
        embedder: tells which texts under one prompt are near each other; their words do where None.
    """
    if isinstance(traces, Iterator):
        traces = list(traces)
    memo = PromptMemo()
    sample = Sample(seed, max_sample)
    for trace in traces:
        sample.add(read_call(trace, memo))
    calls = sample.calls()
    labels = recurring_labels(calls)
    for call in calls:
        settle(call, labels)
    drafts, small = _drafts(
        calls if use_answers else without_answers(calls), known, seed, use_answers, embedder
    )
    tasks = with_likeness(recognised(as_tasks(drafts, now), drafts, calls, known), calls)
    if len(calls) == sample.seen:
        return _assigned(tasks, calls, small)
    return _assigned(tasks, _read_again(traces, memo, labels), small)


def _read_again(traces: Iterable[Trace], memo: PromptMemo, labels: frozenset[str]) -> Iterator[Call]:
    for trace in traces:
        call = read_call(trace, memo)
        settle(call, labels)
        yield call


# --- jobs


def _drafts(
    calls: Sequence[Call],
    known: Sequence[Task],
    seed: int,
    use_answers: bool,
    embedder: Embedder | None,
) -> tuple[list[Draft], dict[str, int]]:
    """Jobs, largest family first; and the fingerprints of groups that are too small, with their sizes."""
    by_kind: dict[tuple[bool, str], dict[str, list[Call]]] = defaultdict(lambda: defaultdict(list))
    for call in calls:
        by_kind[call.features.has_tools, call.features.format][call.features.fingerprint].append(call)
    drafts: list[Draft] = []
    small: dict[str, int] = {}
    for groups in by_kind.values():
        for family, inside in _families(groups):
            fingerprints = {c.features.fingerprint for c in inside}
            if len(inside) < MIN_CALLS:
                small.update(dict.fromkeys(fingerprints, len(inside)))
                continue
            turns = _known_turns(known, fingerprints)
            found = split_calls(
                inside, seed=seed, use_answers=use_answers, known_turns=turns, embedder=embedder
            )
            parts = [part for part in found if len(part.calls) >= MIN_CALLS]
            drafts.extend(Draft(template=family.template, part=part, siblings=len(parts)) for part in parts)
    drafts.sort(key=lambda draft: (-len(draft.calls), draft.calls[0].id))
    return drafts, small


def _known_turns(known: Sequence[Task], fingerprints: set[str]) -> list[Rule]:
    """The kinds of turn that these prompts were split into before."""
    return sorted(
        tuple((str(mark), bool(wanted)) for mark, wanted in task.match["turn"])
        for task in known
        if task.match.get("turn")
        and not task.match.get("retired")
        and not fingerprints.isdisjoint(task.match["fingerprints"])
    )


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


# --- every call's task


def _assigned(tasks: Sequence[Task], calls: Iterable[Call], small: Mapping[str, int]) -> Found:
    matcher = Matcher([(task.id, task) for task in tasks])
    assignment: dict[TraceId, TaskId | None] = {}
    reasons: dict[TraceId, str] = {}
    tallies: dict[TaskId, Tally] = defaultdict(Tally)
    tokens_in = tokens_out = 0
    said: dict[str, str] = {}
    for call in calls:
        match = matcher.match_features(call.features)
        assignment[call.id] = match.task_id
        tokens_in += call.tokens_in
        tokens_out += call.tokens_out
        if match.task_id is None:
            why = _why_unclustered(call, match, small)
            reasons[call.id] = said.setdefault(why, why)
        else:
            tallies[match.task_id].add(call)
    return Found(
        tasks=[_counted(t, tallies.get(t.id), len(assignment), tokens_in, tokens_out) for t in tasks],
        assignment=assignment,
        reasons=reasons,
    )


def _why_unclustered(call: Call, match: Match, small: Mapping[str, int]) -> str:
    size = small.get(call.features.fingerprint)
    if size is not None:
        return f"only {size} calls like it; a task needs {MIN_CALLS}"
    return match.reason


def _counted(task: Task, tally: Tally | None, calls: int, tokens_in: int, tokens_out: int) -> Task:
    """The task with what its calls say after the owner's corrections."""
    if tally is None:
        return replace(task, calls=0)
    data = {**task.match, "asks": tally.asks(), "about": tally.about(calls, tokens_in, tokens_out)}
    return replace(task, calls=tally.calls, output_kind=tally.kind(), match=data)
