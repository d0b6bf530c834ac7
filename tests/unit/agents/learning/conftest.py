"""Label tasks that tests make up: closed labels that follow from words, or from the figures of a record. Fixture: `made`."""

from __future__ import annotations

import json
import random
from types import SimpleNamespace
from typing import Any

import pytest

from shoal.agents.learning.training import Example
from shoal.agents.traces.chat import ChatRequest

TOPICS = {
    "card_lost": ("lost", "card", "wallet", "gone", "missing"),
    "transfer_late": ("transfer", "late", "arrive", "waiting", "money"),
    "pin_change": ("pin", "change", "new", "code", "set"),
    "fee_question": ("fee", "charged", "why", "extra", "cost"),
}
_FILLER = ("please", "hello", "my", "the", "a", "is", "help", "today", "with", "about", "i", "need")


def request(text: str, *, system: str = "Name the intent.", conversation: str | None = None) -> ChatRequest:
    body: dict[str, Any] = {
        "messages": [{"role": "system", "content": system}, {"role": "user", "content": text}]
    }
    if conversation is not None:
        body["metadata"] = {"conversation_id": conversation}
    return ChatRequest(body=body)


def sentence(rng: random.Random, label: str) -> str:
    words = rng.sample(TOPICS[label], 3) + rng.sample(_FILLER, 4)
    rng.shuffle(words)
    return " ".join(words)


def label_examples(
    count: int, *, seed: int = 0, noise: float = 0.0, system: str = "Name the intent."
) -> list[Example]:
    """Texts whose words give the label; `noise` of the labels are drawn at random."""
    rng = random.Random(seed)
    out = []
    for i in range(count):
        label = rng.choice(list(TOPICS))
        said = rng.choice(list(TOPICS)) if rng.random() < noise else label
        out.append(
            Example(
                id=f"{seed}-{i}",
                request=request(sentence(rng, label), system=system),
                content=said,
                group=f"{seed}-{i}",
            )
        )
    return out


def machine(
    rng: random.Random, *, sites: tuple[str, ...] = ("north", "south", "east", "west")
) -> dict[str, Any]:
    return {
        "site": rng.choice(sites),
        "serial": f"SN{rng.randrange(10**6)}",
        "temp_c": round(rng.uniform(-10, 90), 1),
        "pressure": round(rng.uniform(0.5, 9), 2),
        "vibration": round(rng.expovariate(1 / 3), 2),
        "hours": rng.randint(0, 9000),
        "alarm": rng.random() < 0.3,
    }


def triage(record: dict[str, Any]) -> dict[str, str]:
    """A rule over several thresholds."""
    if record["temp_c"] > 70 or record["pressure"] > 7.5:
        return {"severity": "critical", "team": "mechanics"}
    if record["vibration"] > 5:
        return {"severity": "major", "team": "mechanics"}
    if record["alarm"] and record["hours"] > 6000:
        return {"severity": "major", "team": "service"}
    if record["hours"] > 6000:
        return {"severity": "minor", "team": "service"}
    return {"severity": "none", "team": "none"}


def record_examples(
    count: int, *, seed: int = 0, sites: tuple[str, ...] = ("north", "south", "east", "west")
) -> list[Example]:
    rng = random.Random(seed)
    out = []
    for i in range(count):
        record = machine(rng, sites=sites)
        answer = triage(record)
        # the generalist is not always consistent in how it writes JSON
        content = (
            json.dumps(answer) if rng.random() < 0.8 else json.dumps(dict(reversed(answer.items())), indent=1)
        )
        asked = request(json.dumps(record), system="Triage the machine.")
        out.append(Example(id=f"{seed}-{i}", request=asked, content=content, group=f"{seed}-{i}"))
    return out


@pytest.fixture
def made() -> SimpleNamespace:
    return SimpleNamespace(
        TOPICS=TOPICS,
        request=request,
        sentence=sentence,
        label_examples=label_examples,
        record_examples=record_examples,
    )
