"""Which kinds of specialist could do a task, the cheapest first, and why others cannot. Knows the trainers; trains nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from shoal.agents.learning.answers import NO_ANSWER, learnt_answers
from shoal.agents.learning.survey import Survey
from shoal.agents.learning.training import Trainer
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


def consider(kind: OutputKind, survey: Survey, *, min_calls: int) -> Prospect:
    """What could be trained for a task of this kind of output."""
    if survey.calls < min_calls:
        gone = sum(survey.left_out.values())
        also = f" ({gone} more were left out: {_listed(survey)})" if gone else ""
        return Prospect(
            kinds=(),
            loss=kind,
            reason=f"Too few calls: {survey.calls}{also}; it takes {min_calls} (learning.min_calls) to train a specialist.",
        )
    if kind == OutputKind.TOOL_CALL or survey.calling > _MOST_CALLING * survey.calls:
        return _calling(survey)
    try:
        answers = len(learnt_answers(survey.answers, nothing=NO_ANSWER))
    except DataError as error:
        return _open(kind, str(error))
    loss = OutputKind.JSON if kind == OutputKind.JSON else OutputKind.LABEL
    kinds = (RECORD_CLASSIFIER, CLASSIFIER) if survey.records else (CLASSIFIER,)
    if loss == OutputKind.JSON:
        kinds = (*kinds, FIELDS)
    return Prospect(kinds=kinds, loss=loss, answers=answers)


def _calling(survey: Survey) -> Prospect:
    if survey.calling < _LEAST_CALLING:
        return Prospect(
            kinds=(),
            loss=OutputKind.TOOL_CALL,
            reason=f"Only {survey.calling} of its {survey.calls} answers are function calls; it takes {_LEAST_CALLING} to learn when to call.",
        )
    return Prospect(kinds=(TOOL_CALL,), loss=OutputKind.TOOL_CALL)


def _open(kind: OutputKind, why: str) -> Prospect:
    if kind == OutputKind.LABEL:
        return Prospect(kinds=(), loss=kind, reason=why)
    return Prospect(kinds=(FIELDS, MICRO_LM) if kind == OutputKind.JSON else (MICRO_LM,), loss=kind)


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


def _listed(survey: Survey) -> str:
    return ", ".join(f"{reason} ({count})" for reason, count in sorted(survey.left_out.items()))
