"""JSON that can be stored: read from clients and endpoints, written to them. Refuses what msgpack and UTF-8 cannot hold."""

from __future__ import annotations

import json
import re
from typing import Any

#: deeper than this no chat request is; msgpack's own limit is 511
MAX_DEPTH = 100
#: as many braces as a body may have before its depth is looked at
_MANY = 100
_LONG_NUMBER = re.compile(r"\d{19}")
_SMALLEST, _LARGEST = -(2**63), 2**64 - 1


def read_json(data: bytes | str) -> Any:
    """The value in a JSON text.

    Raises:
        ValueError: no JSON (NaN and Infinity are none), or JSON that cannot be stored: numbers beyond 64 bits, half a
            surrogate pair, or more than `MAX_DEPTH` levels.
    """
    text = data if isinstance(data, str) else data.decode("utf-8")
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError(f"more than {MAX_DEPTH} levels") from None
    # each of these is rare, and looking at every value of every body is not free
    suspicious = (
        "\\ud" in text
        or "\\uD" in text
        or _LONG_NUMBER.search(text) is not None
        or text.count("{") + text.count("[") > _MANY
    )
    if suspicious:
        _check(value)
    return value


def write_json(value: Any) -> bytes:
    """Compact JSON in UTF-8."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _check(value: Any) -> None:
    todo: list[tuple[Any, int]] = [(value, 1)]
    while todo:
        item, depth = todo.pop()
        if depth > MAX_DEPTH:
            raise ValueError(f"more than {MAX_DEPTH} levels")
        if isinstance(item, dict):
            todo.extend((key, depth) for key in item)
            todo.extend((inner, depth + 1) for inner in item.values())
        elif isinstance(item, list):
            todo.extend((inner, depth + 1) for inner in item)
        elif isinstance(item, str):
            item.encode("utf-8")  # UnicodeEncodeError is a ValueError
        elif isinstance(item, int) and not _SMALLEST <= item <= _LARGEST:
            raise ValueError(f"{str(item)[:30]}... does not fit into 64 bits")
