"""A task small enough to be learnt in a second: sort support tickets by department. Used by the cluster tests."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

from shoal.agents.learning.classifier import train_classifier
from shoal.agents.learning.folder import seal
from shoal.agents.learning.training import Example, TrainContext
from shoal.agents.registry.records import Task, Version, VersionState
from shoal.agents.registry.store import SqlRegistry
from shoal.agents.tasks.finder import find_tasks
from shoal.agents.traces.chat import ChatRequest
from shoal.agents.traces.trace import Trace, TraceId
from shoal.home import Home

SYSTEM = "You sort support tickets. Answer with one department: billing, technical or shipping."
_WORDS = {
    "billing": ["invoice", "refund", "charged twice", "credit card", "payment", "receipt"],
    "technical": ["crash", "error message", "does not start", "login screen", "bug", "freezes"],
    "shipping": ["parcel", "delivery", "tracking number", "courier", "arrived broken", "lost package"],
}
_FRAMES = [
    "Hello, I have a question about my {}.",
    "There is a problem: {} since yesterday.",
    "Please help me with the {}, it is urgent.",
    "My colleague reported: {}. What now?",
]


def ticket(rng: random.Random) -> tuple[str, str]:
    """A ticket's text and its department."""
    label = rng.choice(sorted(_WORDS))
    return rng.choice(_FRAMES).format(rng.choice(_WORDS[label])), label


def body(text: str, *, model: str = "auto") -> dict[str, Any]:
    """The request for a ticket."""
    return {
        "model": model,
        "temperature": 0,
        "messages": [{"role": "system", "content": SYSTEM}, {"role": "user", "content": text}],
    }


def traces(count: int = 400, seed: int = 0) -> list[Trace]:
    rng = random.Random(seed)
    found = []
    for number in range(count):
        text, label = ticket(rng)
        message = {"role": "assistant", "content": label}
        found.append(
            Trace(
                id=TraceId(f"t{number}"),
                request=body(text),
                response={"model": "m", "choices": [{"message": message, "finish_reason": "stop"}]},
                timestamp=float(number),
            )
        )
    return found


def install(home: Home, *, state: VersionState = VersionState.SERVING) -> tuple[Task, Version]:
    """Find the task, train a specialist for it and register it in `state`."""
    log = traces()
    registry = SqlRegistry(home.database)
    try:
        known = registry.tasks()
        if known:
            task = known[0]
        else:
            task = find_tasks(log, known=(), seed=0, now=time.time()).tasks[0]
            registry.put_tasks([task])
        number = registry.next_number(task.id)
        folder = f"{task.id}/{number}"
        sha256 = _train(home.models / folder, log, home.work)
        version = Version(
            task_id=task.id,
            number=number,
            kind="classifier",
            state=state,
            folder=folder,
            sha256=sha256,
            threshold=0.5,
            alpha=0.05,
            delta=0.05,
            created_at=time.time(),
        )
        registry.add_version(version)
        return task, version
    finally:
        registry.close()


def _train(folder: Path, log: list[Trace], work: Path) -> str:
    folder.mkdir(parents=True)
    examples = [
        Example(
            id=trace.id,
            request=ChatRequest(body=trace.request),
            content=trace.answer.content or "",
            group=trace.id,
        )
        for trace in log
    ]
    context = TrainContext(seed=0, seconds=10, work=work, monotonic=time.monotonic)
    train_classifier(examples[:300], examples[300:], folder, context)
    return seal(folder, {"kind": "classifier"})
