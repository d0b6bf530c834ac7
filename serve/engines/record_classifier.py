"""The engine of specialists that decide by a record's figures: a forest as plain arrays. Knows no training; loads no sklearn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from shoal.agents.learning.answers import AnswerSet
from shoal.agents.learning.prompts import NEVER_SEEN, PromptSet
from shoal.agents.learning.record_features import Matrix, Record, RecordSpec, read_record
from shoal.agents.ports import SpecialistAnswer
from shoal.agents.traces.chat import ChatRequest
from shoal.errors import CorruptModel

FOREST = "forest.safetensors"


@dataclass(frozen=True, slots=True)
class Forest:
    """Decision trees, their nodes numbered through.

    Attributes:
        roots: first node of each tree, shape (trees,).
        left, right: the next node where the feature is at most the threshold, or above; a leaf points at itself.
        feature, threshold: what a node compares; shape (nodes,).
        leaf: row of `probabilities` for a leaf node, shape (nodes,); 0 elsewhere.
        probabilities: shape (leaves, answers), float16.
    """

    roots: NDArray[np.int32]
    left: NDArray[np.int32]
    right: NDArray[np.int32]
    feature: NDArray[np.int32]
    threshold: NDArray[np.float64]
    leaf: NDArray[np.int32]
    probabilities: NDArray[np.float16]

    def predict(self, features: Matrix) -> NDArray[np.float32]:
        """Mean leaf probability over the trees, shape (rows, answers)."""
        at = np.broadcast_to(self.roots, (len(features), len(self.roots))).copy()
        rows = np.arange(len(features))[:, None]
        while True:
            below = features[rows, self.feature[at]] <= self.threshold[at]
            following = np.where(below, self.left[at], self.right[at])
            if np.array_equal(following, at):
                break
            at = following
        total: NDArray[np.float32] = self.probabilities[self.leaf[at]].astype(np.float32).mean(axis=1)
        return total

    def check(self, columns: int, answers: int) -> None:
        """Raises ValueError where walking the trees could leave them or never end."""
        nodes = len(self.left)
        own = np.arange(nodes)
        leaves = self.left == own
        for name in ("right", "feature", "threshold", "leaf"):
            if getattr(self, name).shape != (nodes,):
                raise ValueError(f"`{name}` does not have one value for each of {nodes} nodes")
        if not len(self.roots) or self.roots.min() < 0 or self.roots.max() >= nodes:
            raise ValueError("a root is not a node")
        for branch in (self.left, self.right):
            # children stand behind their parents, so every walk ends
            if (branch[leaves] != own[leaves]).any() or (branch[~leaves] <= own[~leaves]).any():
                raise ValueError("a branch does not lead onwards")
            if branch.max() >= nodes:
                raise ValueError("a branch leads out of the forest")
        if self.feature.min() < 0 or self.feature.max() >= columns:
            raise ValueError(f"a node compares a column that is not among the {columns}")
        if self.probabilities.shape[1] != answers or not 0 <= self.leaf.min() <= self.leaf.max() < len(
            self.probabilities
        ):
            raise ValueError("the leaves do not fit the answers")


@dataclass(frozen=True, slots=True)
class RecordClassifierEngine:
    """One loaded specialist."""

    spec: RecordSpec
    answers: AnswerSet
    prompts: PromptSet
    forest: Forest

    @classmethod
    def load(cls, folder: Path) -> RecordClassifierEngine:
        """Raises CorruptModel where the files do not make such a specialist."""
        try:
            tensors = load_file(folder / FOREST)
            engine = cls(
                spec=RecordSpec.from_json((folder / "record.json").read_text(encoding="utf-8")),
                answers=AnswerSet.from_json((folder / "answers.json").read_text(encoding="utf-8")),
                prompts=PromptSet.from_json((folder / "prompts.json").read_text(encoding="utf-8")),
                forest=Forest(**tensors),
            )
            columns = engine.spec.matrix([{}]).shape[1]
            engine.forest.check(columns, len(engine.answers.keys))
        except (OSError, ValueError, KeyError, TypeError, IndexError, SafetensorError) as error:
            raise CorruptModel(
                f"{folder} holds no record specialist that can be loaded: {error}.",
                remedy="Learn again; the task stays with the generalist meanwhile.",
            ) from error
        return engine

    def answer(self, requests: Sequence[ChatRequest]) -> list[SpecialistAnswer]:
        records = [read_record(request) for request in requests]
        there = [record for record in records if record is not None]
        predicted = iter(self.forest.predict(self.spec.matrix(there)) if there else ())
        return [
            SpecialistAnswer(content=None, confidence=0.0, reason="the request holds no record")
            if record is None
            else self._answer(request, record, next(predicted))
            for request, record in zip(requests, records, strict=True)
        ]

    def _answer(
        self, request: ChatRequest, record: Record, probabilities: NDArray[np.float32]
    ) -> SpecialistAnswer:
        best = int(probabilities.argmax())
        text = self.answers.texts[best]
        if self.prompts.index(request) < 0:
            return SpecialistAnswer(content=text, confidence=0.0, reason=NEVER_SEEN)
        if path := self.spec.missing(record):
            reason = f"the record has no number `{path}`, which every record in training had"
            return SpecialistAnswer(content=text, confidence=0.0, reason=reason)
        if path := self.spec.unknown(record):
            reason = f"`{path}` has a value that training never saw"
            return SpecialistAnswer(content=text, confidence=0.0, reason=reason)
        return SpecialistAnswer(content=text, confidence=min(1.0, float(probabilities[best])))
