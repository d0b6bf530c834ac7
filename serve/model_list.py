"""What a client may name as `model`, as OpenAI lists models. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from shoal.agents.registry.records import VersionState
from shoal.agents.routing.snapshot import Snapshot
from shoal.errors import NotFound
from shoal.serve.agent_calls import PREFIX

_LIVE = (VersionState.SERVING, VersionState.CANARY)


def model_objects(
    generalist: str | None, snapshot: Snapshot | None, plans: Iterable[str]
) -> list[dict[str, Any]]:
    """OpenAI's model objects.

    Args:
        generalist: its model's name; None where there is none.
        snapshot: what the router decides on; None before there is one.
        plans: names of plans that can be run.
    """
    found = [("auto", "shoal")]
    if generalist is not None:
        found += [("generalist", "shoal"), (generalist, "generalist")]
    if snapshot is not None:
        found += [
            (f"specialist/{route.name}", "shoal")
            for route in snapshot.routes
            if any(performer.state in _LIVE for performer in route.performers)
        ]
    found += [(f"{PREFIX}{name}", "shoal") for name in plans]
    return [
        {"id": name, "object": "model", "created": 0, "owned_by": owner}
        for name, owner in dict(found).items()
    ]


def named(name: str, models: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The model of a name. Raises NotFound."""
    for model in models:
        if model["id"] == name:
            return model
    raise NotFound(f"There is no model {name!r} here.", remedy="GET /v1/models lists them.", param="model")
