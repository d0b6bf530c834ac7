"""What this room needs from whoever is above it: somebody who deploys, and somewhere to keep what was decided."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Application:
    """What is to run on a node: one deployment, and what it holds.

    Attributes:
        options: Ray's actor options: CPUs, share of a GPU, custom resources, label selector.
        items: what it holds, opaque to this room; each has a `key`.
    """

    name: str
    node: str
    options: Mapping[str, Any]
    items: Sequence[Mapping[str, str]] = field(default_factory=tuple)


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldReport:
    """What an application says of itself: keys that answer now, and key -> why it can never be loaded as it is."""

    loaded: Sequence[str] = ()
    corrupt: Mapping[str, str] = field(default_factory=dict)


class Carrier(Protocol):
    """Makes applications run. Implemented over Ray Serve in `serve/`."""

    async def carry_out(self, applications: Sequence[Application]) -> None:
        """Make exactly these run; idempotent. Returns when they have been told; starting goes on."""
        ...

    async def reports(self, names: Sequence[str]) -> Mapping[str, HeldReport]:
        """What the applications that answer say of themselves."""
        ...


class PlacementStore(Protocol):
    """Keeps what the placement actor must remember; blocking. Implemented over the registry's database in `agents/`."""

    def read(self) -> Mapping[str, Any] | None:
        """What was last kept; None before the first time."""
        ...

    def write(self, body: Mapping[str, Any]) -> None: ...
