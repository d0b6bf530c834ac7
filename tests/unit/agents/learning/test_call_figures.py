"""The figures of `bench/_calls.py`, on rows made up here."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

_PATH = Path(__file__).parents[4] / "bench" / "_calls.py"
_SPEC = importlib.util.spec_from_file_location("bench_calls", _PATH)
assert _SPEC is not None and _SPEC.loader is not None
figures = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(figures)


def _call(name: str, **arguments: Any) -> dict[str, Any]:
    call = {"type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


def _line(number: int, message: dict[str, Any], tool: str = "find") -> dict[str, Any]:
    tools = [{"type": "function", "function": {"name": tool, "parameters": {"properties": {"a": {}}}}}]
    return {
        "id": f"c{number}",
        "request": {"messages": [], "tools": tools},
        "response": {"choices": [{"message": message}]},
    }


WAIT = {"role": "assistant", "content": "WAIT"}


def test_abstentions_are_wrong_and_unknown_tools_are_counted_apart() -> None:
    gold = [
        _line(0, _call("find", a=1)),
        _line(1, _call("find", a=1)),
        _line(2, _call("find", a=1)),
        _line(3, WAIT),
        _line(4, WAIT),
        _line(5, WAIT, tool="fly"),
    ]
    given = [_call("find", a=1), _call("find", a=2), _call("look", a=1), {"content": "wait "}, None, WAIT]
    rows = [{"id": f"c{n}", "raw": message} for n, message in enumerate(given)]
    found = figures.call_figures(rows, gold, figures.known_tools(gold[:1]))
    assert {name: (f["right"], f["of"]) for name, f in found.items()} == {
        "call_or_wait": (4, 5),
        "function": (2, 3),
        "exact": (1, 3),
        "arguments": (1, 2),
        "whole": (2, 5),
        "unknown_answered": (1, 1),
    }
    assert figures.by_argument(rows, gold) == {"find.a": {"right": 1, "wrong": 1}}
