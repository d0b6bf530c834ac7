from __future__ import annotations

import datetime
from typing import Any

import pytest

from shoal.agents.plans.values import MOST_LEVELS, no_json


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value", [None, True, 1.5, "é", 2**64 - 1, -(2**63), {"a": [1, {"b": ()}]}, nested(MOST_LEVELS)]
)
def test_what_json_holds_can_be_carried(value: Any) -> None:
    assert no_json(value) is None


@pytest.mark.parametrize(
    ("value", "path", "why"),
    [
        ({"rows": [{"at": datetime.date(2025, 1, 1)}]}, "rows.0.at", "a date is no JSON"),
        ({1, 2}, "", "a set is no JSON"),
        ({"x": b"y"}, "x", "a bytes is no JSON"),
        ([float("nan")], "0", "nan is no JSON"),
        ([float("-inf")], "0", "-inf is no JSON"),
        ({"x": {7: 1}}, "x", "the key 7 is no text but int"),
        ({"x": "\ud800"}, "x", "half a surrogate pair"),
        ({"\ud800": 1}, "", r"the key \ud800: it holds half"),
        ([2**64], "0", "64 bits"),
        (nested(MOST_LEVELS + 1), "0.0.0.0.0", f"more than {MOST_LEVELS} levels"),
        (nested(100_000), "0.0.0.0.0", "levels"),
    ],
)
def test_what_could_not_be_kept_or_told_is_named_with_its_path(value: Any, path: str, why: str) -> None:
    found = no_json(value)
    assert found is not None
    assert found[0] == path and why in found[1]
