"""Which of the tasks found are known ones: ids, names and the owner's corrections outlive relearning. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from shoal.agents.registry.records import Task, TaskId
from shoal.agents.tasks.calls import Call
from shoal.agents.tasks.drafts import Draft
from shoal.agents.tasks.matcher import Matcher
from shoal.agents.tasks.naming import unique
from shoal.agents.traces.trace import TraceId


def recognised(
    tasks: Sequence[Task], drafts: Sequence[Draft], calls: Sequence[Call], known: Sequence[Task]
) -> list[Task]:
    """Found tasks under the identity of those known, by the calls that they share; then what is known and was not found.

    Args:
        tasks, drafts: what was found, the same number of each.
        calls: all calls, or a sample of them.
    """
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
    descent: dict[TaskId, list[TaskId]] = {}
    for n, task in enumerate(tasks):
        if n in identity:
            found.append(_kept(by_id[identity[n]], task))
            continue
        name, task_id = unique(task.name, taken_names), TaskId(unique(task.id, taken_ids))
        taken_names.add(name)
        taken_ids.add(task_id)
        task = replace(task, name=name, id=task_id)
        parent = _parent(shared[n], len(drafts[n].calls))
        if parent is not None:
            descent.setdefault(parent, []).append(task_id)
            task = _inherited(by_id[parent], task)
        found.append(task)
    heirs = {task_id: found[n].id for _, n, task_id in reversed(pairs)}
    gone = {old: heir for old, heir in heirs.items() if old not in identity.values()}
    every = found + _left_over(known, set(identity.values()), gone, found)
    return [_redirected(task, gone, descent) for task in every]


def _parent(shared: Counter[TaskId], calls: int) -> TaskId | None:
    """The known task that had most of the calls of a new one."""
    if not shared:
        return None
    task_id, count = min(shared.items(), key=lambda item: (-item[1], item[0]))
    return task_id if 2 * count > calls else None


def _inherited(parent: Task, new: Task) -> Task:
    """A new task of calls that a known one had: what the owner said of those calls holds on."""
    into = parent.match.get("merged_into")
    match = {**new.match, "merged_into": into} if into else new.match
    return replace(new, match=match, excluded=parent.excluded)


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
        if "v" in task.match and task.id in heirs:
            reason = f"its calls belong to {names[heirs[task.id]]} now"
            task = replace(task, reason=reason, match={**task.match, "retired": True})
        left.append(replace(task, calls=0))
    return left


def _redirected(
    task: Task, heirs: Mapping[TaskId, TaskId], descent: Mapping[TaskId, Sequence[TaskId]]
) -> Task:
    """The owner's merges and splits, pointed at who has the calls now.

    Args:
        heirs: of tasks that are gone, who has most of their calls.
        descent: of known tasks, the new ones that were made of their calls.
    """
    data = dict(task.match)
    into = data.get("merged_into")
    if into is not None and into in heirs:
        data["merged_into"] = heirs[into]
        if heirs[into] == task.id:
            del data["merged_into"]
    if rule := data.get("split"):
        sources = [rule["of"], *rule.get("also", ())]
        now = [heirs.get(source, source) for source in sources]
        now += [new for source in sources for new in descent.get(source, ())]
        of, *also = dict.fromkeys(source for source in now if source != task.id)
        data["split"] = {**rule, "of": of, **({"also": also} if also else {})}
    return task if data == task.match else replace(task, match=data)
