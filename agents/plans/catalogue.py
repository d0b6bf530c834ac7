"""What plans may use at a site: its tools and its specialists, as plain data. Knows no functions and no models."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

#: how far a tool lets its arguments travel: they stay on its node, within the site, or may leave it
Reach: TypeAlias = Literal["node", "site", "outside"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolInfo:
    """A tool as plans see it.

    Attributes:
        input, output: JSON Schemas of its arguments and its answer.
        tier: where it runs where a step does not say; empty for any.
    """

    name: str
    description: str
    input: Mapping[str, Any] = field(default_factory=dict)
    output: Mapping[str, Any] = field(default_factory=dict)
    tier: str = ""
    reach: Reach = "outside"


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalogue:
    """Tools by name, and the tasks whose specialists can be named, with their descriptions."""

    tools: Mapping[str, ToolInfo] = field(default_factory=dict)
    specialists: Mapping[str, str] = field(default_factory=dict)

    def only(self, tools: Collection[str] | None) -> Catalogue:
        """With these tools alone; all where None."""
        if tools is None:
            return self
        return Catalogue(
            tools={name: tool for name, tool in self.tools.items() if name in tools},
            specialists=self.specialists,
        )
