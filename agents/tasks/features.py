"""What is read off a request to recognise its task: prompt, tools, asked-for format, shape and words of the input.

Pure functions of a request; answers are never read here, because a call must be recognised before it is answered.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import pairwise
from typing import Any

from shoal.agents.curation.recognise import find_personal_data
from shoal.agents.curation.scrub import RECOGNISERS
from shoal.agents.tasks.language import UNDECIDED, language_of
from shoal.agents.tasks.shapes import RECORDS, Structure, structure_of
from shoal.agents.tasks.template import content_words, mask, normal, tokens_of
from shoal.agents.tasks.turns import marks_of
from shoal.agents.traces.chat import ChatRequest

#: an instruction before or after the input is looked for in this many characters
_OPENING_CHARS = 400
_OPENING_MIN_WORDS = 3
#: input tokens that the weights of a split read
_READ_TOKENS = 200
_MEMO_SIZE = 4096
_MEMO_CHARS = 16_000_000


def digest(*parts: str) -> str:
    """A short stable name of some texts."""
    return blake2b("\x1f".join(parts).encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


_PSEUDONYM = re.compile(r"<(EMAIL|PHONE|CARD|IBAN|IP|SSN|PERSON|PLACE|ORGANISATION)_\d{1,6}>")


def _without_personal_data(text: str) -> str:
    """Personal data and its pseudonyms as masks: traces are scrubbed, live requests are not, and both must look the same."""
    for finding in reversed(find_personal_data(text, RECOGNISERS)):
        text = f"{text[: finding.start]}<{finding.kind}>{text[finding.end :]}"
    return _PSEUDONYM.sub(lambda match: f"<{match.group(1).lower()}>", text)


@dataclass(frozen=True, slots=True)
class Prompt:
    """A system prompt, masked. `text` is in the normal form that templates search."""

    masked: str
    text: str

    @classmethod
    def of(cls, system_text: str) -> Prompt:
        masked = mask(_without_personal_data(system_text))
        return cls(masked=masked, text=normal(tokens_of(masked)))


class PromptMemo:
    """Prompts already masked, by their raw text: most calls of a site repeat one of a few. Bounded; forgets all when full."""

    def __init__(self) -> None:
        self._known: dict[str, Prompt] = {}
        self._chars = 0

    def __call__(self, system_text: str) -> Prompt:
        prompt = self._known.get(system_text)
        if prompt is None:
            if len(self._known) >= _MEMO_SIZE or self._chars >= _MEMO_CHARS:
                self._known.clear()
                self._chars = 0
            self._chars += len(system_text)
            prompt = self._known[system_text] = Prompt.of(system_text)
        return prompt


@dataclass(frozen=True, slots=True)
class Features:
    """What a request shows of its task.

    Attributes:
        fingerprint: of masked system prompt, tools or none, asked-for format.
        tools: the offered functions, each with its parameters: `FindBus(from, to)`.
        keys: top-level keys of an input that is a record.
        input: the newest user message.
        marks: of the stage of a conversation with tools; see `turns.py`. Empty where they were not read.
    """

    fingerprint: str
    prompt: Prompt
    has_tools: bool
    tools: tuple[str, ...]
    format: str
    structure: Structure
    keys: tuple[str, ...]
    input: str
    marks: frozenset[str] = frozenset()


def features_of(request: ChatRequest, prompt_of: PromptMemo, *, stage: bool = True) -> Features:
    """Read a request. `prompt_of` remembers masked prompts between calls; `stage`: read the marks of calls with tools."""
    prompt = prompt_of(request.system_text)
    tools = tools_of(request.tools)
    asked = format_of(request.response_format)
    text = request.last_user_text
    structure, keys = structure_of(text)
    return Features(
        fingerprint=fingerprint_of(prompt.masked, has_tools=bool(tools), asked=asked),
        prompt=prompt,
        has_tools=bool(tools),
        tools=tools,
        format=asked,
        structure=structure,
        keys=keys,
        input=text,
        marks=marks_of(request) if tools and stage else frozenset(),
    )


def fingerprint_of(masked: str, *, has_tools: bool, asked: str) -> str:
    """Names a call-site as far as its fixed parts go."""
    return digest(masked, "tools" if has_tools else "", asked)


def tools_of(tools: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Each offered function with the names of its parameters; a tool that is no function counts by its type.

    The same name with other parameters is another tool: it belongs to another service.
    """
    found = []
    for tool in tools:
        function = tool.get("function")
        function = function if isinstance(function, Mapping) else tool
        name = str(function.get("name") or tool.get("type"))
        parameters = function.get("parameters")
        properties = parameters.get("properties") if isinstance(parameters, Mapping) else None
        found.append(f"{name}({', '.join(sorted(map(str, properties or ())))})")
    return tuple(found)


def format_of(response_format: Mapping[str, Any] | None) -> str:
    """`""` for plain text, `json_object`, or `json_schema:<digest>`."""
    kind = str((response_format or {}).get("type") or "text")
    if kind == "text":
        return ""
    if kind != "json_schema":
        return kind
    schema = (response_format or {}).get("json_schema")
    inner = schema.get("schema", schema) if isinstance(schema, Mapping) else schema
    return f"json_schema:{digest(json.dumps(inner, sort_keys=True, default=str))}"


def instructions_in(features: Features) -> tuple[str, ...]:
    """Texts in normal form that may be an instruction around the input: what stands before the first colon or line break,
    and the last line. Of three words or more; a JSON record or a `key[value]` list has none.
    """
    if features.structure in (Structure.JSON, Structure.KEY_LIST):
        return ()
    text = features.input
    found = []
    head = text[:_OPENING_CHARS]
    line_end, colon = head.find("\n"), head.find(": ")
    if features.structure is Structure.LINES:
        colon = -1  # it ends the record's first key
    cut = min((p for p in (line_end, colon) if p > 0), default=-1)
    if cut > 0:
        found.append(head[:cut])
    if line_end >= 0:
        tail = text.rstrip()[-_OPENING_CHARS:]
        if "\n" in tail:
            found.append(tail.rsplit("\n", 1)[1])
    return tuple(
        normal(tokens)
        for part in found
        if part.count(" ") + 1 >= _OPENING_MIN_WORDS and content_words(tokens := tokens_of(mask(part)))
    )


def language(features: Features) -> str:
    """The input's language, where it is running text; else undecided."""
    return UNDECIDED if features.structure in RECORDS else language_of(features.input)


def evidence_of(features: Features) -> set[str]:
    """The tokens that a split between jobs under one prompt weighs: words, pairs of words, structure and keys of the input."""
    words = [token.lower() for token in tokens_of(mask(features.input[: _READ_TOKENS * 10]))[:_READ_TOKENS]]
    found = set(words)
    found.update(f"{left} {right}" for left, right in pairwise(words))
    found.add(f"\x01structure {features.structure}")
    found.update(f"\x01key {key}" for key in features.keys)
    length = len(features.input)
    found.add(f"\x01length {length.bit_length()}")
    return found


def components(sets: Iterable[Sequence[str]]) -> dict[str, str]:
    """Names that stand together in any of the sets form one component; maps each name to the smallest of its component."""
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    for names in sets:
        for name in names:
            parent.setdefault(name, name)
        for name in names[1:]:
            a, b = root(names[0]), root(name)
            if a != b:
                parent[max(a, b)] = min(a, b)
    return {name: root(name) for name in parent}
