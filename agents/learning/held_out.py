"""Puts held-out calls to a loaded specialist and judges what comes back. Knows no kind of model."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from shoal.agents.contract.gate import HeldOut, chrf
from shoal.agents.contract.loss import SlotChecker, judge
from shoal.agents.learning.slots import SlotRules
from shoal.agents.learning.text_features import Reading, Vocabulary, encode_all
from shoal.agents.learning.training import Example
from shoal.agents.ports import Engine, SpecialistAnswer
from shoal.agents.registry.records import OutputKind
from shoal.errors import CorruptModel

#: requests that are put to an engine at once
BATCH = 64
_SLOTS = "slots.json"
MOST_NEIGHBOURS = 20_000


def answers_of(
    engine: Engine, examples: Sequence[Example], stopped: Callable[[], bool] = lambda: False
) -> list[SpecialistAnswer]:
    """The specialist's own answers. Raises KeyboardInterrupt where `stopped` says so between two batches."""
    out: list[SpecialistAnswer] = []
    for start in range(0, len(examples), BATCH):
        if stopped():
            raise KeyboardInterrupt
        out.extend(engine.answer([e.request for e in examples[start : start + BATCH]]))
    return out


def judged(
    loss: OutputKind,
    examples: Sequence[Example],
    answers: Sequence[SpecialistAnswer],
    *,
    calling: frozenset[str],
    slots: SlotChecker | None = None,
    floors: Sequence[str] | None = None,
) -> list[HeldOut]:
    """Each answer's verdict. `calling`: ids of calls that a function call should have answered. `floors`: for texts, the
    answer of the most similar training call."""
    out = []
    for i, (example, answer) in enumerate(zip(examples, answers, strict=True)):
        given = answer.content or ""
        if answer.content is None or example.id in calling:
            wrong = True
        else:
            wrong = judge(loss, example.request, given, example.content, slots=slots).wrong
        floor = None if floors is None else floors[i]
        floor_wrong = None
        if floor is not None:
            # of a function call both are the canonical form
            floor_wrong = (
                floor != example.content
                if example.id in calling
                else judge(loss, example.request, floor, example.content, slots=slots).wrong
            )
        text = loss == OutputKind.TEXT and answer.content is not None
        out.append(
            HeldOut(
                confidence=answer.confidence if answer.content is not None else 0.0,
                wrong=wrong,
                likeness=chrf(given, example.content) if text else None,
                floor=chrf(floor, example.content) if text and floor is not None else None,
                floor_wrong=floor_wrong,
            )
        )
    return out


def load_slots(folder: Path) -> SlotRules | None:
    """The slot rules that a text specialist's folder holds, if it does. Raises CorruptModel where they cannot be read."""
    path = folder / _SLOTS
    if not path.is_file():
        return None
    try:
        return SlotRules.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise CorruptModel(f"{path} holds no slot rules: {error!r}.", remedy="Learn again.") from error


def nearest_answers(
    train: Sequence[Example], held_out: Sequence[Example], *, most: int = MOST_NEIGHBOURS
) -> list[str]:
    """For each held-out call the logged answer of the most similar of the first `most` training calls: a specialist's floor."""
    if not train or not held_out:
        return [""] * len(held_out)
    pool = train[:most]
    requests = [e.request for e in pool]
    vocabulary = Vocabulary.fit(
        requests, [-1] * len(pool), reading=Reading(system=True), min_calls=1, max_rows=50_000
    )
    known, _ = encode_all(vocabulary, requests, [-1] * len(pool))
    asked, _ = encode_all(vocabulary, [e.request for e in held_out], [-1] * len(held_out))
    out: list[str] = []
    for start in range(0, len(held_out), 256):
        likeness = (asked[start : start + 256] @ known.T).toarray()
        out.extend(pool[int(i)].content for i in np.argmax(likeness, axis=1))
    return out
