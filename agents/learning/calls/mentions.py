"""Finds in a conversation the values that an argument could take: dates, times, numbers, names and other spans, results. Pure.

A mention is one place of one value. A date or a time has readings instead of a value; which is meant is learnt (`normal.py`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from functools import lru_cache

from shoal.agents.learning.calls.turns import Conversation, Turn
from shoal.agents.learning.calls.when import dates_in, times_in, today_in
from shoal.agents.learning.forms import NUMBER_WORDS

DATE, TIME, NUMBER, SPAN, LEAF = "date", "time", "number", "span", "leaf"

WORD = re.compile(
    r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+|[$€£]?\d[\d.,]*\d(?![^\W\d])|['’]s\b|[^\W_]+(?:(?!['’]s\b)[@'’&/+-][^\W_]+|_[^\W_]+)*|[^\w\s]"
)
_NUMBERS = {name: str(n) for n, name in enumerate(NUMBER_WORDS)} | {
    "a": "1",
    "an": "1",
    "single": "1",
    "couple": "2",
    "both": "2",
    "myself": "1",
    "alone": "1",
    "just me": "1",
}
#: small words that may stand inside a name
_INSIDE = frozenset(
    [
        "of",
        "the",
        "and",
        "&",
        "at",
        "in",
        "on",
        "for",
        "to",
        "a",
        "an",
        "vs",
        "de",
        "la",
        "del",
        "el",
        "von",
        "-",
        ":",
        "'",
        "'s",
        ".",
        ",",
        "/",
        "#",
        "!",
    ]
)
#: turns that are read: the newest
_TURNS = 40
_MOST_RUN = 12
_MOST_SPAN = 10
#: runs of words up to this length are looked up
GRAM = 4


@dataclass(frozen=True, slots=True)
class Token:
    text: str
    low: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Mention:
    """Where a value stands.

    Attributes:
        kind: `DATE`, `TIME`, `NUMBER`, `SPAN` (words of a turn) or `LEAF` (a value of a result or an earlier call).
        surface: the words as they stand, or the leaf as text.
        turn: place in the conversation.
        first, last: tokens of the turn, the last one not included; both 0 for a leaf.
        form, readings: for dates and times.
        key: the leaf's name, with the function for a call's: `get_user.user_id`.
        order: the leaf's place among those of its result.
        inner: the capitalised run that a span is cut from has more words than it.
    """

    kind: str
    surface: str
    turn: int
    first: int = 0
    last: int = 0
    form: str = ""
    readings: Mapping[str, str] = field(default_factory=dict)
    key: str = ""
    order: int = 0
    inner: bool = False


@dataclass(frozen=True, slots=True)
class Read:
    """A conversation with its tokens and mentions."""

    conversation: Conversation
    tokens: tuple[tuple[Token, ...], ...]
    mentions: tuple[Mention, ...]
    today: date | None
    #: lower-case runs of up to `GRAM` tokens -> (turn, first token) of each place, oldest first
    grams: Mapping[str, list[tuple[int, int]]] = field(default_factory=dict)

    def places(self, words: tuple[str, ...]) -> list[tuple[int, int]]:
        """Where these lower-case tokens stand, oldest first."""
        found = self.grams.get(" ".join(words[:GRAM]), [])
        if len(words) <= GRAM:
            return found
        long = len(words)
        return [(t, n) for t, n in found if tuple(k.low for k in self.tokens[t][n : n + long]) == words]


def read(conversation: Conversation) -> Read:
    """All mentions, oldest turn first."""
    turns = conversation.turns
    today = today_in(conversation.system)
    tokens: list[tuple[Token, ...]] = []
    mentions: list[Mention] = []
    first = max(0, len(turns) - _TURNS)
    for place, turn in enumerate(turns):
        if place < first:
            tokens.append(())
        elif turn.leaves or turn.role == "call":
            tokens.append(())
            mentions.extend(_leaves(turn, place))
        else:
            own, found = _text(turn.text, place, today)
            tokens.append(own)
            mentions.extend(found)
    grams: dict[str, list[tuple[int, int]]] = {}
    for place, own in enumerate(tokens):
        low = [t.low for t in own]
        for n in range(len(low)):
            for end in range(n + 1, min(len(low), n + GRAM) + 1):
                grams.setdefault(" ".join(low[n:end]), []).append((place, n))
    return Read(conversation, tuple(tokens), tuple(mentions), today, grams)


@lru_cache(maxsize=20_000)
def words_of(value: str) -> tuple[str, ...]:
    """A value's lower-case tokens."""
    return tuple(t.low for t in tokens_of(value))


