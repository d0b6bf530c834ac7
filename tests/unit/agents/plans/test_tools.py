"""Tools by their names. This module holds the ones it loads."""

from __future__ import annotations

from typing import Any

import pytest

from shoal.agents.plans.catalogue import Catalogue
from shoal.agents.plans.tools import Tool, load_tool, tool
from shoal.errors import ConfigError


@tool(description="adds", input={"type": "object", "required": ["n"]}, tier="edge", reach="node")
def add(arguments: dict[str, Any], options: dict[str, Any]) -> int:
    return int(arguments["n"]) + int(options.get("more", 0))


@tool(description="says nothing of itself")
def quiet(arguments: dict[str, Any], options: dict[str, Any]) -> None:
    return None


@tool(description="broken", output={"type": "nonsense"})
def broken(arguments: dict[str, Any], options: dict[str, Any]) -> None:
    return None


@tool(description="elsewhere", input={"$ref": "https://example.org/schema.json"})
def elsewhere(arguments: dict[str, Any], options: dict[str, Any]) -> None:
    return None


def plain(arguments: dict[str, Any]) -> None: ...


def test_a_tool_is_loaded_by_its_name_and_is_the_function_still() -> None:
    found = load_tool(f"{__name__}:add")
    assert isinstance(found, Tool) and found is add
    assert (found.info.name, found.info.tier, found.info.reach) == ("add", "edge", "node")
    assert found({"n": 1}) == 1
    assert found({"n": 1}, {"more": 2}) == 3


def test_a_tool_that_says_nothing_lets_its_arguments_travel_outside() -> None:
    assert quiet.info.reach == "outside"
    assert quiet.info.input == {"type": "object"} and quiet.info.output == {}


@pytest.mark.parametrize(
    ("name", "why"),
    [
        (f"{__name__}:none", "no tool at"),
        ("no_such_module:x", "no tool at"),
        ("", "no tool at"),
        (f"{__name__}:plain", "is no tool but function"),
        (f"{__name__}:broken", "`output` of the tool"),
        (f"{__name__}:elsewhere", "another document"),
    ],
)
def test_what_is_no_tool_is_refused_when_it_is_loaded(name: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        load_tool(name)


def test_a_plan_sees_the_tools_that_it_names() -> None:
    offered = Catalogue(tools={"add": add.info, "quiet": quiet.info}, specialists={"sort": "sorts"})
    assert offered.only(None) == offered
    assert list(offered.only(["add"]).tools) == ["add"] and offered.only(()).tools == {}
    assert offered.only(()).specialists == {"sort": "sorts"}
