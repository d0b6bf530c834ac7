"""Tools: Python functions of the owner's that plans may call. Loads them by name; runs none.

    @tool(description="...", input={...}, output={...}, reach="node")
    def sales_figures(arguments: dict[str, Any], options: dict[str, Any]) -> Any: ...

`arguments` come from a plan, and so may come from a model: a tool must treat them as it would treat any stranger's input.
`options` come from the owner's configuration.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, TypeAlias

from shoal.agents.plans.catalogue import Reach, ToolInfo
from shoal.agents.plans.schema import schema_errors
from shoal.errors import ConfigError

ToolFunction: TypeAlias = Callable[[dict[str, Any], dict[str, Any]], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A function with what plans must know of it."""

    info: ToolInfo
    function: ToolFunction

    def __call__(self, arguments: dict[str, Any], options: dict[str, Any] | None = None) -> Any:
        return self.function(arguments, options or {})


def tool(
    *,
    description: str,
    input: Mapping[str, Any] | None = None,
    output: Mapping[str, Any] | None = None,
    tier: str = "",
    reach: Reach = "outside",
) -> Callable[[ToolFunction], Tool]:
    """Make a function a tool.

    Args:
        input, output: JSON Schemas of its arguments and of its answer.
        tier: where it runs where neither step nor configuration says; empty for any.
        reach: how far it lets its arguments travel. `local-only` data goes to tools with reach `node` alone, so a tool that says
            nothing gets none.
    """

    def made(function: ToolFunction) -> Tool:
        return Tool(
            info=ToolInfo(
                name=function.__name__,
                description=description,
                input=dict(input or {"type": "object"}),
                output=dict(output or {}),
                tier=tier,
                reach=reach,
            ),
            function=function,
        )

    return made


def load_tool(path: str) -> Tool:
    """The tool at `module:function`. Raises ConfigError where there is none, or its schemas are none."""
    module, _, name = path.partition(":")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"There is no tool at {path!r}: {error}.",
            remedy="Write `module:function`, importable on every node.",
        ) from error
    if not isinstance(found, Tool):
        raise ConfigError(
            f"{path} is no tool but {type(found).__name__}.",
            remedy="Decorate it: @tool(...) of shoal.agents.plans.tools.",
        )
    for name, schema in (("input", found.info.input), ("output", found.info.output)):
        if wrong := schema_errors(schema):
            raise ConfigError(
                f"The `{name}` of the tool {path} is no JSON Schema: {wrong[0]}.", remedy="Mend the schema."
            )
    return found
