"""Which kinds of specialist could do a task, the cheapest first, and why others cannot. Knows the trainers; trains nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from shoal.agents.learning.answers import AnswerSet
from shoal.agents.learning.material import Material
from shoal.agents.learning.record_features import read_record
from shoal.agents.learning.training import Example, Trainer
from shoal.agents.registry.records import OutputKind
from shoal.errors import DataError

TOOL_CALL = "tool_call"
RECORD_CLASSIFIER = "record_classifier"
CLASSIFIER = "classifier"
FIELDS = "fields"
MICRO_LM = "micro_lm"
#: as a candidate `lora@0`, `lora@1`, ...: one for each base; see `lora_rungs.py`
LORA = "lora"

#: so many function calls teach when to call, and with what
_LEAST_CALLING = 20
#: of a task's answers, at most this share may be function calls for a kind that gives none
_MOST_CALLING = 0.1
_RECORD_SHARE = 0.98
_SAMPLE = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Prospect:
    """What could be trained for a task.

    Attributes:
        kinds: the cheapest first; empty where `reason` says why there is none.
        loss: how answers are compared.
        answers: size of the closed set of answers; 0 where it is open.
    """

    kinds: tuple[str, ...]
    loss: OutputKind
    answers: int = 0
    reason: str = ""


def consider(kind: OutputKind, material: Material, *, min_calls: int) -> Prospect:
    """What could be trained for a task of this kind of output."""
    if material.calls < min_calls:
        gone = sum(material.left_out.values())
        also = f" ({gone} more were left out: {_listed(material)})" if gone else ""
        return Prospect(
            kinds=(),
            loss=kind,
            reason=f"Too few calls: {material.calls}{also}; it takes {min_calls} (learning.min_calls) to train a specialist.",
        )
    calling = len(material.calling)
    if kind == OutputKind.TOOL_CALL or calling > _MOST_CALLING * material.calls:
        return _calling(material)
    try:
        answers = len(AnswerSet.fit([e.content for e in material.examples]).keys)
    except DataError as error:
        return _open(kind, material.examples, str(error))
    loss = OutputKind.JSON if kind == OutputKind.JSON else OutputKind.LABEL
    kinds = (RECORD_CLASSIFIER, CLASSIFIER) if holds_records(material.examples) else (CLASSIFIER,)
    if loss == OutputKind.JSON:
        kinds = (*kinds, FIELDS)
    return Prospect(kinds=kinds, loss=loss, answers=answers)


def _calling(material: Material) -> Prospect:
    calling = len(material.calling)
    if calling < _LEAST_CALLING:
        return Prospect(
            kinds=(),
            loss=OutputKind.TOOL_CALL,
            reason=f"Only {calling} of its {material.calls} answers are function calls; it takes {_LEAST_CALLING} to learn when to call.",
        )
    return Prospect(kinds=(TOOL_CALL,), loss=OutputKind.TOOL_CALL)


def _open(kind: OutputKind, examples: Sequence[Example], why: str) -> Prospect:
    if kind == OutputKind.LABEL:
        return Prospect(kinds=(), loss=kind, reason=why)
    return Prospect(kinds=(FIELDS, MICRO_LM) if kind == OutputKind.JSON else (MICRO_LM,), loss=kind)


def holds_records(examples: Sequence[Example]) -> bool:
    """Whether prompts are records, judged by a sample spread over the calls."""
    sample = examples[:: max(1, len(examples) // _SAMPLE)]
    held = sum(read_record(e.request) is not None for e in sample)
    return bool(sample) and held >= _RECORD_SHARE * len(sample)


def trainer_of(kind: str) -> Trainer:
    """The trainer of a kind. Imported only when asked for: the quick kinds need no torch."""
    if kind == TOOL_CALL:
        from shoal.agents.learning.tool_call import train_tool_call

        return train_tool_call
    if kind == RECORD_CLASSIFIER:
        from shoal.agents.learning.record_classifier import train_record_classifier

        return train_record_classifier
    if kind == CLASSIFIER:
        from shoal.agents.learning.classifier import train_classifier

        return train_classifier
    if kind == FIELDS:
        from shoal.agents.learning.fields import train_fields

        return train_fields
    if kind == MICRO_LM:
        from shoal.agents.learning.micro_lm import train_micro_lm

        return train_micro_lm
    raise ValueError(f"There is no trainer of the kind {kind!r}.")


Trainers = Callable[[str], Trainer]


def _listed(material: Material) -> str:
    return ", ".join(f"{reason} ({count})" for reason, count in sorted(material.left_out.items()))
