"""JSON Schema, as plans use it: what breaks a schema, in words with a path. Thin over jsonschema (Draft 2020-12).

A schema stands for itself: jsonschema would fetch what a `$ref` names from anywhere, so references to other documents are refused,
and nothing is ever fetched.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError
from jsonschema_specifications import REGISTRY
from referencing.exceptions import Unresolvable

_MOST = 5


@lru_cache(maxsize=512)
def _validator(schema: str) -> Draft202012Validator:
    return Draft202012Validator(json.loads(schema), registry=REGISTRY)


def schema_errors(schema: Mapping[str, Any]) -> list[str]:
    """Why this is no JSON Schema of its own; empty where it is one."""
    if outside := _outside(schema):
        return [f"it refers to another document, {outside[:80]!r}"]
    try:
        Draft202012Validator.check_schema(dict(schema))
    except SchemaError as error:
        return [f"{_path(error.absolute_path)}{error.message}"]
    return []


def breaks(value: Any, schema: Mapping[str, Any]) -> list[str]:
    """What of `value` breaks the schema, each with its path; at most five; empty where nothing does."""
    if not schema:
        return []
    validator = _validator(json.dumps(schema, sort_keys=True))
    try:
        errors = sorted(validator.iter_errors(value), key=lambda error: list(map(str, error.absolute_path)))
    except Unresolvable as error:
        return [f"the schema refers to what it does not have: {error}"]
    except RecursionError:
        return ["the schema leads back to itself without end"]
    return [f"{_path(error.absolute_path)}{_short(error.message)}" for error in errors[:_MOST]]


def _outside(schema: Any) -> str:
    """The first reference to another document; empty where there is none."""
    if isinstance(schema, Mapping):
        for name, inner in schema.items():
            if name in ("$ref", "$dynamicRef") and isinstance(inner, str) and not inner.startswith("#"):
                return inner
            if found := _outside(inner):
                return found
    elif isinstance(schema, list | tuple):
        return next(filter(None, map(_outside, schema)), "")
    return ""


def _path(parts: Any) -> str:
    path = ".".join(map(str, parts))
    return f"`{path}`: " if path else ""


def _short(text: str) -> str:
    return text if len(text) <= 160 else text[:157] + "..."
