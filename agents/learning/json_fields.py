"""Structured answers taken apart: the skeleton of a JSON value, its leaves by path, and how a leaf's value comes about.

Shared by training and serving, so that both see the same. Pure; knows no model.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias

from shoal.agents.traces.chat import ChatRequest

Scalar: TypeAlias = str | int | float | bool | None
LeafKind: TypeAlias = Literal["constant", "closed", "copied", "record"]

_TOKEN = re.compile(r"\w+|[^\w\s]")
#: ways of writing JSON, in the order in which they are tried
STYLES: Final[Mapping[str, Mapping[str, Any]]] = {
    "plain": {"ensure_ascii": False},
    "compact": {"ensure_ascii": False, "separators": (",", ":")},
    "indented": {"ensure_ascii": False, "indent": 2},
    "ascii": {},
}


def skeleton_of(value: Any) -> tuple[str, dict[str, Scalar]]:
    """(the value with its leaves replaced by their paths, as JSON; the leaves by path). Empty objects and lists stay."""
    leaves: dict[str, Scalar] = {}

    def walk(inner: Any, path: str) -> Any:
        if isinstance(inner, dict) and inner:
            return {key: walk(item, f"{path}.{key}" if path else str(key)) for key, item in inner.items()}
        if isinstance(inner, list) and inner:
            return [walk(item, f"{path}[{number}]") for number, item in enumerate(inner)]
        if isinstance(inner, dict | list):
            return inner
        leaves[path] = inner
        return path

    return json.dumps(walk(value, ""), ensure_ascii=False), leaves


def filled(skeleton: str, value_of: Callable[[str], Scalar]) -> Any:
    """A skeleton with a value for each path."""

    def walk(inner: Any) -> Any:
        if isinstance(inner, dict):
            return {key: walk(item) for key, item in inner.items()}
        if isinstance(inner, list):
            return [walk(item) for item in inner]
        return value_of(inner)

    return walk(json.loads(skeleton))


def paths_of(skeleton: str) -> list[str]:
    """The paths of its leaves, in order."""
    found: list[str] = []
    filled(skeleton, lambda path: found.append(path))
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class LeafSpec:
    """How a leaf's value comes about.

    Attributes:
        kind: `constant`; `closed`: one of `values`, decided by a linear model; `copied`: a stretch of the prompt, found by a
            tagger; `record`: what stands at `path` of the prompt's record.
        values: what it may be; of a copied leaf, what training saw.
        number: of its model or tagger.
    """

    kind: LeafKind
    values: tuple[Scalar, ...] = ()
    path: str = ""
    number: int = -1

    def to_dict(self) -> dict[str, Any]:
        return {"kind": self.kind, "values": list(self.values), "path": self.path, "number": self.number}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> LeafSpec:
        if data["kind"] not in ("constant", "closed", "copied", "record"):
            raise ValueError(f"a leaf of the kind {data['kind']!r}")
        return cls(
            kind=data["kind"],
            values=tuple(data["values"]),
            path=str(data["path"]),
            number=int(data["number"]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldPlan:
    """All that is decided before weights: the skeletons, most frequent first, the leaves, and how answers are written."""

    skeletons: tuple[str, ...]
    leaves: Mapping[str, LeafSpec]
    style: str = "plain"
    models: int = 0
    taggers: int = 0
    details: Mapping[str, Any] = field(default_factory=dict)

    def write(self, value: Any) -> str:
        return json.dumps(value, **STYLES[self.style])

    def to_json(self) -> str:
        return json.dumps(
            {
                "skeletons": self.skeletons,
                "leaves": {path: leaf.to_dict() for path, leaf in self.leaves.items()},
                "style": self.style,
                "models": self.models,
                "taggers": self.taggers,
            },
            ensure_ascii=False,
        )

    @classmethod
    def from_json(cls, text: str) -> FieldPlan:
        """Raises ValueError or KeyError where it is no such plan."""
        data = json.loads(text)
        plan = cls(
            skeletons=tuple(data["skeletons"]),
            leaves={path: LeafSpec.from_dict(leaf) for path, leaf in data["leaves"].items()},
            style=str(data["style"]),
            models=int(data["models"]),
            taggers=int(data["taggers"]),
        )
        missing = {path for skeleton in plan.skeletons for path in paths_of(skeleton)} - set(plan.leaves)
        if missing or plan.style not in STYLES or not plan.skeletons:
            raise ValueError(f"no such plan of fields: {sorted(missing)[:3]}, style {plan.style!r}")
        return plan


# -- stretches of a text


@dataclass(frozen=True, slots=True)
class Token:
    text: str
    start: int
    end: int


def tokens_of(text: str) -> list[Token]:
    """Words and marks, with their places."""
    return [Token(match[0], match.start(), match.end()) for match in _TOKEN.finditer(text)]


def find_value(text: str, value: str) -> tuple[int, int] | None:
    """Where a value stands in a text, letter case aside, at word boundaries: the last such place, as (start, end)."""
    if not value.strip():
        return None
    pattern = rf"(?<!\w){re.escape(value)}(?!\w)"
    found = list(re.finditer(pattern, text, re.IGNORECASE))
    return (found[-1].start(), found[-1].end()) if found else None


def token_features(tokens: Sequence[Token], at: int) -> list[str]:
    """What a tagger sees of a token: itself, its shape, and what stands around it."""

    def word(number: int) -> str:
        return tokens[number].text.casefold() if 0 <= number < len(tokens) else "#"

    def shape(number: int) -> str:
        return _shape(tokens[number].text) if 0 <= number < len(tokens) else "#"

    def capital(number: int) -> bool:
        """Whether it begins with a capital letter, but for a sentence's start."""
        return 0 < number < len(tokens) and tokens[number].text[0].isupper()

    return [
        f"w={word(at)}",
        f"s={shape(at)}",
        f"first={at == 0}",
        f"p={word(at - 1)}",
        f"pp={word(at - 2)} {word(at - 1)}",
        f"n={word(at + 1)}",
        f"nn={word(at + 1)} {word(at + 2)}",
        f"ps={shape(at - 1)} {shape(at)}",
        f"sn={shape(at)} {shape(at + 1)}",
        f"p={word(at - 1)} s={shape(at)}",
        f"pps={word(at - 2)} {shape(at - 1)} {shape(at)}",
        f"c={capital(at)}",
        f"p={word(at - 1)} c={capital(at)}",
        f"pc={capital(at - 1)} c={capital(at)} nc={capital(at + 1)}",
        f"pp={word(at - 2)} pc={capital(at - 1)} c={capital(at)}",
    ]


