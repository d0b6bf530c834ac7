"""Puts held-out calls to a loaded specialist and judges what comes back. Knows no kind of model."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
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
    calling: frozenset[str] = frozenset(),
    slots: SlotChecker | None = None,
    floors: Sequence[str] | None = None,
) -> list[HeldOut]:
    """Each answer's verdict. `calling`: ids of calls that a function call should have answered, whatever it was. `floors`: for texts, the
    answer of the most similar training call."""
    out = []
    for i, (example, answer) in enumerate(zip(examples, answers, strict=True)):
        given = answer.content or ""
        wrong = (
            not answer.given
            or (example.id in calling and not example.tool_calls)
            or judge(
                loss,
                example.request,
                given,
                "" if example.tool_calls else example.content,
                expected_tool_calls=example.tool_calls,
                given_tool_calls=answer.tool_calls,
                slots=slots,
            ).wrong
        )
        floor = None if floors is None else floors[i]
        floor_wrong = None if floor is None else _floor_wrong(loss, example, floor, calling, slots)
        text = loss == OutputKind.TEXT and answer.content is not None
        out.append(
            HeldOut(
                confidence=answer.confidence if answer.given else 0.0,
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


def _floor_wrong(
    loss: OutputKind, example: Example, floor: str, calling: Collection[str], slots: SlotChecker | None
) -> bool:
    """Whether the answer to the most similar logged call would have been wrong here."""
    if example.id in calling or example.tool_calls:
        return floor != example.content  # of a function call both are the canonical form
    return judge(loss, example.request, floor, example.content, slots=slots).wrong
