"""The history of versions as people and programs ask for it: by name, since when."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from shoal.agents.registry.records import Task, TaskId
from shoal.errors import NotFound


class EventRegistry(Protocol):
    def tasks(self) -> list[Task]: ...

    def task(self, name_or_id: str) -> Task: ...

    def events(
        self, *, task_id: TaskId | None = None, since: float | None = None
    ) -> Sequence[dict[str, Any]]: ...


def version_events(
    registry: EventRegistry, specialist: str | None = None, since: float | None = None
) -> list[dict[str, Any]]:
    """What happened, oldest first, also to versions that are gone.

    Args:
        specialist: `TASK`, or `TASK@N` for one version; a name or an id, `specialist/` before it or not. All where None.
        since: seconds since the epoch.

    Returns:
        as `versions.history` of the registry, each with `specialist`: `<task>@<number>` by name.

    Raises:
        NotFound: no such task or version.
    """
    task_id, number = None, ""
    if specialist is not None:
        name, _, number = specialist.removeprefix("specialist/").partition("@")
        task_id = registry.task(name).id
    names = {task.id: task.name for task in registry.tasks()}
    found = []
    for event in registry.events(task_id=task_id, since=since):
        of_task, _, count = str(event["version"]).rpartition("@")
        if number in ("", count):
            found.append({"specialist": f"{names.get(TaskId(of_task), of_task)}@{count}", **event})
    if specialist is not None and number and not found and since is None:
        raise NotFound(
            f"There is no specialist {specialist!r}.", remedy="shoal specialists ls names those there are."
        )
    return found
