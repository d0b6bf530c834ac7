"""The bounded sample, and finding tasks on it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from shoal.agents.tasks.calls import Call, read_call
from shoal.agents.tasks.features import PromptMemo
from shoal.agents.tasks.finder import find_tasks
from shoal.agents.tasks.sample import Sample
from shoal.agents.traces.trace import Trace


class Scan:
    """Traces that are made anew each time, as from a store."""

    def __init__(self, traces: list[Trace]) -> None:
        self.traces = traces
        self.scans = 0

    def __iter__(self) -> Iterator[Trace]:
        self.scans += 1
        return iter([Trace.from_dict(t.to_dict()) for t in self.traces])


@pytest.fixture
def traces(log: Any, shuffled: Any) -> list[Trace]:
    sort = [log.trace("You sort complaints of a shop.", *log.complaint()) for _ in range(900)]
    write = [
        log.trace("Write one sentence about the sales in this record.", *log.record()) for _ in range(60)
    ]
    return shuffled(sort + write)


def calls_of(traces: list[Trace]) -> list[Call]:
    memo = PromptMemo()
    return [read_call(t, memo) for t in traces]


def test_a_sample_is_bounded_keeps_rare_prompts_whole_and_does_not_depend_on_the_order(
    traces: list[Trace],
) -> None:
    kept = []
    for order in (traces, traces[::-1]):
        sample = Sample(seed=0, limit=200)
        for call in calls_of(order):
            sample.add(call)
        kept.append({call.id for call in sample.calls()})
        assert sample.seen == 960
    assert kept[0] == kept[1]
    assert len(kept[0]) <= 200
    assert sum("sales" in str(t.request) for t in traces if t.id in kept[0]) == 60


def test_many_prompts_with_one_call_each_stay_within_the_limit(log: Any) -> None:
    sample = Sample(seed=0, limit=100)
    for call in calls_of(
        [
            log.trace(f"Do the thing called {chr(97 + n % 26)}{chr(97 + n // 26)}.", "x", "y")
            for n in range(500)
        ]
    ):
        sample.add(call)
    assert 40 <= len(sample.calls()) <= 100


def test_a_log_larger_than_the_sample_is_read_twice_and_every_call_is_assigned_and_counted(
    traces: list[Trace],
) -> None:
    scan = Scan(traces)
    small = find_tasks(scan, known=(), seed=0, now=0.0, max_sample=200)
    whole = find_tasks(traces, known=(), seed=0, now=0.0)
    assert scan.scans == 2
    assert [(t.id, t.name, t.calls, t.output_kind) for t in small.tasks] == [
        (t.id, t.name, t.calls, t.output_kind) for t in whole.tasks
    ]
    assert small.assignment == whole.assignment
    assert [t.match["about"] for t in small.tasks] == [t.match["about"] for t in whole.tasks]
    assert find_tasks(iter(traces), known=(), seed=0, now=0.0, max_sample=200) == small