def _shape(text: str) -> str:
    if text.isdigit():
        return "d"
    if not text[0].isalnum():
        return text
    if text.isupper() and len(text) > 1:
        return "XX"
    return "Xx" if text[0].isupper() else "xx"


def masked(request: ChatRequest, spans: Mapping[int, tuple[int, int]]) -> ChatRequest:
    """The request with stretches of its newest user message replaced by `slot<number>`: choices must not depend on copied values."""
    if not spans:
        return request
    text = request.last_user_text
    for number, (start, end) in sorted(spans.items(), key=lambda item: -item[1][0]):
        text = f"{text[:start]}slot{number}{text[end:]}"
    messages = list(request.messages)
    at = max(n for n, message in enumerate(messages) if message["role"] == "user")
    messages[at] = {**messages[at], "content": text}
    return ChatRequest(body={**request.body, "messages": messages})


def cast_like(text: str, seen: tuple[Scalar, ...]) -> Scalar:
    """A stretch of text as the kind of value that training saw; a value seen before is written as it was."""
    for value in seen:
        if isinstance(value, str) and value.casefold() == text.casefold():
            return value
    if seen and all(isinstance(value, int) and not isinstance(value, bool) for value in seen):
        return int(text) if text.lstrip("+-").isdecimal() else text
    if seen and all(isinstance(value, int | float) and not isinstance(value, bool) for value in seen):
        try:
            return float(text)
        except ValueError:
            return text
    return text
