"""The measures of `bench/contract.py` measure what they say."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest


def _part(name: str) -> Any:
    folder = str(Path(__file__).parents[4] / "bench")
    sys.path.insert(0, folder)
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(folder)


splits, synthetic = _part("_contract_splits"), _part("_contract_synthetic")
Population, half_splits = synthetic.Population, splits.half_splits


def test_the_true_risk_is_that_of_all_that_a_threshold_lets_through() -> None:
    population = Population(np.array([0.9, 0.5, 0.1]), np.array([0.5, 0.25, 0.25]), np.array([0.0, 0.2, 1.0]))
    assert population.true_risk(0.9) == 0.0
    assert population.true_risk(0.5) == pytest.approx(0.05 / 0.75)
    assert population.true_risk(0.0) == pytest.approx(0.3)


def test_a_promise_is_counted_as_broken_where_it_is() -> None:
    # at 4% wrong nothing that is found breaks 5%; at 6% everything that is found does
    good = Population(np.array([0.7]), np.array([1.0]), np.array([0.04]), calls=2000)
    bad = Population(np.array([0.7]), np.array([1.0]), np.array([0.0501]), calls=200)
    assert synthetic.broken_share(good, 0.05, 20) == 0.0
    assert 0.0 < synthetic.broken_share(bad, 0.05, 300) < 0.15


def test_calls_of_a_conversation_are_right_or_wrong_together_in_the_population_that_says_so() -> None:
    population = synthetic.populations(0.05)["conversations, just above alpha"]
    _, wrong, groups = population.draw(np.random.default_rng(0))
    sums = np.bincount(groups, wrong)
    alone = len(sums) * 5 * 0.05 * 0.95 / len(sums)
    assert sums.var() > 1.5 * alone


def _calls(count: int, wrong: float, seed: int) -> list[Any]:
    rng = np.random.default_rng(seed)
    return [
        splits.Call("a", f"c{i // 2}", True, float(c), bool(rng.random() < wrong), True)
        for i, c in enumerate(rng.random(count))
    ]


def test_half_splits_count_violations_coverage_and_splits_without_a_threshold() -> None:
    good = half_splits(_calls(800, 0.01, 1), 20)
    assert good["coverage"] > 0.95 and good["violations"] == good["infeasible"] == 0.0
    bad = half_splits(_calls(800, 0.2, 1), 20)
    assert bad["infeasible"] == 1.0 and bad["coverage"] == bad["risk"] == 0.0


def test_a_services_marks_are_its_prompt_its_functions_and_its_records_name() -> None:
    def row(content: str, **more: object) -> dict[str, object]:
        messages = [{"role": "system", "content": "Say it."}, {"role": "user", "content": content}]
        return {"request": {"messages": messages, **more}}

    assert splits.marks_of(row('{"service": "Flights_3"}')) == {"prompt Say it.", "service Flights_3"}
    tools = [{"function": {"name": "find", "parameters": {"properties": {"b": {}, "a": {}}}}}]
    assert splits.marks_of(row("[1]", tools=tools)) == {"prompt Say it.", 'tools [["find", ["a", "b"]]]'}
