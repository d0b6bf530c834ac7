"""The engine of specialists that read a structured answer from a prompt: closed choices by linear models, copied values by taggers.

Knows no training; loads no sklearn, no torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from shoal.agents.learning.json_fields import (
    FieldPlan,
    LeafSpec,
    Scalar,
    Token,
    cast_like,
    filled,
    masked,
    paths_of,
    token_features,
    tokens_of,
)
from shoal.agents.learning.prompts import NEVER_SEEN, PromptSet
from shoal.agents.learning.record_features import read_record
from shoal.agents.learning.text_features import Vocabulary
from shoal.agents.ports import SpecialistAnswer
from shoal.agents.traces.chat import ChatRequest
from shoal.errors import CorruptModel

WEIGHTS = "weights.safetensors"
#: unknown n-grams lower the confidence: their share of known ones to this power
_NOVELTY_POWER = 0.5
#: a token from this probability on belongs to a value
_INSIDE = 0.5


class _Missing(Exception):
    """A value cannot be given; its text says why."""


@dataclass(frozen=True, slots=True)
class _Span:
    """What a tagger found. `place`: (start, end), None where nothing; `likeliest`: of its surest token."""

    place: tuple[int, int] | None
    text: str
    sure: float
    likeliest: float


@dataclass(frozen=True, slots=True)
class Tagger:
    """Which tokens belong to a value. `features` names the rows of `weights`."""

    features: Mapping[str, int]
    weights: NDArray[np.float32]
    bias: float

    def span(self, text: str, tokens: Sequence[Token]) -> _Span:
        """The stretch of a text that the tokens around the surest one make."""
        get = self.features.get
        scores = [
            sum(
                float(self.weights[row])
                for name in token_features(tokens, at)
                if (row := get(name)) is not None
            )
            for at in range(len(tokens))
        ]
        if not scores:
            return _Span(place=None, text="", sure=0.0, likeliest=0.0)
        sure = 1 / (1 + np.exp(-(np.array(scores) + self.bias)))
        best = int(sure.argmax())
        if sure[best] < _INSIDE:
            return _Span(place=None, text="", sure=0.0, likeliest=float(sure[best]))
        first = last = best
        while first > 0 and sure[first - 1] >= _INSIDE:
            first -= 1
        while last + 1 < len(tokens) and sure[last + 1] >= _INSIDE:
            last += 1
        inside = np.zeros(len(tokens), dtype=bool)
        inside[first : last + 1] = True
        # each token is a decision, those left out too: another stretch that looks like a value lowers the sureness
        believed = float(np.where(inside, sure, 1 - sure).min())
        place = (tokens[first].start, tokens[last].end)
        return _Span(place=place, text=text[place[0] : place[1]], sure=believed, likeliest=float(sure[best]))


@dataclass(frozen=True, slots=True)
class FieldsEngine:
    """One loaded specialist.

    Attributes:
        tensors: `skeleton.weights` of shape (rows, skeletons), `leaf<n>.weights` of shape (rows, values), each with a bias.
    """

    plan: FieldPlan
    vocabulary: Vocabulary
    prompts: PromptSet
    tensors: Mapping[str, NDArray[Any]]
    taggers: Mapping[int, Tagger]

    @classmethod
    def load(cls, folder: Path) -> FieldsEngine:
        """Raises CorruptModel where the files do not make such a specialist."""
        try:
            tensors = load_file(folder / WEIGHTS)
            plan = FieldPlan.from_json((folder / "fields.json").read_text(encoding="utf-8"))
            vocabulary = Vocabulary.from_json(
                (folder / "vocabulary.json").read_text(encoding="utf-8"), tensors["idf"]
            )
            names = json.loads((folder / "taggers.json").read_text(encoding="utf-8"))
            taggers = {}
            for number in range(plan.taggers):
                features = {str(name): row for row, name in enumerate(names[str(number)])}
                weights = tensors[f"tagger{number}.weights"]
                if weights.shape != (len(features),):
                    raise ValueError(
                        f"tagger {number} has {weights.shape} weights for {len(features)} features"
                    )
                taggers[number] = Tagger(features, weights, float(tensors[f"tagger{number}.bias"][0]))
            engine = cls(
                plan=plan,
                vocabulary=vocabulary,
                prompts=PromptSet.from_json((folder / "prompts.json").read_text(encoding="utf-8")),
                tensors=tensors,
                taggers=taggers,
            )
            engine._check()
        except (OSError, ValueError, KeyError, TypeError, IndexError, SafetensorError) as error:
            raise CorruptModel(
                f"{folder} holds no specialist for structured answers that can be loaded: {error}.",
                remedy="Learn again; the task stays with the generalist meanwhile.",
            ) from error
        return engine

    def _check(self) -> None:
        rows = len(self.vocabulary.idf)
        sizes = {"skeleton": len(self.plan.skeletons)}
        for leaf in self.plan.leaves.values():
            if leaf.kind == "closed":
                sizes[f"leaf{leaf.number}"] = len(leaf.values)
            elif leaf.kind == "copied" and leaf.number not in self.taggers:
                raise ValueError(f"there is no tagger {leaf.number}")
        for name, size in sizes.items():
            shapes = (self.tensors[f"{name}.weights"].shape, self.tensors[f"{name}.bias"].shape)
            if shapes != ((rows, size), (size,)):
                raise ValueError(f"{name} has arrays of {shapes} for {rows} n-grams and {size} choices")

    def answer(self, requests: Sequence[ChatRequest]) -> list[SpecialistAnswer]:
        return [self._answer(request) for request in requests]

    def _answer(self, request: ChatRequest) -> SpecialistAnswer:
        text = request.last_user_text
        if not text.strip():
            return SpecialistAnswer(content=None, confidence=0.0, reason="the request has no user text")
        prompt = self.prompts.index(request)
        found = self._find(text)
        spans = {number: span.place for number, span in found.items() if span.place is not None}
        rows, values, known = self.vocabulary.encode(
            masked(request, spans), prompt if self.prompts.several else -1
        )
        at, sure = self._choice("skeleton", rows, values)
        why = "least sure of which fields there are"
        skeleton = self.plan.skeletons[at]
        paths = paths_of(skeleton)
        record = read_record(request) or {}
        given: dict[str, Scalar] = {}
        for path in paths:
            try:
                given[path], how_sure = self._value(self.plan.leaves[path], found, record, rows, values)
            except _Missing as missing:
                return SpecialistAnswer(content=None, confidence=0.0, reason=f"`{path}`: {missing}")
            if how_sure < sure:
                sure, why = how_sure, f"least sure of `{path}`"
        asked = {self.plan.leaves[path].number for path in paths if self.plan.leaves[path].kind == "copied"}
        for number, span in found.items():
            # a value that was found and is not asked for speaks against the fields chosen
            if number not in asked and 1 - span.likeliest < sure:
                sure, why = 1 - span.likeliest, "a value was found that no field is for"
        content = self.plan.write(filled(skeleton, given.__getitem__))
        if prompt < 0:
            return SpecialistAnswer(content=content, confidence=0.0, reason=NEVER_SEEN)
        return SpecialistAnswer(
            content=content, confidence=min(1.0, max(0.0, sure) * known**_NOVELTY_POWER), reason=why
        )

    def _find(self, text: str) -> dict[int, _Span]:
        """What each tagger finds; a stretch that two of them claim goes to the surer one."""
        tokens = tokens_of(text)
        found = {number: tagger.span(text, tokens) for number, tagger in self.taggers.items()}
        taken: list[tuple[int, int]] = []
        for number in sorted(found, key=lambda n: -found[n].likeliest):
            place = found[number].place
            if place is None:
                continue
            if any(place[0] < end and start < place[1] for start, end in taken):
                found[number] = replace(found[number], place=None, likeliest=1 - found[number].likeliest)
            else:
                taken.append(place)
        return found

    def _choice(self, name: str, rows: Any, values: Any) -> tuple[int, float]:
        logits = values @ self.tensors[f"{name}.weights"][rows].astype(np.float32)
        logits = logits + self.tensors[f"{name}.bias"]
        odds = np.exp(logits - logits.max())
        best = int(odds.argmax())
        return best, float(odds[best] / odds.sum())

    def _value(
        self, leaf: LeafSpec, found: Mapping[int, _Span], record: Mapping[str, Scalar], rows: Any, values: Any
    ) -> tuple[Scalar, float]:
        if leaf.kind == "constant":
            return leaf.values[0], 1.0
        if leaf.kind == "record":
            if leaf.path not in record:
                raise _Missing(f"the record has no `{leaf.path}`")
            return record[leaf.path], 1.0
        if leaf.kind == "closed":
            at, sure = self._choice(f"leaf{leaf.number}", rows, values)
            return leaf.values[at], sure
        span = found[leaf.number]
        if span.place is None:
            raise _Missing("no stretch of the prompt looks like it")
        return cast_like(span.text, leaf.values), span.sure
