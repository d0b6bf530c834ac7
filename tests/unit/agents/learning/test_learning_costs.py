from __future__ import annotations

import itertools

import pytest

from shoal.agents.contract.break_even import Price
from shoal.agents.feedback.ledger import NO_TASK, Compute, Expense
from shoal.agents.learning.learning_costs import LearningCosts
from shoal.agents.registry.records import TaskId
from shoal.agents.traces.chat import Usage


def _costs(noted: list[Expense], *readings: float) -> LearningCosts:
    return LearningCosts(note=noted.extend, now=lambda: 50.0, cpu_seconds=itertools.chain(readings).__next__)


def test_each_task_has_its_own_and_the_rest_is_nobodys() -> None:
    noted: list[Expense] = []
    costs = _costs(noted, 1.0, 3.0, 13.0, 14.0, 16.0, 20.0)
    with costs.task(TaskId("a")) as own:
        own.trained([{"seconds": 4.0, "details": {"on_gpu": True}}, {"seconds": 9.0}])
    with pytest.raises(KeyboardInterrupt), costs.task(TaskId("b")):
        raise KeyboardInterrupt
    costs.end()
    assert [(e.kind, e.task_id, e.compute) for e in noted] == [
        ("learning", "a", Compute(cpu_ms=10_000.0, gpu_ms=4000.0)),
        ("learning", "b", Compute(cpu_ms=2000.0)),
        ("learning", NO_TASK, Compute(cpu_ms=7000.0)),
    ]


def test_opinions_are_priced_by_who_was_asked_or_not_at_all() -> None:
    noted: list[Expense] = []
    costs = _costs(noted, 0.0, 0.0, 0.0)
    usages = [Usage(prompt_tokens=100, completion_tokens=10), Usage(prompt_tokens=300, completion_tokens=20)]
    with costs.task(TaskId("a")) as own:
        own.asked("again", usages, Price(tokens_in=10, tokens_out=100))
        own.asked("judge", usages, None)
        own.asked("judge", [], None)
    again, judge = noted[1:]
    assert (again.calls, again.prompt_tokens, again.usd, again.unpriced) == (2, 400, pytest.approx(0.007), 0)
    assert (judge.calls, judge.usd, judge.unpriced) == (2, 0.0, 2)
