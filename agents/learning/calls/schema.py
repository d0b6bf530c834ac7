"""The functions that a request offers, as specialists see them; and whether arguments are valid under their schema. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError

from shoal.agents.traces.chat import ChatRequest


@dataclass(frozen=True, slots=True)
class ArgSpec:
    """One argument of a function. `key`: what arguments of one name and sort share in learning.

    `items`: for a list of objects, the names of the objects' fields.
    """

    function: str
    name: str
    type: str
    enum: tuple[Any, ...]
    required: bool
    items: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        return f"{self.name}|{'enum' if self.enum else self.type}"


@dataclass(frozen=True, slots=True)
class FunctionSpec:
    """One function. `signature`: its name and the names of its arguments; a function with another one is another function."""

    name: str
    args: tuple[ArgSpec, ...]
    parameters: Mapping[str, Any]

    @property
    def signature(self) -> str:
        return f"{self.name}({','.join(sorted(f'{a.name}' for a in self.args))})"


def functions_of(request: ChatRequest) -> list[FunctionSpec]:
    """The functions that the request offers, in its order; what is no function is left out."""
    return list(_functions(json.dumps(request.tools, sort_keys=False, default=str)))


@lru_cache(maxsize=512)
def _functions(tools: str) -> tuple[FunctionSpec, ...]:
    out = []
    for tool in json.loads(tools):
        function = tool.get("function") if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not function.get("name"):
            continue
        name, parameters = str(function["name"]), function.get("parameters") or {}
        properties = parameters.get("properties") if isinstance(parameters, dict) else None
        required = set(parameters.get("required") or ()) if isinstance(parameters, dict) else set()
        args = tuple(
            ArgSpec(name, str(arg), _type(schema), _enum(schema), arg in required, _items(schema))
            for arg, schema in (properties if isinstance(properties, dict) else {}).items()
        )
        out.append(FunctionSpec(name, args, parameters if isinstance(parameters, dict) else {}))
    return tuple(out)


def _type(schema: Any) -> str:
    kind = schema.get("type") if isinstance(schema, dict) else None
    if isinstance(kind, list):
        kind = next((k for k in kind if k != "null"), None)
    return str(kind) if kind else "string"


def _items(schema: Any) -> tuple[str, ...]:
    items = schema.get("items") if isinstance(schema, dict) else None
    properties = items.get("properties") if isinstance(items, dict) else None
    return tuple(map(str, properties)) if isinstance(properties, dict) else ()


def _enum(schema: Any) -> tuple[Any, ...]:
    if not isinstance(schema, dict):
        return ()
    if _type(schema) == "boolean":
        return (True, False)
    values = schema.get("enum")
    scalars = isinstance(values, list) and all(isinstance(v, str | int | float | bool) for v in values)
    return tuple(values) if scalars and isinstance(values, list) else ()


def invalid(function: FunctionSpec, arguments: Mapping[str, Any]) -> str:
    """Why the arguments are not valid under the function's schema; empty where they are."""
    try:
        error = next(iter(_validator(json.dumps(function.parameters)).iter_errors(dict(arguments))), None)
    except (SchemaError, ValueError, RecursionError) as broken:
        return f"the schema of {function.name} cannot be used: {type(broken).__name__}"
    if error is None:
        return ""
    place = ".".join(map(str, error.absolute_path)) or "the arguments"
    return f"{function.name}: {place}: {error.message[:200]}"


@lru_cache(maxsize=512)
def _validator(schema: str) -> Any:
    parsed = json.loads(schema)
    Draft202012Validator.check_schema(parsed)
    return Draft202012Validator(parsed)
