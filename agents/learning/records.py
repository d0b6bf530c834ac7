"""Records in prompts: finds the structured data in a text and reads it as a flat list of leaves.

Owns the forms that count as a record: JSON (whole, or embedded in a longer text), `key[value], key[value]`,
`key: value` (on lines or separated by commas), `key=value`. Pure; knows nothing of models or what the leaves mean.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

Scalar: TypeAlias = str | int | float | bool | None

#: places in a text where a JSON value is tried before giving up
_MAX_JSON_STARTS = 64
# bounded and anchored at a word's start, so that one endless word costs no more than any other text
_WORD_KEY = r"(?<![\w./-])[A-Za-z_][\w./-]{0,60}"
_KEY = rf"{_WORD_KEY}(?: [A-Za-z_][\w./-]{{0,60}}){{0,3}}"
_BRACKET = re.compile(rf"({_KEY})\[([^\[\]]*)\]")
_LINE = re.compile(rf"^[ \t]*(?:[-*•] )?({_KEY})[ \t]*:[ \t]+(\S.*?)[ \t]*$")
_INLINE_COLON = re.compile(rf"(?:^|[,;|] ?)({_KEY}): ")
_EQUALS = re.compile(rf"(?:^|[\s,;|&])({_WORD_KEY}) ?= ?")
_INTEGER = re.compile(r"[+-]?(?:0|[1-9]\d{0,17})")
_DECIMAL = re.compile(r"[+-]?(?:0|[1-9]\d*)?\.\d+")
_INDEX = re.compile(r"\[\d+\]")


@dataclass(frozen=True, slots=True)
class Leaf:
    """One value of a record.

    Attributes:
        path: keys joined by dots, list positions in brackets: `actions[0].values[1]`.
        value: the scalar. An empty list or object counts as None. In forms other than JSON, plain numbers, `true`
            and `false` are read as such and everything else is a string.
        text: the value as the prompt writes it, without quotes and escapes (`12.50` where `value` is 12.5).
    """

    path: str
    value: Scalar
    text: str


@dataclass(frozen=True, slots=True)
class Found:
    """A record and the text around it."""

    leaves: list[Leaf]
    before: str
    after: str


def general_path(path: str) -> str:
    """The path with its list positions left out: `actions[].values[]`."""
    return _INDEX.sub("[]", path)


def parse_record(text: str) -> list[Leaf] | None:
    """The leaves, in order, of the record that `text` is or contains; None where it holds none."""
    found = find_record(text)
    return None if found is None else found.leaves


def find_record(text: str) -> Found | None:
    """The record that `text` is or contains, with the text before and after it. Forms are tried in a fixed order."""
    for reader in (_json, _brackets, _lines, _inline_colons, _equals):
        found = reader(text)
        if found is not None and found.leaves:
            return found
    return None


@dataclass(frozen=True, slots=True)
class _Number:
    value: int | float
    text: str


def _read_int(text: str) -> _Number:
    # Python refuses to read integers of thousands of digits: a value of such a length is kept as a float
    return _Number(int(text) if len(text) < 1000 else float(text), text)


def _refuse(text: str) -> Any:
    raise ValueError(text)


_DECODER = json.JSONDecoder(
    parse_int=_read_int, parse_float=lambda t: _Number(float(t), t), parse_constant=_refuse
)


def _json(text: str) -> Found | None:
    best: tuple[int, int, Any] | None = None
    whole = text.strip()
    end = 0
    for tries, start in enumerate(m.start() for m in re.finditer(r"[{\[]", text)):
        if tries >= _MAX_JSON_STARTS:
            break
        if start < end:
            continue
        try:
            value, stop = _DECODER.raw_decode(text, start)
        except (ValueError, RecursionError):
            continue
        end = stop
        if not value:
            continue
        # a list within prose is more often a footnote than data
        listed = isinstance(value, list)
        if listed and stop - start != len(whole) and not all(isinstance(v, dict) for v in value):
            continue
        if best is None or stop - start > best[1] - best[0]:
            best = (start, stop, value)
    if best is None:
        return None
    start, stop, value = best
    return Found(list(_flatten("", value)), text[:start].strip(), text[stop:].strip())


def _flatten(path: str, value: Any) -> Iterator[Leaf]:
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _flatten(f"{path}.{key}" if path else str(key), item)
    elif isinstance(value, list) and value:
        for position, item in enumerate(value):
            yield from _flatten(f"{path}[{position}]", item)
    elif isinstance(value, _Number):
        yield Leaf(path, value.value, value.text)
    elif isinstance(value, bool):
        yield Leaf(path, value, "true" if value else "false")
    elif isinstance(value, str):
        yield Leaf(path, value, value)
    else:
        yield Leaf(path, None, "null")


def _leaf(key: str, text: str) -> Leaf:
    text = text.strip()
    if len(text) >= 2 and text[0] == text[-1] and text[0] in "\"'":
        return Leaf(key, text[1:-1], text[1:-1])
    value: Scalar = text
    if _INTEGER.fullmatch(text):
        value = int(text)
    elif _DECIMAL.fullmatch(text):
        value = float(text)
    elif text.lower() in ("true", "false"):
        value = text.lower() == "true"
    return Leaf(key, value, text)


def _numbered(pairs: list[tuple[str, str]]) -> list[Leaf]:
    """Keys that come more than once get a position, like a list's."""
    keys = [key for key, _ in pairs]
    seen: dict[str, int] = {}
    leaves = []
    for key, text in pairs:
        path = key
        if keys.count(key) > 1:
            path = f"{key}[{seen.get(key, 0)}]"
            seen[key] = seen.get(key, 0) + 1
        leaves.append(_leaf(path, text))
    return leaves


