"""Short names for tasks: slugs of the most telling words of a prompt template. Pure."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Sequence

from shoal.agents.tasks.template import content_words

MAX_NAME = 40
_MAX_WORDS = 4
#: words that many prompts have and that name no job
_DULL_TEXT = (
    "user users conversation message messages text line json format word words name names list field "
    "fields sentence short brief natural turn fit fits fitting want wants wanted say says state "
    "states describe describes call calls today help current time date policy rules rule style tone "
    "language english must provide provided agent expert bot called like item items single plain only "
    "data information info object value values key keys general well good clear don some know need "
    "looking find get hello thank thanks yes way"
)
DULL = frozenset(_DULL_TEXT.split())
SLUG = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")


def slug(words: Iterable[str]) -> str:
    """Lower-case words joined by hyphens, at most 40 characters, cut between words."""
    text = ""
    for word in words:
        plain = unicodedata.normalize("NFKD", word).encode("ascii", "ignore").decode().lower()
        plain = re.sub(r"[^a-z0-9_]+", "-", plain).strip("-_")
        if not plain:
            continue
        longer = f"{text}-{plain}" if text else plain[:MAX_NAME]
        if len(longer) > MAX_NAME:
            break
        text = longer
    return text


def telling_words(tokens: Sequence[str], elsewhere: Counter[str], count: int = _MAX_WORDS) -> list[str]:
    """The words of a template that say most about it, in their order: rare in other templates, early, and no filler."""
    seen: dict[str, int] = {}
    for position, word in enumerate(content_words(tokens)):
        seen.setdefault(word.lower(), position)
    if not seen:
        return []

    def score(word: str) -> float:
        dull = 0.2 if word in DULL else 1.0
        early = 1.0 / (1.0 + seen[word] / 20.0)
        short = 0.5 if len(word) <= 3 else 1.0
        return dull * short * early / (1.0 + elsewhere[word])

    best = sorted(seen, key=lambda word: (-score(word), seen[word]))[:count]
    return sorted(best, key=lambda word: seen[word])


def unique(name: str, taken: Collection[str]) -> str:
    """The name, with a number behind it if it is taken."""
    if name not in taken:
        return name
    number = 2
    while (numbered := f"{name[: MAX_NAME - len(str(number)) - 1]}-{number}") in taken:
        number += 1
    return numbered
