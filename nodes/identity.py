"""Who this machine is: its name and its tier. Reads the environment and the host's name, nothing else."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, get_args

from shoal.errors import ConfigError

Tier: TypeAlias = Literal["cloud", "edge", "local"]
TIERS: Final[tuple[Tier, ...]] = get_args(Tier)
#: name of the environment variable that says which tier a machine belongs to
TIER_VARIABLE = "SHOAL_TIER"
#: key of the Ray node label that carries the tier
TIER_LABEL = "shoal-tier"
#: key of the Ray node label that carries the node's name in its site
NODE_LABEL = "shoal-node"
#: key of the label of a node that is a further raylet on one machine, for trying things out
SIMULATED_LABEL = "shoal-simulated"
#: name of the node with the data folder, on a site's own Ray
HEAD_NAME = "head"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeIdentity:
    """A machine's name, and its tier: `cloud`, `edge` or `local`."""

    name: str
    tier: Tier


def node_identity(
    environment: Mapping[str, str] = os.environ, *, hostname: str | None = None
) -> NodeIdentity:
    """This machine's identity; its tier is `local` where SHOAL_TIER does not say.

    Raises:
        ConfigError: SHOAL_TIER names no tier.
    """
    said = environment.get(TIER_VARIABLE, "") or "local"
    tier = next((known for known in TIERS if known == said), None)
    if tier is None:
        raise ConfigError(
            f"{TIER_VARIABLE} must be one of {', '.join(TIERS)}, got {said!r}.",
            remedy=f"Unset it, or export {TIER_VARIABLE}=edge.",
            param=TIER_VARIABLE,
        )
    return NodeIdentity(name=hostname or socket.gethostname(), tier=tier)
