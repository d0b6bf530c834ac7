"""Which application holds a version: the shared host, or one of its own. Pure but for the size of a folder.

The rule depends on the version and the configuration alone, so that the deployer and a gateway that starts while the router actor is
down come to the same answer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path

from shoal.agents.registry.records import Version
from shoal.cluster.needs import Needs, parse_needs
from shoal.config import PlacementConfig

#: the application that small versions share
HOST_APPLICATION = "shoal-host"
GATEWAY_APPLICATION = "shoal-gateway"
#: every application of a site starts with this
PREFIX = "shoal-"
#: the one deployment of each specialist application
DEPLOYMENT = "specialists"

#: MiB that a replica holds before it has loaded anything: Python, Ray, and torch where an engine wants it
BASE_MEMORY_MB = 400.0


def folder_mb(folder: Path) -> float:
    """MiB of the files below a folder; 0 where it is missing."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / (1 << 20)


def default_needs(placement: PlacementConfig) -> Needs:
    return Needs(
        cpus=placement.cpus_per_replica,
        gpus=placement.gpus_per_replica,
        memory_mb=BASE_MEMORY_MB,
        tier=placement.tier,
    )


def needs_of(version: Version, placement: PlacementConfig, size_mb: float) -> Needs:
    """What a replica of its own would ask for. Raises ConfigError where the version's card is wrong."""
    default = default_needs(placement)
    own = parse_needs(version.needs, default)
    if "memory_mb" in version.needs:
        return own
    return Needs(cpus=own.cpus, gpus=own.gpus, memory_mb=BASE_MEMORY_MB + 2 * size_mb, tier=own.tier)


def application_of(version: Version, placement: PlacementConfig, size_mb: float) -> str:
    """The name of the application that holds the version.

    Small versions share the host unless they need another tier, or more of a GPU, than it has.
    """
    own, shared = parse_needs(version.needs, default_needs(placement)), default_needs(placement)
    if size_mb < placement.host_below_mb and own.gpus <= shared.gpus and own.tier in ("", shared.tier):
        return HOST_APPLICATION
    slug = re.sub(r"[^a-z0-9]+", "-", str(version.task_id).lower()).strip("-")[:80]
    return f"{PREFIX}v-{slug}-{version.number}"


def place(
    versions: Iterable[Version],
    placement: PlacementConfig,
    models: Path,
    *,
    size: Callable[[Path], float] = folder_mb,
) -> dict[str, str]:
    """Version key -> application."""
    return {v.key: application_of(v, placement, size(models / v.folder)) for v in versions}
