"""The outward shape of inputs and answers: JSON record, `key[value]` list, `key: value` lines, transcript, text; label styles.

Pure functions of text. Knows nothing of tasks, traces or requests.
"""

from __future__ import annotations

import json
import re
from enum import StrEnum
from typing import Any


class Structure(StrEnum):
    """How an input is laid out."""

    EMPTY = "empty"
    JSON = "json"
    KEY_LIST = "key_list"
    LINES = "lines"
    TRANSCRIPT = "transcript"
    WITH_JSON = "text_with_json"
    TEXT = "text"


#: structures that are data by themselves; the others are kinds of running text
RECORDS = frozenset({Structure.JSON, Structure.KEY_LIST, Structure.LINES})

_KEY_LIST = re.compile(
    r"\s*([\w][\w .-]{0,40}?)\s*(?:\[[^\[\]]*\]|=\s*(?:\"[^\"]*\"|[^\s,;=]+))\s*(?:[,;|]\s*|$)"
)
_LINE_KEY = re.compile(r"\s*[-*]?\s*\"?([^\W\d][\w ./()-]{0,40}?)\"?\s*[:=]\s*(.*)$")
_ROLES_TEXT = (
    "user assistant system human ai agent customer client bot operator caller support rep doctor "
    "patient speaker interviewer student teacher host guest"
)
_ROLES = frozenset(_ROLES_TEXT.split())
_ROLE_LINE = re.compile(r"\s*[\[*]*([A-Za-z][\w .-]{0,24}?)[\]*]*\s*:\s", re.ASCII)
_MAX_RECORD_CHARS = 200_000


def structure_of(text: str) -> tuple[Structure, tuple[str, ...]]:
    """(structure, the record's top-level keys in order; empty where it is no record)."""
    text = text.strip()
    if not text:
        return Structure.EMPTY, ()
    if text[0] in "{[" and text[-1] in "}]" and len(text) <= _MAX_RECORD_CHARS:
        keys = _json_keys(text)
        if keys is not None:
            return Structure.JSON, keys
    first, _, rest = text.partition("\n")
    if "[" in first or "=" in first:
        keys = _list_keys(text)
        if keys:
            return Structure.KEY_LIST, keys
    if ":" in first or "=" in first:
        found = _lines(text, first, rest)
        if found is not None:
            return found
    if "{" in text and text.rstrip("`\n ")[-1:] in ("}", "]") and _ends_in_json(text):
        return Structure.WITH_JSON, ()
    return Structure.TEXT, ()


def _json_keys(text: str) -> tuple[str, ...] | None:
    try:
        value: Any = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if isinstance(value, list):
        value = next((item for item in value if isinstance(item, dict)), {})
    return tuple(value) if isinstance(value, dict) else ()


def _list_keys(text: str) -> tuple[str, ...]:
    """Keys of `key[value], key[value]` or `key=value; key=value`; empty unless the whole text is such a list."""
    keys: list[str] = []
    position = 0
    while position < len(text):
        match = _KEY_LIST.match(text, position)
        if match is None:
            return ()
        keys.append(match.group(1))
        position = match.end()
    return tuple(keys) if len(keys) >= 2 or (keys and text.endswith("]")) else ()


def _lines(text: str, first: str, rest: str) -> tuple[Structure, tuple[str, ...]] | None:
    role = _ROLE_LINE.match(first + " ")
    if role is not None and role.group(1).lower().split(" ")[0].rstrip("0123456789") in _ROLES:
        return Structure.TRANSCRIPT, ()
    if not rest:
        return None
    lines = [line for line in text.splitlines()[:60] if line.strip()]
    if first.rstrip().endswith(":") and first.count(" ") >= 1:
        lines = lines[1:]  # an instruction above the data
    keyed = [match for line in lines if (match := _LINE_KEY.match(line))]
    if len(keyed) < 2 or len(keyed) < 0.8 * len(lines):
        return None
    keys = [match.group(1).strip().lower() for match in keyed]
    if len(set(keys)) <= 0.6 * len(keys) or _ROLES.issuperset(keys):
        return Structure.TRANSCRIPT, ()
    return Structure.LINES, tuple(dict.fromkeys(match.group(1).strip() for match in keyed))


def _ends_in_json(text: str) -> bool:
    text = text.rstrip("`\n ")
    for opening in ("{", "["):
        position = text.find("\n" + opening)
        start = position + 1 if position >= 0 else text.find(opening)
        if start > 0 and _json_keys(text[start:]) is not None:
            return True
    return False


# --- answers


class AnswerShape(StrEnum):
    """What an answer looks like. A label's style comes after it: `label:lower`."""

    NONE = "none"
    TOOL_CALL = "tool_call"
    JSON = "json"
    LABEL = "label"
    TEXT = "text"


_FENCE = re.compile(r"^```(?:json)?\s*(.*?)\s*```$", re.DOTALL)
_MAX_LABEL_CHARS = 80
_MAX_LABEL_WORDS = 6


def json_answer_keys(content: str) -> tuple[str, ...] | None:
    """Top-level keys of an answer that is a JSON object or array (also inside a code fence); None if it is none."""
    content = content.strip()
    fenced = _FENCE.match(content)
    if fenced:
        content = fenced.group(1)
    if content[:1] not in ("{", "["):
        return None
    return _json_keys(content)


def could_be_label(content: str) -> bool:
    """Short, one line, and no sentence: whether it really is a label shows only when it recurs."""
    content = content.strip()
    if not content or len(content) > _MAX_LABEL_CHARS or "\n" in content:
        return False
    words = content.split()
    if len(words) > _MAX_LABEL_WORDS:
        return False
    return len(words) == 1 or content[-1] not in ".!?…"


def label_style(label: str) -> str:
    """`lower` (snake, kebab, lower-case words), `camel`, `upper`, `title`, or `number`."""
    label = label.strip()
    letters = [character for character in label if character.isalpha()]
    if not letters:
        return "number"
    if len(letters) > 1 and all(character.isupper() for character in letters):
        return "upper"
    if "_" in label or "-" in label or not label[0].isupper():
        return "lower"
    if " " not in label and re.search(r"[a-z][A-Z]", label):
        return "camel"
    return "title"
