"""The owner's word on a version: promote, pause, roll back. Changes states in the registry; decides nothing by figures."""

from __future__ import annotations

from shoal.agents.ports import Registry
from shoal.agents.registry.records import Task, Version, VersionState
from shoal.errors import Conflict


def promote_version(registry: Registry, version: Version, *, reason: str = "promoted by the owner") -> None:
    """Let a version serve; what served the task before retires.

    Raises:
        Conflict: its gate rejected the version.
    """
    if version.state is VersionState.REJECTED:
        raise Conflict(
            f"{version.key} cannot be promoted: {version.reason}.",
            remedy="Learn again when there are more calls, or relax the contract in shoal.yaml.",
        )
    # first the new one: between the two changes both serve, and a snapshot takes the newer; never nobody
    registry.set_state(version.key, VersionState.SERVING, reason=reason)
    for other in registry.versions(version.task_id):
        if other.key != version.key and other.state in (VersionState.SERVING, VersionState.CANARY):
            registry.set_state(other.key, VersionState.RETIRED, reason=f"replaced by {version.key}")


def pause_version(registry: Registry, version: Version, *, reason: str = "paused by the owner") -> None:
    """Stop asking a version. Raises Conflict where it is not asked now."""
    if version.state not in (VersionState.SERVING, VersionState.CANARY, VersionState.SHADOW):
        raise Conflict(
            f"{version.key} is {version.state}, so there is nothing to pause.", remedy="shoal specialists ls"
        )
    registry.set_state(version.key, VersionState.PAUSED, reason=reason)


def rollback_task(
    registry: Registry, task: Task, *, reason: str = "rolled back by the owner"
) -> Version | None:
    """Take back the newest version that answers calls: a canary, else the serving one, whose predecessor serves again.

    Returns:
        the version that serves now, or None where the generalist answers.

    Raises:
        Conflict: no version of the task answers calls now.
    """
    versions = registry.versions(task.id)
    serving = [v for v in versions if v.state is VersionState.SERVING]
    canaries = [v for v in versions if v.state is VersionState.CANARY]
    if not serving and not canaries:
        raise Conflict(f"No version of {task.name} answers calls.", remedy="shoal specialists ls")
    if canaries:
        for version in canaries:
            registry.set_state(version.key, VersionState.PAUSED, reason=reason)
        return serving[-1] if serving else None
    earlier = [v for v in versions if v.state is VersionState.RETIRED and v.number < serving[-1].number]
    if earlier:
        registry.set_state(earlier[-1].key, VersionState.SERVING, reason=f"{reason}: last good version")
    for version in serving:
        registry.set_state(version.key, VersionState.PAUSED, reason=reason)
    return earlier[-1] if earlier else None
