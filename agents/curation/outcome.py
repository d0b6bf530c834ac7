"""Whether a call's own record says that it went wrong, so that nothing should be learnt from it. Pure.

What clients say of answers afterwards is `agents/feedback/lessons.py`'s.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from pydantic_core import to_json

from shoal.agents.plans.schema import breaks, schema_errors
from shoal.agents.traces.chat import Answer, ChatRequest

#: why a call is left out, as `shoal tasks show` and a version's evidence count them
RUN_FAILED = "its run failed"
BREAKS_SCHEMA = "answer breaks its schema"
BREAKS_TOOL = "call breaks its tool's schema"


def failed_outcome(request: ChatRequest, answer: Answer, tags: Mapping[str, Any]) -> str:
    """Why the call's outcome counts as failed; empty where nothing says so.

    A run failed where `tags.reward` is 0 or below (or false). An answer must keep to the JSON Schema that its request asks for, a
    call to its tool's parameters; a schema that is none, or refers to other documents, condemns nothing.
    """
    reward = tags.get("reward")
    if isinstance(reward, (int, float)) and reward <= 0:
        return RUN_FAILED
    if answer.tool_calls:
        return BREAKS_TOOL if _breaks_tools(answer.tool_calls, request.tools) else ""
    return BREAKS_SCHEMA if _breaks_format(answer.content or "", request.response_format) else ""


def _breaks_format(content: str, wanted: Mapping[str, Any] | None) -> bool:
    kind = (wanted or {}).get("type")
    if wanted is None or kind not in ("json_object", "json_schema"):
        return False
    value, is_json = _parsed(content)
    if not is_json:
        return True
    described = wanted.get("json_schema")
    schema = described.get("schema") if isinstance(described, Mapping) else None
    return _breaks(value, schema)


def _breaks_tools(calls: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]) -> bool:
    functions = [tool.get("function") for tool in tools]
    parameters = {f.get("name"): f.get("parameters") for f in functions if isinstance(f, Mapping)}
    if not parameters:
        return False
    for call in calls:
        function = call.get("function")
        if not isinstance(function, Mapping) or function.get("name") not in parameters:
            return True
        arguments = function.get("arguments")
        value, is_json = (arguments, True) if isinstance(arguments, Mapping) else _parsed(arguments or "{}")
        if not is_json or not isinstance(value, Mapping) or _breaks(value, parameters[function["name"]]):
            return True
    return False


def _parsed(text: Any) -> tuple[Any, bool]:
    try:
        return json.loads(text), True
    except (ValueError, TypeError, RecursionError):
        return None, False


def _breaks(value: Any, schema: Any) -> bool:
    return (
        isinstance(schema, Mapping)
        and _is_sound(to_json(schema, fallback=dict))
        and bool(breaks(value, schema))
    )


@lru_cache(maxsize=512)
def _is_sound(schema: bytes) -> bool:
    return not schema_errors(json.loads(schema))
