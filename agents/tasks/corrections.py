"""The owner's corrections of what was found. Pure functions over tasks; each returns the tasks that it changes.

They are stored in `Task.match`, which `finder.py` carries over when it learns again and `matcher.py` applies to each request.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from shoal.agents.registry.records import Task, TaskId
from shoal.agents.tasks.features import digest
from shoal.agents.tasks.naming import SLUG
from shoal.errors import Conflict, NotFound, UsageError


def find(tasks: Sequence[Task], name_or_id: str) -> Task:
    """Raises NotFound."""
    for task in tasks:
        if name_or_id in (task.id, task.name):
            return task
    raise NotFound(f"There is no task {name_or_id!r}.", remedy="shoal tasks ls names those there are.")


def is_hidden(task: Task) -> bool:
    """Merged into another task, or without calls because others have them now: it is kept, but not shown."""
    return bool(task.match.get("merged_into") or task.match.get("retired"))


def rename(tasks: Sequence[Task], name_or_id: str, new_name: str) -> list[Task]:
    """Give a task another name. Raises NotFound, UsageError (no slug) and Conflict (taken)."""
    task = find(tasks, name_or_id)
    _check_name(tasks, new_name, but=task.id)
    return [replace(task, name=new_name)]


def exclude(tasks: Sequence[Task], name_or_id: str, *, excluded: bool = True) -> list[Task]:
    """Keep a task with the generalist for good, or let it be learnt again. Raises NotFound."""
    return [replace(find(tasks, name_or_id), excluded=excluded)]


def merge(tasks: Sequence[Task], into: str, others: Sequence[str]) -> list[Task]:
    """Count the calls of `others` as those of `into`. Raises NotFound, UsageError."""
    target = find(tasks, into)
    if target.match.get("merged_into"):
        raise Conflict(
            f"{target.name} is itself merged into another task.", remedy="Merge into that one instead."
        )
    changed = []
    for name in others:
        task = find(tasks, name)
        if task.id == target.id:
            raise UsageError(f"A task cannot be merged into itself, got {name!r} twice.", remedy="Name two.")
        changed.append(
            replace(
                task,
                match={**task.match, "merged_into": target.id},
                calls=0,
                reason=f"merged into {target.name} by the owner",
            )
        )
    if not changed:
        raise UsageError("At least two tasks are needed for a merge, got one.", remedy="Name a second task.")
    moved = sum(find(tasks, name).calls for name in others)
    return [replace(target, calls=target.calls + moved), *changed]


def split(
    tasks: Sequence[Task],
    name_or_id: str,
    *,
    name: str,
    contains: Sequence[str] = (),
    fingerprints: Sequence[str] = (),
    now: float,
) -> list[Task]:
    """Split calls off a task: those whose system prompt or input has one of the words, or whose prompt has one of the fingerprints.

    Raises:
        NotFound: no such task, or the task has no such prompt.
        UsageError: no rule is given, or the name is no slug.
        Conflict: the name is taken.
    """
    parent = find(tasks, name_or_id)
    _check_name(tasks, name)
    needles = [needle for needle in contains if needle.strip()]
    if not needles and not fingerprints:
        raise UsageError(
            "A split needs a rule for what is split off.", remedy="Give --contains TEXT or --prompt ID."
        )
    own = set(parent.match.get("fingerprints", ()))
    for fingerprint in fingerprints:
        if fingerprint not in own:
            raise NotFound(
                f"{parent.name} has no prompt {fingerprint!r}.",
                remedy=f"shoal tasks show {parent.name} --json lists its fingerprints.",
            )
    task_id = TaskId("t" + digest(parent.id, name, *needles, *fingerprints)[:10])
    if any(task.id == task_id for task in tasks):
        raise Conflict("The same calls are split off already.", remedy="shoal tasks ls shows the task.")
    rule = {"of": parent.id, "fingerprints": list(fingerprints), "contains": needles}
    what = " or ".join([*(f'with "{needle}"' for needle in needles), *fingerprints])
    child = Task(
        id=task_id,
        name=name,
        output_kind=parent.output_kind,
        calls=0,
        description=f"split off {parent.name}: calls {what}",
        match={"split": rule, "asks": parent.match.get("asks", {})},
        created_at=now,
    )
    return [child]


def _check_name(tasks: Sequence[Task], name: str, *, but: TaskId | None = None) -> None:
    if SLUG.fullmatch(name) is None:
        raise UsageError(
            f"A task's name has at most 40 of a-z, 0-9, - and _ and starts with a letter or digit, got {name!r}.",
            remedy="Write for example invoice-triage.",
        )
    for task in tasks:
        if name in (task.name, task.id) and task.id != but:
            raise Conflict(f"The name {name} is taken.", remedy="Choose another, or rename that task first.")
