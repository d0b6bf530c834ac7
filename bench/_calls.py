"""How well function calls are answered: forced answers of specialists against a log's own. Used by `bench/learning.py`.

Only calls whose tools all stand in the training log are counted (`known_tools`); abstentions are counted wrong.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from shoal.agents.contract.loss import canonical_json, canonical_tool_calls, normal_label

Json = Any


def tools_key(request: Mapping[str, Json]) -> str:
    """The functions that a request offers, by name and arguments."""
    out = []
    for tool in request.get("tools") or ():
        function = tool.get("function") or {}
        properties = (function.get("parameters") or {}).get("properties") or {}
        out.append([function.get("name"), sorted(properties)])
    return json.dumps(sorted(out, key=str))


def known_tools(log: Iterable[Mapping[str, Json]]) -> frozenset[str]:
    """What a log's requests (lines in Shoal's form) offer."""
    return frozenset(tools_key(line["request"]) for line in log)


def call_figures(
    predictions: Iterable[Mapping[str, Json]], gold: Sequence[Mapping[str, Json]], known: frozenset[str]
) -> dict[str, dict[str, Json]]:
    """Figures of function calls, each `{"right", "of", "value"}`.

    Args:
        predictions: rows with `id` and `raw`, the specialist's own message (OpenAI's form) or None, as `shoal eval --out` writes.
        gold: a log's lines, those of the call-site to be measured.
        known: from `known_tools`; other calls are counted apart, as `unknown_answered` (they belong to the generalist).

    Returns:
        `call_or_wait`: a function is called where, and only where, the log calls one; and where it calls none the text is the same.
        `function`: of calls where both call, the same function. `exact`: of calls where the log calls one, function and all arguments.
        `arguments`: of calls where both call the same function, all arguments. `whole`: the whole answer is the log's, text or call.
    """
    raw = {str(row["id"]): row.get("raw") for row in predictions}
    counts: dict[str, list[int]] = {
        name: [0, 0]
        for name in ("call_or_wait", "function", "exact", "arguments", "whole", "unknown_answered")
    }

    def count(name: str, right: bool) -> None:
        counts[name][0] += right
        counts[name][1] += 1

    for line in gold:
        given = raw.get(str(line["id"])) or {}
        if tools_key(line["request"]) not in known:
            count("unknown_answered", bool(given))
            continue
        right = line["response"]["choices"][0]["message"]
        wanted, called = right.get("tool_calls") or (), given.get("tool_calls") or ()
        if not wanted:
            same = not called and normal_label(given.get("content") or "") == normal_label(
                right.get("content") or ""
            )
            count("call_or_wait", same)
            count("whole", same)
            continue
        exact = bool(called) and canonical_tool_calls(called) == canonical_tool_calls(wanted)
        count("call_or_wait", bool(called))
        count("exact", exact)
        count("whole", exact)
        if called:
            function = _names(called) == _names(wanted)
            count("function", function)
            if function:
                count("arguments", exact)
    return {
        name: {"right": right, "of": of, "value": right / of if of else None}
        for name, (right, of) in counts.items()
    }


def by_argument(
    predictions: Iterable[Mapping[str, Json]], gold: Sequence[Mapping[str, Json]]
) -> dict[str, dict[str, int]]:
    """For each argument of calls of the right function: how often it is right, wrong, missing or too much."""
    raw = {str(row["id"]): row.get("raw") for row in predictions}
    out: dict[str, dict[str, int]] = {}
    for line in gold:
        wanted = line["response"]["choices"][0]["message"].get("tool_calls") or ()
        called = (raw.get(str(line["id"])) or {}).get("tool_calls") or ()
        if not wanted or _names(called) != _names(wanted):
            continue
        given, right = _arguments(called[0]), _arguments(wanted[0])
        for name in sorted({*given, *right}):
            row = out.setdefault(f"{wanted[0]['function']['name']}.{name}", {})
            verdict = (
                "missing"
                if name not in given
                else "too much"
                if name not in right
                else "right"
                if canonical_json(json.dumps(given[name])) == canonical_json(json.dumps(right[name]))
                else "wrong"
            )
            row[verdict] = row.get(verdict, 0) + 1
    return out


def _names(calls: Sequence[Mapping[str, Json]]) -> list[str]:
    return [str((call.get("function") or {}).get("name")) for call in calls]


def _arguments(call: Mapping[str, Json]) -> Mapping[str, Json]:
    try:
        value = json.loads(call["function"]["arguments"] or "{}")
    except (ValueError, TypeError):
        return {}
    return value if isinstance(value, dict) else {}
