"""What is wrong with a value in `shoal.yaml`, in words: the rule, the value received, the remedy. Knows no setting by name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from shoal.errors import ConfigError

#: pydantic's type of error -> the rule; its limits stand in braces
_RULES = {
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "literal_error": "must be {expected}",
    "string_pattern_mismatch": "must be of the form {pattern}",
    "string_too_short": "must have at least {min_length} characters",
    "missing": "is needed here",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "string_type": "must be a text",
    "path_type": "must be a path",
    "tuple_type": "must be a list",
    "list_type": "must be a list",
    "dict_type": "must be a mapping",
    "model_type": "must be a mapping of settings",
    "model_attributes_type": "must be a mapping of settings",
}


def fault_of(error: Mapping[str, Any], source: str, known: Iterable[str] = ()) -> ConfigError:
    """The error to raise.

    Args:
        error: one of pydantic's, with its context.
        source: where the value was read.
        known: the settings of the section, for one that is none.
    """
    path = ".".join(str(part) for part in error["loc"])
    kind = str(error["type"])
    context = {k: f"{v:g}" if isinstance(v, float) else v for k, v in (error.get("ctx") or {}).items()}
    if kind == "extra_forbidden":
        name = str(error["loc"][-1])
        near = difflib.get_close_matches(name, list(known), n=1)
        remedy = (
            f"Did you mean `{near[0]}`?" if near else "Check its spelling; docs/configuration.md has all."
        )
        return ConfigError(f"{source}: `{path}` is not a setting.", remedy=remedy, param=path)
    rule = _RULES.get(kind, "").format_map(context) if kind in _RULES else _plain(str(error["msg"]))
    got = "" if kind == "missing" else f", got {error.get('input')!r}"
    return ConfigError(
        f"{source}: `{path}` {rule}{got}.",
        remedy=f"Change `{path}`; docs/configuration.md says what it is for.",
        param=path,
    )


def _plain(message: str) -> str:
    """Another of pydantic's messages, or what a check of our own said, as the end of a sentence."""
    said = message.removeprefix("Value error, ").removeprefix("Input ").removeprefix("should ").rstrip(".")
    return f"must {said}" if message.startswith("Input should ") else f"is refused: {said}"
