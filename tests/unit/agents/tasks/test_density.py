"""Populations of short texts, and tasks found without answers."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from shoal.agents.tasks.density import MIN_TEXTS, populations
from shoal.agents.tasks.finder import find_tasks
from shoal.agents.tasks.matcher import Matcher, Novelty
from shoal.agents.traces.trace import Trace

SHARED = ["i", "the", "to", "my", "can", "you", "please", "is", "it", "what", "how", "for", "on", "a"]
PLAIN = "You are a helpful assistant."


def texts(kind: str, count: int, seed: int = 0) -> list[str]:
    """Sentences over a vocabulary of their own with some words that all share; no topics inside."""
    random = Random(f"{kind}{seed}")
    letters = "abdegiklmnoprstu"
    words = ["".join(random.choice(letters) for _ in range(6)) + kind for _ in range(150)]
    weights = [1 / (n + 5) for n in range(len(words))]
    return [
        " ".join([*random.choices(SHARED, k=4), *random.choices(words, weights, k=5)]) for _ in range(count)
    ]


def test_two_populations_are_told_apart_without_being_told_that_there_are_two() -> None:
    mixed = texts("x", 800) + texts("y", 350)
    truth = np.array([0] * 800 + [1] * 350)
    ((chosen, sides),) = populations(mixed, seed=0)
    assert (sides == truth[chosen]).mean() > 0.95


@pytest.mark.parametrize("count", [MIN_TEXTS - 1, 700])
def test_one_population_is_not_torn_apart(count: int) -> None:
    assert populations(texts("x", count), seed=0) == []


@pytest.fixture
def one_prompt(log: Any, shuffled: Any) -> tuple[list[Trace], dict[str, str]]:
    """Four call-sites under one prompt: two kinds of short text, records and transcripts; all answered with the same word."""
    inputs = {
        "x": texts("x", 600),
        "y": texts("y", 250),
        "record": [log.record()[0] for _ in range(80)],
        "talk": [
            f"user: {a}\nassistant: {b}\nuser: fine"
            for a, b in zip(texts("x", 90, 1), texts("y", 90, 1), strict=True)
        ],
    }
    truth: dict[str, str] = {}
    traces = []
    for site, some in inputs.items():
        for text in some:
            traces.append(log.trace(PLAIN, text, "ok"))
            truth[traces[-1].id] = site
    return shuffled(traces), truth


@pytest.mark.parametrize("use_answers", [False, True])
def test_call_sites_are_found_from_requests_alone(
    one_prompt: tuple[list[Trace], dict[str, str]], use_answers: bool
) -> None:
    traces, truth = one_prompt
    found = find_tasks(traces, known=(), seed=0, now=0.0, use_answers=use_answers)
    assert len(found.tasks) == 4
    for site in ("x", "y", "record", "talk"):
        inside = [found.assignment[i] for i, s in truth.items() if s == site]
        main = max(set(inside), key=inside.count)
        others = sum(found.assignment[i] == main for i, s in truth.items() if s != site)
        assert inside.count(main) >= 0.9 * len(inside), site
        assert others <= 0.1 * len(inside), site


def test_a_text_of_unknown_words_is_unclustered(
    one_prompt: tuple[list[Trace], dict[str, str]], log: Any
) -> None:
    found = find_tasks(one_prompt[0], known=(), seed=0, now=0.0, use_answers=False)
    match = Matcher([(t.id, t) for t in found.tasks]).match(log.trace(PLAIN, "Qwx fjord vext", "?").chat)
    assert (match.task_id, match.novelty) == (None, Novelty.INPUT)
    assert match.reason.startswith("none of its words tells")


def test_two_populations_with_the_same_answers_are_one_task(log: Any, shuffled: Any) -> None:
    labels = ["yes_please", "no_thanks", "perhaps"]
    traces = [
        log.trace(PLAIN, text, labels[n % 3])
        for kind, count in (("x", 400), ("y", 300))
        for n, text in enumerate(texts(kind, count))
    ]
    assert len(find_tasks(shuffled(traces), known=(), seed=0, now=0.0).tasks) == 1


class Likeness:
    """An embedder by whose vectors texts are near each other whose last word ends alike; counts what it was asked."""

    name, digest, size = "likeness", "0" * 64, 12

    def __init__(self) -> None:
        self.asked = 0

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.asked += len(texts)
        out = np.zeros((len(texts), self.size), dtype=np.float32)
        for row, text in zip(out, texts, strict=True):
            random = Random(text)
            half = 6 * text.endswith("y")
            row[half : half + 6] = [random.random() + 0.05 for _ in range(6)]
            row /= np.linalg.norm(row)
        return out


def test_an_embedder_tells_populations_apart_that_share_all_their_words() -> None:
    plain = texts("x", 900)
    mixed = [f"{text} {'y' if n % 3 == 0 else 'z'}" for n, text in enumerate(plain)]
    assert populations(mixed, seed=0) == [], "by their words they are one"
    embedder = Likeness()
    ((chosen, sides),) = populations(mixed, seed=0, embedder=embedder)
    assert embedder.asked == len(mixed)
    assert [bool(side) for side in sides] == [mixed[i].endswith("y") for i in chosen]


def test_tasks_are_found_with_the_embedder_that_is_handed_in(log: Any, shuffled: Any) -> None:
    plain = texts("x", 900)
    traces = shuffled(
        [log.trace(PLAIN, f"{text} {'y' if n % 3 == 0 else 'z'}", "ok") for n, text in enumerate(plain)]
    )
    assert len(find_tasks(traces, known=(), seed=0, now=0.0).tasks) == 1
    found = find_tasks(traces, known=(), seed=0, now=0.0, embedder=Likeness())
    assert sorted(task.calls for task in found.tasks) == [300, 600]
