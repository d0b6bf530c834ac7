"""Answers with a function call, or with the text that stands for none. Training: `agents/learning/tool_call.py`.

The confidence is the product of the probabilities of the choice between functions and of each argument, so that one doubtful
argument makes the call doubtful; lowered by the share of words that the log never had.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from shoal.agents.learning.calls.mentions import read
from shoal.agents.learning.calls.model import CallModel, arguments_of
from shoal.agents.learning.calls.places import Sight
from shoal.agents.learning.calls.schema import functions_of, invalid
from shoal.agents.learning.calls.turns import conversation_of
from shoal.agents.ports import SpecialistAnswer
from shoal.agents.traces.chat import ChatRequest
from shoal.errors import CorruptModel


class ToolCallEngine:
    def __init__(self, model: CallModel) -> None:
        self._model = model

    @classmethod
    def load(cls, folder: Path) -> ToolCallEngine:
        """Raises CorruptModel where the folder holds no such model."""
        try:
            return cls(CallModel.load(folder))
        except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
            raise CorruptModel(
                f"{folder} holds no model of function calls: {error!r}.", remedy="Learn again."
            ) from error

    def answer(self, requests: Sequence[ChatRequest]) -> list[SpecialistAnswer]:
        return [self._answer(request) for request in requests]

    def _answer(self, request: ChatRequest) -> SpecialistAnswer:
        model = self._model
        functions = functions_of(request)
        conversation = conversation_of(request)
        if not conversation.turns:
            return _none("the request has no turns")
        unknown = [f.name for f in functions if f.signature not in model.offered]
        seen = read(conversation)
        decision = model.decide(functions, Sight(seen))
        best = int(np.argmax(decision.likely))
        likely = float(decision.likely[best])
        strange = f"`{unknown[0]}` was never offered in training" if unknown else ""
        if best < len(decision.texts):
            text = decision.texts[best]
            if not text:
                return _none("no function is to be called, and its texts are the generalist's")
            confidence = likely * _usual(model.novelty(seen, ()))
            return SpecialistAnswer(content=text, confidence=0.0 if strange else confidence, reason=strange)
        function = functions[best - len(decision.texts)]
        if function.signature not in model.functions:
            return _none(f"`{function.name}` was never called in training")
        filled = decision.filled[best - len(decision.texts)]
        lacking = [one.choice.arg.name for one in filled if one.choice.arg.required and not one.given]
        if lacking:
            return _none(f"`{lacking[0]}` of {function.name} is not found in the conversation")
        arguments = arguments_of(filled)
        if why := invalid(function, arguments):
            return _none(why)
        confidence = likely * float(np.prod([one.share for one in filled]))
        confidence *= _usual(model.novelty(seen, list(arguments.values())))
        call = {
            "type": "function",
            "function": {"name": function.name, "arguments": json.dumps(arguments, ensure_ascii=False)},
        }
        return SpecialistAnswer(
            content=None,
            tool_calls=(call,),
            confidence=0.0 if strange else min(1.0, confidence),
            reason=strange,
        )


def _usual(novelty: float) -> float:
    """What is left of a confidence: nearly all of it where a few words are new, nothing where all are."""
    return 1.0 - novelty**2


def _none(reason: str) -> SpecialistAnswer:
    return SpecialistAnswer(content=None, confidence=0.0, reason=reason)
