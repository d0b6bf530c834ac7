"""Small synthetic logs of several kinds, made with a seed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import count
from random import Random
from typing import Any

import pytest

from shoal.agents.traces.trace import Trace, TraceId

NAMES = [
    "Alice",
    "Bob",
    "Chidi",
    "Dana",
    "Emre",
    "Farah",
    "Goran",
    "Hana",
    "Ines",
    "Jonas",
    "Kaito",
    "Lena",
    "Marek",
    "Nadia",
    "Oskar",
    "Priya",
]
ITEMS = [
    "kettle",
    "lamp",
    "jacket",
    "headphones",
    "bicycle",
    "tent",
    "mirror",
    "printer",
    "blender",
    "chair",
    "backpack",
    "watch",
]
ISSUES = {
    "late_delivery": "has not arrived yet although it was promised for",
    "broken_item": "came out of the parcel broken on",
    "wrong_item": "is not the one that I ordered on",
    "refund_request": "goes back and I want my money for the order of",
}
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]


class Log:
    """Makes traces with ids that count up."""

    def __init__(self, seed: int = 0) -> None:
        self.random = Random(seed)
        self._number = count()

    def trace(
        self,
        system: str,
        user: str,
        answer: str | None,
        *,
        calls: Sequence[Mapping[str, Any]] = (),
        conversation: str | None = None,
        **settings: Any,
    ) -> Trace:
        number = next(self._number)
        messages = [{"role": "system", "content": system}] if system else []
        request: dict[str, Any] = {
            "model": "large",
            "messages": [*messages, {"role": "user", "content": user}],
        }
        request.update(settings)
        if conversation is not None:
            request["metadata"] = {"conversation_id": conversation}
        message: dict[str, Any] = {"role": "assistant", "content": answer}
        if calls:
            message["tool_calls"] = list(calls)
        return Trace(
            id=TraceId(f"trace-{number:05}"),
            request=request,
            response={"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]},
            timestamp=1_700_000_000.0 + number,
        )

    def complaint(self) -> tuple[str, str]:
        """A customer's sentence and the label of its issue."""
        label = self.random.choice(sorted(ISSUES))
        text = f"My {self.random.choice(ITEMS)} {ISSUES[label]} {self.random.choice(DAYS)}"
        return f"{text}, order {self.random.randrange(10_000)}", label

    def film(self) -> tuple[str, str]:
        """A sentence about a film and its label in another style."""
        label = self.random.choice(["FindMovies", "BuyMovieTickets", "GetShowTimes"])
        what = {
            "FindMovies": "Which good comedies are on in the cinema",
            "BuyMovieTickets": "Please reserve two seats for the film",
            "GetShowTimes": "When does the documentary start",
        }[label]
        return f"{what} {self.random.choice(DAYS)} evening, {self.random.choice(NAMES)}?", label

    def record(self) -> tuple[str, str]:
        """A JSON record of sales and a sentence about it."""
        region = self.random.choice(["EMEA", "APAC", "LATAM", "Nordics"])
        growth = self.random.randrange(1, 40)
        driver = f"{self.random.choice(ITEMS)} sales"
        record = {"region": region, "growth": growth, "driver": driver}
        return json.dumps(record), f"In {region}, revenue rose by {growth}%, driven by {driver}."


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def shuffled() -> Callable[[Iterable[Trace]], list[Trace]]:
    """The traces in an order that no test relies on, but that is the same each time."""

    def shuffle(traces: Iterable[Trace]) -> list[Trace]:
        mixed = list(traces)
        Random(7).shuffle(mixed)
        return mixed

    return shuffle
