"""Seeded questions of an analyst: a period, a grouping, perhaps one region or product alone, a tone and a language.

Owns the ways of asking. Must not know what a good plan is: neither the stand-in's rules nor the evaluation's are imported here.
"""

from __future__ import annotations

import random
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from shoal.examples.sales_report.database import PRODUCTS, REGIONS

TONES: Final = ("formal", "casual")
LANGUAGES: Final = ("English", "German")
PERIODS: Final = ("last quarter", "this quarter", "last year", "Q1 2025", "Q2 2025", "Q4 2024")
_OPENERS: Final = (
    "Analyze {period} sales data and highlight key trends by {by}{only}.{style}",
    "Show me the main sales trends by {by}{only} for {period}.{style}",
    "What drove sales by {by}{only} in {period}?{style}",
    "Break down sales by {by}{only}, {period}, and tell me what is behind them.{style}",
    "I need a sales report by {by}{only} for {period}.{style}",
)
_STYLES: Final = {
    ("formal", "English"): ("", " Formal English, please.", " It goes to the board."),
    ("casual", "English"): (" Keep it casual.", " A casual tone is fine.", " Casual, for the team chat."),
    ("formal", "German"): (" Write it in German.", " In German, for the board.", " Formal German, please."),
    ("casual", "German"): (
        " Casual and in German, please.",
        " In German, and keep it casual.",
        " Casual German.",
    ),
}


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, and the tone and language that it asks for."""

    text: str
    tone: str
    language: str


def questions(count: int, *, seed: int, exclude: Collection[str] = ()) -> list[Question]:
    """`count` different questions, none of whose texts is in `exclude`."""
    rng = random.Random(f"questions:{seed}")
    taken = set(exclude)
    found: list[Question] = []
    while len(found) < count:
        tone, language = rng.choice(TONES), rng.choice(LANGUAGES)
        by = rng.choice(("region", "product"))
        only = ""
        if rng.random() < 0.5:
            only = f" for {rng.choice(PRODUCTS)}" if by == "region" else f" in {rng.choice(REGIONS)}"
        opener = rng.choice(_OPENERS)
        period = rng.choice(PERIODS)
        if "{period} sales" in opener and not period.startswith("Q"):
            period += "'s"
        text = opener.format(period=period, by=by, only=only, style=rng.choice(_STYLES[tone, language]))
        if text not in taken:
            taken.add(text)
            found.append(Question(text, tone, language))
    return found