def tokens_of(text: str) -> Iterator[Token]:
    """Words, numbers and marks of a text."""
    for found in WORD.finditer(text):
        yield Token(found[0], found[0].lower(), found.start(), found.end())


def _leaves(turn: Turn, place: int) -> Iterator[Mention]:
    for leaf in turn.leaves:
        if isinstance(leaf.value, bool):
            continue
        key = f"{turn.text}.{leaf.key}" if turn.text else leaf.key
        yield Mention(LEAF, str(leaf.value), place, key=key, order=leaf.order)


@lru_cache(maxsize=4096)
def _text(text: str, place: int, today: date | None) -> tuple[tuple[Token, ...], tuple[Mention, ...]]:
    """A turn's tokens and mentions. Remembered: the next call of a conversation begins with the same turns."""
    tokens = tuple(tokens_of(text))
    return tokens, tuple(_in_text(text, place, tokens, today))


def _in_text(text: str, place: int, tokens: tuple[Token, ...], today: date | None) -> Iterator[Mention]:
    starts = {t.start: n for n, t in enumerate(tokens)}
    taken: set[int] = set()
    for kind, found in (
        *((DATE, e) for e in dates_in(text, today)),
        *((TIME, e) for e in times_in(text)),
    ):
        first = starts.get(found.start)
        if first is None:
            first = next((n for n, t in enumerate(tokens) if t.end > found.start), len(tokens))
        last = first
        while last < len(tokens) and tokens[last].start < found.end:
            last += 1
        taken.update(range(first, last))
        surface = text[found.start : found.end]
        yield Mention(kind, surface, place, first, last, found.form, found.readings)
    for n, token in enumerate(tokens):
        value = _NUMBERS.get(token.low) or _number(token.text)
        if value is not None and n not in taken:
            yield Mention(NUMBER, value, place, n, n + 1, form=token.low if token.low in _NUMBERS else "")
    yield from _spans(text, place, tokens)


def _number(text: str) -> str | None:
    bare = text.lstrip("$€£#").replace(",", "")
    try:
        value = float(bare)
    except ValueError:
        return None
    return (
        bare
        if value == value and abs(value) < 1e15 and "e" not in bare.lower() and "n" not in bare.lower()
        else None
    )


def _names(token: Token) -> bool:
    text = token.text
    return text[0].isupper() or any(c.isdigit() for c in text) or "@" in text or "_" in text


def _spans(text: str, place: int, tokens: tuple[Token, ...]) -> Iterator[Mention]:
    """Parts of capitalised runs, tokens with figures, and what stands in quotes; and short runs of plain words."""
    for begin, end in _runs(tokens):
        for first in range(begin, end):
            if not _names(tokens[first]):
                continue
            for last in range(first + 1, min(end, first + _MOST_SPAN) + 1):
                if tokens[last - 1].low in _INSIDE and tokens[last - 1].text not in ("!", ".", "'s"):
                    continue
                inner = first > begin or last < end
                yield _span(text, place, tokens, first, last, inner)


def _runs(tokens: tuple[Token, ...]) -> Iterator[tuple[int, int]]:
    """Capitalised runs: up to two small words may stand between their names."""
    n = 0
    while n < len(tokens):
        if not _names(tokens[n]):
            n += 1
            continue
        end = n + 1
        at, small = end, 0
        while at < len(tokens) and at - n < _MOST_RUN:
            if _names(tokens[at]):
                small, end = 0, at + 1
            elif tokens[at].low in _INSIDE and small < 2:
                small += 1
            else:
                break
            at += 1
        if end < len(tokens) and tokens[end].text in "!." and end - n < _MOST_RUN:
            # a name may end so: "Shazam!", "Mr."
            end += 1
        yield n, end
        n = end


def _span(text: str, place: int, tokens: tuple[Token, ...], first: int, last: int, inner: bool) -> Mention:
    return Mention(SPAN, text[tokens[first].start : tokens[last - 1].end], place, first, last, inner=inner)


_RUN = re.compile(r"[^\W_]+|[\W_]")


@lru_cache(maxsize=20_000)
def shape_of(text: str) -> str:
    """A value's outline: `Aa` for a word, `X0` for an id of capitals and figures, marks as they are."""
    return "".join(map(_kind, _RUN.findall(text[:48])))


def _kind(run: str) -> str:
    if run.isdigit():
        return "0"
    if any(c.isdigit() for c in run):
        return "X0" if run.isupper() else "x0"
    if not run.isalpha():
        return run
    return "A" if run.isupper() and len(run) > 1 else "Aa" if run[0].isupper() else "a"