def _brackets(text: str) -> Found | None:
    matches = list(_BRACKET.finditer(text))
    # a single pair within prose is more likely code than data
    if not matches or (len(matches) == 1 and matches[0][0] != text.strip()):
        return None
    between = [text[a.end() : b.start()] for a, b in itertools.pairwise(matches)]
    if any(gap.strip(" ,;|\n\t") for gap in between):
        return None
    leaves = _numbered([(m[1], m[2]) for m in matches])
    return Found(leaves, text[: matches[0].start()].strip(), text[matches[-1].end() :].strip())


def _lines(text: str) -> Found | None:
    """The longest run of at least two `key: value` lines whose keys differ (a dialogue's `user:` lines do not)."""
    lines = text.split("\n")
    best: tuple[int, int] = (0, 0)
    start = 0
    matches = [_LINE.match(line) for line in lines]
    for stop in range(len(lines) + 1):
        if stop == len(lines) or matches[stop] is None:
            if stop - start > best[1] - best[0]:
                best = (start, stop)
            start = stop + 1
    pairs = [(m[1], m[2]) for m in matches[best[0] : best[1]] if m]
    if len(pairs) < 2 or len({key for key, _ in pairs}) < len(pairs):
        return None
    before, after = "\n".join(lines[: best[0]]).strip(), "\n".join(lines[best[1] :]).strip()
    return Found([_leaf(key, value) for key, value in pairs], before, after)


def _split_pairs(text: str, marks: list[re.Match[str]]) -> list[tuple[str, str]]:
    ends = [m.start() for m in marks[1:]] + [len(text)]
    return [(m[1], text[m.end() : end].strip(" ,;|&\t\n")) for m, end in zip(marks, ends, strict=True)]


def _inline_colons(text: str) -> Found | None:
    """One line `key: value, key: value`; at least two pairs with different keys, each with a value."""
    if "\n" in text.strip():
        return None
    return _inline(text, list(_INLINE_COLON.finditer(text)), whole=True)


def _equals(text: str) -> Found | None:
    return _inline(text, list(_EQUALS.finditer(text)), whole=False)


def _inline(text: str, marks: list[re.Match[str]], *, whole: bool) -> Found | None:
    if len(marks) < 2 or (whole and text[: marks[0].start()].strip()):
        return None
    pairs = _split_pairs(text, marks)
    if any(not value for _, value in pairs) or len({key for key, _ in pairs}) < len(pairs):
        return None
    return Found([_leaf(key, value) for key, value in pairs], text[: marks[0].start()].strip(), "")
