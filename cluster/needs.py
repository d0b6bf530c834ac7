"""What a specialist needs to run, and how that is said to Ray. Pure: plain data in, plain data out.

Host memory is a custom resource (`shoal_memory_mb`) that every node of a site declares, so that a specialist's share of it is
visible in Ray's own accounting without making Ray kill anything over it; the tier is a node label.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from shoal.errors import ConfigError
from shoal.nodes.identity import TIER_LABEL, TIERS

#: name of the custom resource that counts MiB of host memory
MEMORY_RESOURCE = "shoal_memory_mb"
#: Ray counts fractions in steps of a ten-thousandth
_RAY_STEP = 1e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What one replica asks for.

    Attributes:
        cpus: CPUs, in parts if need be.
        gpus: GPUs: a fraction of one, or a whole number.
        memory_mb: MiB of host memory.
        tier: `cloud`, `edge` or `local`; empty for any.
    """

    cpus: float = 0.5
    gpus: float = 0.0
    memory_mb: float = 0.0
    tier: str = ""


def parse_needs(raw: Mapping[str, Any], default: Needs) -> Needs:
    """Read a version's `needs`; what it does not say is taken from `default`.

    Raises:
        ConfigError: an amount that is no number or negative, a GPU share above 1 that is not whole, or an unknown tier.
    """
    cpus = _amount(raw, "cpus", default.cpus)
    gpus = _amount(raw, "gpus", default.gpus)
    memory_mb = _amount(raw, "memory_mb", default.memory_mb)
    tier = str(raw.get("tier") or default.tier)
    if gpus > 1 and gpus != int(gpus):
        raise ConfigError(
            f"`needs.gpus` must be a fraction below 1 or a whole number, got {gpus:g}.",
            remedy="Write 0.25 for a quarter of a GPU.",
            param="needs.gpus",
        )
    if tier and tier not in TIERS:
        raise ConfigError(
            f"`needs.tier` must be one of {', '.join(TIERS)}, got {tier!r}.",
            remedy="Leave it empty for any tier.",
            param="needs.tier",
        )
    return Needs(cpus=cpus, gpus=gpus, memory_mb=memory_mb, tier=tier)


def actor_options(needs: Needs, *, declared: Collection[str]) -> dict[str, Any]:
    """Ray's actor options for a replica.

    Args:
        declared: names of the custom resources that some node of the cluster declares. A resource that no node has would leave
            the replica waiting for ever, so it is left out.
    """
    options: dict[str, Any] = {"num_cpus": _rounded(needs.cpus)}
    if needs.gpus:
        options["num_gpus"] = _rounded(needs.gpus)
    if needs.memory_mb and MEMORY_RESOURCE in declared:
        options["resources"] = {MEMORY_RESOURCE: float(round(needs.memory_mb))}
    if needs.tier:
        options["label_selector"] = {TIER_LABEL: needs.tier}
    return options


def node_resources(memory_total_mb: int) -> dict[str, float]:
    """The custom resources that a node declares when it joins."""
    return {MEMORY_RESOURCE: float(memory_total_mb)}


def node_labels(tier: str) -> dict[str, str]:
    """The labels that a node declares when it joins."""
    return {TIER_LABEL: tier}


def _amount(raw: Mapping[str, Any], name: str, default: float) -> float:
    value = raw.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise ConfigError(
            f"`needs.{name}` must be a number that is not negative, got {value!r}.",
            remedy="Learn again, or mend the version's card.",
            param=f"needs.{name}",
        )
    return float(value)


def _rounded(amount: float) -> float:
    return round(amount / _RAY_STEP) * _RAY_STEP if amount >= _RAY_STEP else 0.0
