"""What form a task's answers have, as a language model writes them: a label, JSON, a function call or a text.

Owns the wording that training sees, what may be written (`Rule`), and how what was written becomes an answer again. Pure; knows no
model and no tokens.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from shoal.agents.contract.loss import unfenced
from shoal.agents.learning.answers import AnswerSet, answer_key
from shoal.agents.learning.json_schema import dumps, in_order, infer_schema
from shoal.agents.learning.training import Example
from shoal.agents.plans.schema import breaks
from shoal.agents.traces.chat import ChatRequest
from shoal.errors import DataError

Kind = Literal["label", "json", "call", "text"]

#: of the answers, at least this share must be JSON for the form to be JSON
_JSON_SHARE = 0.98
#: of the answers, from this share on calls of a function make the form a call
_CALL_SHARE = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What may be written in answer to one request: one of `choices`, or JSON under `schema`; anything where both are None."""

    choices: tuple[str, ...] | None = None
    schema: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """An answer read back: a text or calls (OpenAI's, without ids), or `reason` why there is none."""

    content: str | None = None
    tool_calls: tuple[Mapping[str, Any], ...] = ()
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerForm:
    """The form of a task's answers.

    Attributes:
        choices: the labels of a closed set.
        schema: what JSON answers keep where the request says nothing; inferred from the log.
    """

    kind: Kind
    choices: tuple[str, ...] = ()
    schema: Mapping[str, Any] | None = None

    @classmethod
    def fit(cls, examples: Sequence[Example]) -> AnswerForm:
        """The form of the examples' answers."""
        calls = sum(logged_call(e) is not None for e in examples)
        if calls > _CALL_SHARE * len(examples):
            return cls(kind="call")
        values = [v for v in (_json(e.content) for e in examples) if isinstance(v, dict | list)]
        if values and len(values) >= _JSON_SHARE * len(examples):
            return cls(kind="json", schema=infer_schema(values))
        try:
            return cls(kind="label", choices=AnswerSet.fit([e.content for e in examples]).texts)
        except DataError:
            return cls(kind="text")

    def rule(self, request: ChatRequest) -> Rule:
        """What may be written in answer to this request."""
        if self.kind == "label":
            return Rule(choices=self.choices)
        if self.kind == "json":
            return Rule(schema=asked_schema(request) or self.schema)
        if self.kind == "call":
            return Rule(schema=call_schema(request))
        return Rule()

    def teach(self, example: Example) -> str | None:
        """How the example's answer is written in training; None where this form has no place for it."""
        text = example.content
        if self.kind == "label":
            return next((c for c in self.choices if answer_key(c) == answer_key(text)), None)
        if self.kind == "json":
            value = _json(text)
            schema = asked_schema(example.request) or self.schema or {}
            return dumps(in_order(value, schema)) if isinstance(value, dict | list) else None
        if self.kind == "call":
            call = logged_call(example)
            if call is None:
                return None if _json_calls(text) else dumps({"text": text.strip()})
            parameters = _parameters(example.request, call[0])
            return dumps({"name": call[0], "arguments": in_order(call[1], parameters)})
        return text.strip() or None

    def read(self, text: str, request: ChatRequest) -> Written:
        """What was written, as an answer; checked against the rule once more, whoever wrote it."""
        said = text.strip()
        if self.kind in ("label", "text"):
            if self.kind == "label" and said not in self.choices:
                return Written(reason="what was written is none of the task's answers")
            return Written(content=said) if said else Written(reason="the answer is empty")
        value = _json(said)
        if not isinstance(value, dict | list):
            return Written(reason="what was written is no JSON")
        if errors := breaks(value, self.rule(request).schema or {}):
            return Written(reason=f"what was written breaks its schema: {errors[0]}")
        if self.kind == "json":
            return Written(content=said)
        assert isinstance(value, dict)
        if "text" in value:
            return Written(content=str(value["text"]))
        function = {"name": value["name"], "arguments": dumps(value["arguments"])}
        return Written(tool_calls=({"type": "function", "function": function},))

    def to_dict(self) -> dict[str, Any]:
        return {"kind": self.kind, "choices": list(self.choices), "schema": self.schema}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> AnswerForm:
        if data["kind"] not in ("label", "json", "call", "text"):
            raise ValueError(f"no form of answers is called {data['kind']!r}")
        return cls(kind=data["kind"], choices=tuple(data["choices"]), schema=data["schema"])


def asked_schema(request: ChatRequest) -> Mapping[str, Any] | None:
    """The schema that the request asks its answer to keep; None where it asks for none."""
    asked = request.response_format or {}
    if asked.get("type") != "json_schema":
        return None
    schema = (asked.get("json_schema") or {}).get("schema")
    return schema if isinstance(schema, Mapping) else None


def call_schema(request: ChatRequest) -> dict[str, Any]:
    """`{"name": ..., "arguments": ...}` under one of the request's tools, or `{"text": ...}` where nothing is called."""
    ways: list[dict[str, Any]] = []
    choice = request.body.get("tool_choice")
    only = (choice.get("function") or {}).get("name") if isinstance(choice, Mapping) else None
    for function in _functions(request):
        if choice != "none" and only in (None, function["name"]):
            parameters = function.get("parameters")
            # a reference within the parameters starts at their own root, which now lies deeper
            root = f"#/anyOf/{len(ways)}/properties/arguments"
            arguments = _moved(parameters, root) if isinstance(parameters, Mapping) and parameters else {}
            name = {"type": "string", "const": function["name"]}
            ways.append(_exactly({"name": name, "arguments": {"type": "object", **arguments}}))
    if only is None and choice != "required":
        ways.append(_exactly({"text": {"type": "string"}}))
    return {"anyOf": ways}


def logged_call(example: Example) -> tuple[str, Any] | None:
    """The one function call that answers the example, as (name, arguments); None where it is answered otherwise."""
    calls = _json_calls(example.content)
    if len(calls) != 1 or calls[0][0] not in {f["name"] for f in _functions(example.request)}:
        return None
    arguments = _json(calls[0][1])
    return (calls[0][0], arguments) if isinstance(arguments, dict) else None


def _json_calls(text: str) -> list[tuple[str, str]]:
    """Calls in the canonical form that `agents/contract/loss.py` gives them: a list of [name, arguments as JSON]."""
    value = _json(text) if text.startswith("[[") else None
    if not isinstance(value, list):
        return []
    pairs = [p for p in value if isinstance(p, list) and len(p) == 2 and all(isinstance(s, str) for s in p)]
    return [(name, arguments) for name, arguments in pairs] if len(pairs) == len(value) else []


def _functions(request: ChatRequest) -> list[Mapping[str, Any]]:
    found = [tool.get("function") for tool in request.tools if tool.get("type", "function") == "function"]
    return [f for f in found if isinstance(f, Mapping) and isinstance(f.get("name"), str)]


def _parameters(request: ChatRequest, name: str) -> Mapping[str, Any]:
    own = next((f.get("parameters") for f in _functions(request) if f["name"] == name), None)
    return own if isinstance(own, Mapping) else {}


def _moved(schema: Any, root: str) -> Any:
    if isinstance(schema, Mapping):
        return {
            key: root + inner[1:]
            if key == "$ref" and isinstance(inner, str) and inner.startswith("#")
            else _moved(inner, root)
            for key, inner in schema.items()
        }
    return [_moved(inner, root) for inner in schema] if isinstance(schema, list) else schema


def _exactly(properties: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }


def _json(text: str) -> Any:
    try:
        return json.loads(unfenced(text))
    except (ValueError, RecursionError):
        return None
