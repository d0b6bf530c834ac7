"""JSON Schemas of answers: inferred from logged values, and values brought into a schema's order. Pure.

Owns what a specialist that writes JSON may write where the request itself says no schema.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

#: a field is a closed choice if it has at most so many values, and on average each was seen so often
_MOST_CHOICES = 24
_SEEN_EACH = 8
#: more different keys than this are data, not fields
_MOST_FIELDS = 60
#: a string may be so much longer than the longest that was seen
_LONGER = 2


def infer_schema(values: Sequence[Any]) -> dict[str, Any]:
    """A schema that all `values` keep: types, fields, which of them are required, closed choices, lengths.

    Raises:
        ValueError: there are no values.
    """
    if not values:
        raise ValueError("A schema is inferred from values; got none.")
    kinds = Counter(_kind(value) for value in values)
    if kinds["integer"] and kinds["number"]:
        kinds["number"] += kinds.pop("integer")
    parts = [_of_kind(kind, [v for v in values if _fits(v, kind)]) for kind in sorted(kinds)]
    return parts[0] if len(parts) == 1 else {"anyOf": parts}


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int):
        return "integer"
    if isinstance(value, float):
        return "number"
    if isinstance(value, str):
        return "string"
    return "array" if isinstance(value, list) else "object"


def _fits(value: Any, kind: str) -> bool:
    own = _kind(value)
    return own == kind or (kind == "number" and own == "integer")


def _of_kind(kind: str, values: Sequence[Any]) -> dict[str, Any]:
    if kind == "object":
        return _object(values)
    if kind == "array":
        items = [item for value in values for item in value]
        most = max(len(value) for value in values)
        out: dict[str, Any] = {"type": "array", "maxItems": max(1, _LONGER * most)}
        return {**out, "items": infer_schema(items)} if items else {**out, "items": {}, "maxItems": 0}
    if kind == "string":
        different = sorted(set(values))
        if len(different) <= _MOST_CHOICES and len(values) >= _SEEN_EACH * len(different):
            return {"type": "string", "enum": different}
        return {"type": "string", "maxLength": _LONGER * max(map(len, values)) + 16}
    return {"type": kind}


def _object(values: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    fields: dict[str, list[Any]] = {}
    for value in values:
        for name, inner in value.items():
            fields.setdefault(name, []).append(inner)
    if len(fields) > _MOST_FIELDS and any(len(found) < len(values) for found in fields.values()):
        return {
            "type": "object",
            "additionalProperties": infer_schema([v for found in fields.values() for v in found]),
        }
    return {
        "type": "object",
        "properties": {name: infer_schema(found) for name, found in fields.items()},
        "required": [name for name, found in fields.items() if len(found) == len(values)],
        "additionalProperties": False,
    }


def in_order(value: Any, schema: Mapping[str, Any], root: Mapping[str, Any] | None = None) -> Any:
    """The same value with each object's keys in the order in which its schema names them; others after them."""
    root = schema if root is None else root
    schema = _resolved(schema, root)
    if isinstance(value, dict):
        fields = _fields(schema, value, root)
        names = [n for n in fields if n in value] + [n for n in value if n not in fields]
        return {n: in_order(value[n], fields.get(n, {}), root) for n in names}
    if isinstance(value, list):
        items = schema.get("items")
        if not isinstance(items, Mapping):
            items = next(
                (p["items"] for p in _parts(schema, root) if isinstance(p.get("items"), Mapping)), {}
            )
        return [in_order(item, items, root) for item in value]
    return value


def _fields(
    schema: Mapping[str, Any], value: Mapping[str, Any], root: Mapping[str, Any]
) -> dict[str, Mapping[str, Any]]:
    """The fields that the schema names; of several ways to be right, the one that shares most of them with the value."""
    own = {n: s for n, s in (schema.get("properties") or {}).items() if isinstance(s, Mapping)}
    ways = [{n: s for n, s in (p.get("properties") or {}).items()} for p in _parts(schema, root)]
    best = max(ways, key=lambda fields: len(fields.keys() & value.keys()), default={})
    return {**own, **best}


def _parts(schema: Mapping[str, Any], root: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    listed = [p for key in ("anyOf", "oneOf", "allOf") for p in schema.get(key) or ()]
    return [_resolved(p, root) for p in listed if isinstance(p, Mapping)]


def _resolved(schema: Mapping[str, Any], root: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a `$ref` within the same document names; the schema itself where there is none."""
    for _ in range(8):
        name = schema.get("$ref")
        if not isinstance(name, str) or not name.startswith("#"):
            break
        found: Any = root
        for part in name.lstrip("#/").split("/"):
            if part:
                found = found.get(part.replace("~1", "/").replace("~0", "~"), {})
            if not isinstance(found, Mapping):
                return {}
        schema = found
    return schema


def dumps(value: Any) -> str:
    """JSON as specialists write it: one line, `", "` and `": "` between, letters as they are."""
    return json.dumps(value, ensure_ascii=False)
