"""Which values plans can carry: those that JSON, UTF-8 and msgpack can all hold. Pure.

A tool may give anything that Python has, a YAML file a date, a model's JSON half a surrogate pair: what could neither be kept nor told
is found here, before a run builds on it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

#: deeper than this no value is; msgpack's own limit is 511, and a result may wrap values of other steps
MOST_LEVELS: Final = 100
_SMALLEST, _LARGEST = -(2**63), 2**64 - 1


def no_json(value: Any) -> tuple[str, str] | None:
    """(the path to the first value that cannot be carried, what is wrong with it); None where all can."""
    todo: list[tuple[Any, tuple[Any, ...]]] = [(value, ())]
    while todo:
        item, path = todo.pop()
        if isinstance(item, Mapping):
            todo.extend((inner, (*path, key)) for key, inner in item.items())
            why = next(filter(None, map(_wrong_key, item)), "")
        elif isinstance(item, list | tuple):
            todo.extend((inner, (*path, place)) for place, inner in enumerate(item))
            why = ""
        else:
            why = _wrong(item)
        if not why and len(path) > MOST_LEVELS:
            why = f"it has more than {MOST_LEVELS} levels"
            path = path[:5]
        if why:
            return ".".join(map(_shown, path)), why
    return None


def _wrong_key(key: Any) -> str:
    if not isinstance(key, str):
        return f"the key {_shown(key)} is no text but {type(key).__name__}"
    return f"the key {_shown(key)}: {why}" if (why := _wrong(key)) else ""


def _wrong(value: Any) -> str:
    if isinstance(value, str):
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            return "it holds half a surrogate pair"
        return ""
    if value is None or isinstance(value, bool):
        return ""
    if isinstance(value, int):
        return "" if _SMALLEST <= value <= _LARGEST else "it is a number that does not fit into 64 bits"
    if isinstance(value, float):
        return "" if math.isfinite(value) else f"{value} is no JSON"
    return f"a {type(value).__name__} is no JSON"


def _shown(key: Any) -> str:
    return str(key)[:40].encode("utf-8", "backslashreplace").decode()
