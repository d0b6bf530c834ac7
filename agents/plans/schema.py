"""JSON Schema, as plans use it: what breaks a schema, in words with a path. Thin over jsonschema (Draft 2020-12)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError

_MOST = 5


@lru_cache(maxsize=512)
def _validator(schema: str) -> Draft202012Validator:
    return Draft202012Validator(json.loads(schema))


def schema_errors(schema: Mapping[str, Any]) -> list[str]:
    """Why this is no JSON Schema; empty where it is one."""
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
    errors = sorted(validator.iter_errors(value), key=lambda error: list(map(str, error.absolute_path)))
    return [f"{_path(error.absolute_path)}{_short(error.message)}" for error in errors[:_MOST]]


def _path(parts: Any) -> str:
    path = ".".join(map(str, parts))
    return f"`{path}`: " if path else ""


def _short(text: str) -> str:
    return text if len(text) <= 160 else text[:157] + "..."
