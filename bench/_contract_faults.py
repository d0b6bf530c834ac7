"""What may go wrong with a label specialist, and its answers then: labels replaced, inputs shifted, weights broken.

Used by `_contract_audit.py`. The specialist is Shoal's own classifier for `bank_intent`, trained, calibrated and asked as `shoal learn`
and the gateway do.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from _tasks import read_sites, rows_of
from numpy.typing import NDArray

from shoal.agents.contract.calibrate import calibrate
from shoal.agents.contract.drift import histogram
from shoal.agents.contract.loss import normal_label
from shoal.agents.learning.classifier import train_classifier
from shoal.agents.learning.held_out import answers_of
from shoal.agents.learning.learnt_calls import read_learnt_calls
from shoal.agents.learning.splits import split_examples, without_duplicates
from shoal.agents.learning.training import Example, TrainContext
from shoal.agents.ports import SpecialistAnswer
from shoal.agents.registry.store import SqlRegistry
from shoal.agents.tasks.matcher import Matcher
from shoal.agents.traces.chat import ChatRequest
from shoal.agents.traces.erased import id_digests
from shoal.home import Home
from shoal.serve.engines.classifier import ClassifierEngine

SITE = "bank_intent"
#: whose inputs stand for work that is none of the specialist's
STRANGE = "dialogue_intent"


@dataclass(frozen=True)
class World:
    """Calls as they come: for each, how sure the specialist is, what it says and what the generalist would say."""

    confidences: NDArray[np.float64]
    said: Sequence[str]
    right: Sequence[str]

    @property
    def wrong(self) -> NDArray[np.bool_]:
        return np.array([a != b for a, b in zip(self.said, self.right, strict=True)])


@dataclass(frozen=True)
class Specialist:
    engine: ClassifierEngine
    threshold: float
    #: of the calibration's confidences
    calibration: list[int]
    held_out: Sequence[Example]
    strangers: Sequence[str]

    def world(
        self, *, engine: ClassifierEngine | None = None, examples: Sequence[Example] | None = None
    ) -> World:
        asked = self.held_out if examples is None else examples
        given = answers_of(engine or self.engine, asked)
        return World(
            np.array([_confidence(a) for a in given]),
            [normal_label(a.content or "") for a in given],
            [normal_label(e.content) for e in asked],
        )


def _confidence(answer: SpecialistAnswer) -> float:
    return answer.confidence if answer.given else 0.0


def read(path: Path, site: str) -> list[Example]:
    sites = read_sites(path)
    out = []
    for row in rows_of(path):
        if sites[row["id"]] == site:
            said = row["response"]["choices"][0]["message"].get("content") or ""
            request = ChatRequest(body=row["request"])
            # the group that learning gives a call without a conversation, so that the split is the same
            out.append(Example(id=row["id"], request=request, content=said, group=f"call {row['id']}"))
    return out


def train(data: Path, *, alpha: float, delta: float, quick: bool) -> Specialist:
    """A classifier for the call-site from the log, with its threshold, and the held-out calls."""
    log = read(data / "traces" / "mixed_log.jsonl.gz", SITE)[:: 3 if quick else 1]
    split = split_examples(log, seed=0)
    learnt, _ = without_duplicates(split.train, one_answer=True)
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as folder:
        context = TrainContext(seed=0, seconds=300.0, work=Path(folder), monotonic=time.monotonic)
        model = Path(folder) / "model"
        report = train_classifier(learnt, split.choose, model, context)
        again = replace(context, settings=report.settings)
        train_classifier([*learnt, *split.choose], [], model, again)
        engine = ClassifierEngine.load(model)
    given = answers_of(engine, split.calibration)
    confidences = [_confidence(a) for a in given]
    wrong = [
        normal_label(a.content or "") != normal_label(e.content)
        for a, e in zip(given, split.calibration, strict=True)
    ]
    found = calibrate(confidences, wrong, alpha, delta)
    held_out = read(data / "traces" / "mixed_eval.jsonl.gz", SITE)
    return Specialist(engine, found.threshold, histogram(confidences), held_out, _strangers(data))


def load(data: Path, home: Path) -> Specialist | None:
    """The one of a site that has learnt the log. None where it has none, or where its calibration calls cannot be told from the rest."""
    place = Home(home)
    registry = SqlRegistry(place.database)
    held_out = read(data / "traces" / "mixed_eval.jsonl.gz", SITE)
    tasks = registry.tasks()
    task_id = Matcher([(task.id, task) for task in tasks]).match(held_out[0].request).task_id
    found = [v for v in registry.versions() if v.task_id == task_id and v.kind == "classifier"]
    registry.close()
    if not found:
        return None
    version = found[-1]
    split = split_examples(read(data / "traces" / "mixed_log.jsonl.gz", SITE), seed=version.evidence["seed"])
    folder = place.models / version.folder
    learnt = read_learnt_calls(folder)
    if not len(learnt) or np.isin(id_digests(e.id for e in split.calibration), learnt).any():
        return None
    engine = ClassifierEngine.load(folder)
    confidences = [_confidence(a) for a in answers_of(engine, split.calibration)]
    return Specialist(engine, version.threshold, histogram(confidences), held_out, _strangers(data))


def _strangers(data: Path) -> list[str]:
    return [e.request.last_user_text for e in read(data / "traces" / "mixed_eval.jsonl.gz", STRANGE)]


# -- inputs


def with_inputs(examples: Sequence[Example], change: Callable[[str, int], str]) -> list[Example]:
    """The same calls, with their last message changed. `change` takes the text and the call's place."""
    out = []
    for place, example in enumerate(examples):
        body = example.request.body
        *before, last = body["messages"]
        text = change(last["content"], place)
        messages = [*before, {**last, "content": text}]
        out.append(replace(example, request=ChatRequest(body={**body, "messages": messages})))
    return out


def misspelt(text: str, rng: np.random.Generator, share: float) -> str:
    """A share of the words with two neighbouring letters swapped."""
    words = text.split()
    for i, word in enumerate(words):
        if len(word) > 2 and rng.random() < share:
            at = int(rng.integers(0, len(word) - 1))
            words[i] = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    return " ".join(words)


def masked(text: str, rng: np.random.Generator, share: float) -> str:
    """A share of the words left out."""
    words = text.split()
    kept = [word for word in words if rng.random() >= share]
    return " ".join(kept or words[:1])


# -- weights


def noisy(engine: ClassifierEngine, rng: np.random.Generator, times: float) -> ClassifierEngine:
    """Weights with noise of `times` their own spread."""
    weights = engine.weights.astype(np.float32)
    return replace(
        engine,
        weights=(weights + rng.normal(scale=times * weights.std(), size=weights.shape)).astype(np.float16),
    )


def shuffled(engine: ClassifierEngine, rng: np.random.Generator, share: float) -> ClassifierEngine:
    """The columns of a share of the answers go round by one among them: each of those is called by another's name."""
    count = engine.weights.shape[1]
    picked = np.sort(rng.permutation(count)[: max(2, round(share * count))])
    weights, bias = engine.weights.copy(), engine.bias.copy()
    weights[:, picked], bias[picked] = weights[:, np.roll(picked, 1)], bias[np.roll(picked, 1)]
    return replace(engine, weights=weights, bias=bias)


def zeroed(engine: ClassifierEngine, rng: np.random.Generator, share: float) -> ClassifierEngine:
    """A share of the rows, each of an n-gram, is lost."""
    weights = engine.weights.copy()
    weights[rng.random(len(weights)) < share] = 0
    return replace(engine, weights=weights)
