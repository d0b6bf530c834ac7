"""Templates: what stays the same in a family of prompts, against what varies.

A template is a list of runs of tokens that occur in this order, with anything (or nothing) between them. Owns masking,
tokens, alignment and the test whether a prompt fits. Knows nothing of requests or tasks.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_MONTHS = r"(?:jan|feb|mar|apr|may|jun|jul|aug|sep|sept|oct|nov|dec)[a-z]*\.?"
_MASKED = re.compile(
    r"(?P<uuid>\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b)"
    r"|(?P<url>\bhttps?://[^\s)>\]\"']+)"
    r"|(?P<email>\b[\w.+-]+@[\w-]+\.[\w.-]+\b)"
    r"|(?P<date>\b\d{4}-\d{2}-\d{2}(?:[T ]\d{2}:\d{2}(?::\d{2}(?:\.\d+)?)?(?:Z|[+-]\d{2}:?\d{2})?)?\b"
    r"|\b\d{1,2}[./]\d{1,2}[./]\d{2,4}\b"
    rf"|\b{_MONTHS}\s+\d{{1,2}}(?:st|nd|rd|th)?(?:,?\s+\d{{4}})?\b"
    rf"|\b\d{{1,2}}(?:st|nd|rd|th|\.)?\s+{_MONTHS}(?:,?\s+\d{{4}})?\b)"
    r"|(?P<time>\b\d{1,2}:\d{2}(?::\d{2})?(?:\s?[ap]m)?\b)"
    r"|(?P<id>\b(?=[0-9a-f]*\d)[0-9a-f]{12,}\b|\b(?=[a-z]*\d)(?=\d*[a-z])[a-z0-9]{16,}\b)"
    r"|(?P<n>\d+(?:[.,]\d+)*)",
    re.IGNORECASE,
)
_WORTH_MASKING = re.compile(r"\d|@|://")
_TOKEN = re.compile(r"<(?:uuid|url|email|phone|card|iban|ip|date|time|id|n)>|\w+|[^\w\s]")

#: runs shorter than this are chance, unless they stand at the very start or end
_MIN_RUN = 3
#: of long prompts, this many tokens of either end are aligned
_ALIGNED_TOKENS = 400
_GAP = "\x00"

_STOP_WORDS_TEXT = (
    "a an the and or but of to in on at for from by with without about as is are be been was were it "
    "its this that these those there here you your yours i me my we our us they them their he she his "
    "her who what which when where why how will would can could should shall may might must do does "
    "did done not no nor only just if then than so such any all each every one two other into out up "
    "down over under again more most very own same too also please helpful assistant ai model task "
    "given following answer answers respond response reply output input return always never make sure "
    "based using use either nothing else exactly now yet far"
)
STOP_WORDS = frozenset(_STOP_WORDS_TEXT.split())


def mask(text: str) -> str:
    """The text with dates, times, numbers, addresses and ids replaced by `<kind>`."""
    if _WORTH_MASKING.search(text) is None:
        return text
    return _MASKED.sub(lambda match: f"<{match.lastgroup}>", text)


def tokens_of(masked: str) -> list[str]:
    """Words, masks and punctuation marks."""
    return _TOKEN.findall(masked)


def normal(tokens: Sequence[str]) -> str:
    """Tokens joined by single spaces, with one at either end: the form that templates search."""
    return f" {' '.join(tokens)} "


def content_words(tokens: Sequence[str]) -> list[str]:
    """Tokens that say something: no mark, no mask, no function word."""
    return [t for t in tokens if t.lower() not in STOP_WORDS and len(t) > 1 and t[0].isalpha()]


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """Runs of tokens in their order.

    Attributes:
        runs: each in normal form (`" You watch a conversation with "`).
        starts: the first run stands at the prompt's start.
        ends: the last run stands at its end.
    """

    runs: tuple[str, ...]
    starts: bool = True
    ends: bool = True

    @property
    def size(self) -> int:
        """Tokens that stay the same."""
        return sum(run.count(" ") - 1 for run in self.runs)

    @property
    def tokens(self) -> list[str]:
        """Fixed tokens, without gaps."""
        return [token for run in self.runs for token in run.split()]

    def fits(self, text: str) -> bool:
        """Whether a text in normal form has these runs in this order."""
        if not self.runs:
            return False
        if self.starts and not text.startswith(self.runs[0]):
            return False
        if self.ends and not text.endswith(self.runs[-1]):
            return False
        last = len(self.runs) - 1
        if last == 0 and self.starts and self.ends:
            return text == self.runs[0]
        position = 0
        for number, run in enumerate(self.runs):
            if number == last and self.ends:
                return len(text) - len(run) >= position
            found = 0 if number == 0 and self.starts else text.find(run, position)
            if found < 0:
                return False
            position = found + len(run) - 1
        return True

    def shown(self) -> str:
        """For people: the runs with `…` for what varies."""
        text = "…".join(untokenised(run.split()) for run in self.runs)
        return ("" if self.starts else "…") + text + ("" if self.ends else "…")

    def fillers(self, text: str) -> str:
        """What a text that fits has in its gaps, joined by spaces."""
        rest: list[str] = []
        position = 0
        for run in self.runs:
            found = text.find(run, position)
            if found < 0:
                break
            rest.append(text[position:found])
            position = found + len(run) - 1
        rest.append(text[position:])
        return " ".join(" ".join(rest).split())

    def to_dict(self) -> dict[str, Any]:
        return {"runs": list(self.runs), "starts": self.starts, "ends": self.ends}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Template:
        return cls(runs=tuple(data["runs"]), starts=bool(data["starts"]), ends=bool(data["ends"]))

    @classmethod
    def exact(cls, tokens: Sequence[str]) -> Template:
        """The template that only this prompt fits."""
        return cls(runs=(normal(tokens),))

    def generalised(self, tokens: Sequence[str]) -> Template:
        """The longest runs that this template and a prompt have in common, in order."""
        mine: list[str] = [] if self.starts else [_GAP]
        for number, run in enumerate(self.runs):
            mine.extend(([_GAP] if number else []) + run.split())
        mine.extend([] if self.ends else [_GAP])
        return _aligned(mine, list(tokens))


def _ends_only(tokens: list[str]) -> list[str]:
    if len(tokens) <= 2 * _ALIGNED_TOKENS:
        return tokens
    return [*tokens[:_ALIGNED_TOKENS], _GAP, *tokens[-_ALIGNED_TOKENS:]]


def _aligned(left: list[str], right: list[str]) -> Template:
    left, right = _ends_only(left), _ends_only(right)
    # two texts that are cut in their middle must not agree on the cut
    right = [token if token != _GAP else _GAP * 2 for token in right]
    blocks = difflib.SequenceMatcher(None, left, right, autojunk=False).get_matching_blocks()
    runs: list[str] = []
    starts = ends = False
    previous = (0, 0)
    for a, b, size in blocks:
        at_start = a == 0 and b == 0
        at_end = a + size == len(left) and b + size == len(right)
        if size == 0 or (size < _MIN_RUN and not at_start and not at_end):
            continue
        adjoins = bool(runs) and previous == (a, b)
        run = normal(left[a : a + size])
        if adjoins:
            runs[-1] = runs[-1] + run[1:]
        else:
            runs.append(run)
        previous = (a + size, b + size)
        starts = starts or at_start
        ends = ends or at_end
    return Template(runs=tuple(runs), starts=starts, ends=ends)


_CLOSING = frozenset(".,;:!?)]}%")
_TIGHT = frozenset("/-_'’")


def untokenised(tokens: Sequence[str]) -> str:
    """Tokens as a person would write them."""
    text = ""
    glue = True
    for token in tokens:
        if glue or token in _CLOSING or token in _TIGHT:
            text += token
        else:
            text += " " + token
        glue = token in _TIGHT or token in ("(", "[", "{")
    return text
