"""The engine of label specialists: n-grams of the request times a weight matrix, and an embedding times another if it has one.

Knows no training; loads no sklearn, and torch only where a version was trained with an embedder that needs it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from shoal.agents.learning.answers import AnswerSet
from shoal.agents.learning.embedders import load_embedder
from shoal.agents.learning.prompts import NEVER_SEEN, PromptSet
from shoal.agents.learning.sureness import Sureness, word_count
from shoal.agents.learning.text_features import Vocabulary
from shoal.agents.ports import Embedder, SpecialistAnswer
from shoal.agents.traces.chat import ChatRequest
from shoal.errors import ConfigError, CorruptModel

WEIGHTS = "weights.safetensors"
VOCABULARY = "vocabulary.json"
ANSWERS = "answers.json"
PROMPTS = "prompts.json"
SETTINGS = "settings.json"

NOTHING_KNOWN = "it has no word that training saw"


@dataclass(frozen=True, slots=True)
class ClassifierEngine:
    """One loaded label specialist.

    Attributes:
        weights: shape (rows of the vocabulary, answers), float16; already divided by the softmax temperature.
        bias: shape (answers,).
        meaning: shape (size of the embedder, answers), likewise; no rows where it was trained without an embedder.
        embedder: the very one that it was trained with; None where there was none.
        allowed: shape (prompts, answers): which answers training saw under each system prompt.
        usual_known: a smaller share of known n-grams than this one is unusual,
        novelty_power: and that share over the usual one, to this power, then multiplies the confidence.
        sureness: how sure an answer is; None where it is as sure as it is likely.
    """

    vocabulary: Vocabulary
    answers: AnswerSet
    prompts: PromptSet
    weights: NDArray[np.float16]
    bias: NDArray[np.float32]
    allowed: NDArray[np.bool_]
    usual_known: float
    novelty_power: float
    meaning: NDArray[np.float32]
    sureness: Sureness | None = None
    embedder: Embedder | None = None

    @classmethod
    def load(cls, folder: Path, embedders: Callable[[str], Embedder] = load_embedder) -> ClassifierEngine:
        """Load a folder, and with `embedders` the embedder that it names.

        Raises:
            CorruptModel: the files do not make a label specialist, or its embedder is not here, or not the one it was trained with.
        """
        try:
            tensors = load_file(folder / WEIGHTS)
            settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
            engine = cls(
                vocabulary=Vocabulary.from_json(
                    (folder / VOCABULARY).read_text(encoding="utf-8"), tensors["idf"]
                ),
                answers=AnswerSet.from_json((folder / ANSWERS).read_text(encoding="utf-8")),
                prompts=PromptSet.from_json((folder / PROMPTS).read_text(encoding="utf-8")),
                weights=tensors["weights"],
                bias=tensors["bias"],
                allowed=tensors["allowed"].astype(bool),
                usual_known=float(settings.get("usual_known", 1.0)),
                novelty_power=float(settings["novelty_power"]),
                meaning=tensors.get("meaning", np.zeros((0, len(tensors["bias"])), dtype=np.float32)),
                sureness=Sureness.from_dict(settings["sureness"]) if settings.get("sureness") else None,
                embedder=_embedder(folder, settings.get("embedder"), embedders),
            )
            rows, labels = len(engine.vocabulary.idf), len(engine.answers.keys)
            if engine.weights.shape != (rows, labels) or engine.bias.shape != (labels,):
                raise ValueError(
                    f"weights of shape {engine.weights.shape} for {rows} n-grams, {labels} answers"
                )
            size = 0 if engine.embedder is None else engine.embedder.size
            if engine.meaning.shape != (size, labels):
                raise ValueError(f"weights of shape {engine.meaning.shape} for an embedder of size {size}")
            if engine.allowed.shape != (max(1, len(engine.prompts.keys)), labels):
                raise ValueError(f"prompts and answers do not fit a table of shape {engine.allowed.shape}")
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise CorruptModel(
                f"{folder} holds no label specialist that can be loaded: {error}.",
                remedy="Learn again; the task stays with the generalist meanwhile.",
            ) from error
        return engine

    def answer(self, requests: Sequence[ChatRequest]) -> list[SpecialistAnswer]:
        if self.embedder is None:
            return [self._answer(request, None) for request in requests]
        vectors = self.embedder.embed([request.last_user_text for request in requests])
        return [self._answer(request, vector) for request, vector in zip(requests, vectors, strict=True)]

    def probabilities(
        self, request: ChatRequest, vector: NDArray[np.float32] | None
    ) -> tuple[NDArray[np.float32], float, int]:
        """Probability of each answer, shape (answers,), the share of known n-grams, and the prompt's place (-1 for new)."""
        prompt = self.prompts.index(request)
        rows, values, known = self.vocabulary.encode(request, prompt if self.prompts.several else -1)
        logits = values @ self.weights[rows].astype(np.float32) + self.bias
        if vector is not None:
            logits = logits + vector @ self.meaning
        if prompt >= 0:
            logits = np.where(self.allowed[prompt], logits, -np.inf)
        odds = np.exp(logits - logits.max())
        return odds / odds.sum(), known, prompt

    def _answer(self, request: ChatRequest, vector: NDArray[np.float32] | None) -> SpecialistAnswer:
        if not request.last_user_text.strip():
            return SpecialistAnswer(content=None, confidence=0.0, reason="the request has no user text")
        probabilities, known, prompt = self.probabilities(request, vector)
        best = int(probabilities.argmax())
        text = self.answers.texts[best]
        if prompt < 0:
            return SpecialistAnswer(content=text, confidence=0.0, reason=NEVER_SEEN)
        if known == 0.0:
            return SpecialistAnswer(content=text, confidence=0.0, reason=NOTHING_KNOWN)
        sure = float(probabilities[best])
        if self.sureness is not None:
            words = np.array([word_count(request.last_user_text)])
            sure = float(self.sureness.confidence(probabilities[None], words)[0])
        usual = min(1.0, known / self.usual_known) ** self.novelty_power
        return SpecialistAnswer(content=text, confidence=min(1.0, sure * usual))


def _embedder(
    folder: Path, named: Mapping[str, str] | None, embedders: Callable[[str], Embedder]
) -> Embedder | None:
    """The embedder that the settings name. Raises CorruptModel where it is not here, or is another one."""
    if named is None:
        return None
    try:
        found = embedders(named["name"])
    except ConfigError as error:
        raise CorruptModel(
            f"{folder} was trained with the embedder {named['name']!r}, which cannot be loaded here: {error.message}",
            remedy=error.remedy,
        ) from error
    if found.digest != named["digest"]:
        raise CorruptModel(
            f"{folder} was trained with the embedder {named['name']!r} of digest {named['digest']}, and the one here has {found.digest}.",
            remedy="Install the one that it was trained with, or learn again.",
        )
    return found
