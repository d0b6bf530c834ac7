from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from shoal.agents.feedback.ledger import NO_TASK
from shoal.agents.feedback.ledger_reading import LedgerReader
from shoal.agents.registry.records import Task, TaskId
from shoal.agents.tasks.finder import find_tasks
from shoal.agents.traces.store import ParquetTraceStore, Section
from shoal.agents.traces.trace import Trace
from shoal.home import Home

from .books import HOUR_S, call, specialist_call

A = TaskId("a")
READ: list[str] = []


@pytest.fixture(autouse=True)
def _watched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Note each file that is read."""
    READ.clear()
    traces = Section.traces

    def noted(section: Section) -> Iterator[Trace]:
        READ.append(section.mark.partition(":")[0])
        return traces(section)

    monkeypatch.setattr(Section, "traces", noted)


@pytest.fixture
def store(tmp_path: Path) -> ParquetTraceStore:
    found = ParquetTraceStore(Home(tmp_path).create())
    found.add(call(n) for n in range(5))
    found.add(specialist_call(n) for n in range(5, 8))
    return found


def _tasks(name: str = "a") -> list[Task]:
    """A task of id `a`, recognised by what no request here has."""
    found = find_tasks([call(n) for n in range(300)], known=[], seed=0, now=0.0).tasks
    return [replace(found[0], id=A, name=name, match={})] if found else []


def _reader(store: ParquetTraceStore, tmp_path: Path, tasks: list[Task] | None = None) -> LedgerReader:
    return LedgerReader(store, _tasks() if tasks is None else tasks, tmp_path / "ledger.json")


def test_each_file_is_read_once_and_a_new_one_alone(store: ParquetTraceStore, tmp_path: Path) -> None:
    first = _reader(store, tmp_path).read()
    assert (first.sums[A].calls, first.sums[A].by_specialist, len(READ)) == (8, 3, 2)
    assert _reader(store, tmp_path).read().to_dict() == first.to_dict()
    assert len(READ) == 2
    store.add([call(8)])
    reader = _reader(store, tmp_path)
    assert reader.rows_to_read() == 1
    assert reader.read().sums[A].calls == 9
    assert len(READ) == 3


def test_a_record_that_replaces_another_counts_once(store: ParquetTraceStore, tmp_path: Path) -> None:
    _reader(store, tmp_path).read()
    store.add([specialist_call(0)])
    again = _reader(store, tmp_path).read().sums[A]
    assert (again.calls, again.by_specialist) == (8, 4)


def test_what_was_erased_is_in_no_sum(store: ParquetTraceStore, tmp_path: Path) -> None:
    _reader(store, tmp_path).read()
    store.erase(ids=["t5", "t6", "t7"])
    assert _reader(store, tmp_path).read().sums[A].by_specialist == 0
    assert len(json.loads((tmp_path / "ledger.json").read_text())["sections"]) == 1


def test_since_a_moment_inside_a_file_only_later_calls_count(
    store: ParquetTraceStore, tmp_path: Path
) -> None:
    found = _reader(store, tmp_path).read(since=3 * HOUR_S)
    assert found.total().calls == 5
    assert _reader(store, tmp_path).read().total().calls == 8, "half a file's sums are not kept as its own"


def test_other_tasks_mean_other_sums(store: ParquetTraceStore, tmp_path: Path) -> None:
    _reader(store, tmp_path).read()
    assert _reader(store, tmp_path, []).read().sums[NO_TASK].calls == 8
    assert len(READ) == 4
    # a new name or new figures for people change nothing
    renamed = [replace(task, name="other", match={**task.match, "about": {"x": 1}}) for task in _tasks()]
    before = len(READ)
    _reader(store, tmp_path).read()
    _reader(store, tmp_path, renamed).read()
    assert len(READ) == before + 2


def test_a_call_without_a_recorded_task_is_recognised_by_its_request(tmp_path: Path) -> None:
    calls = [replace(call(n), tags={}) for n in range(300)]
    (task, *_) = find_tasks(calls, known=[], seed=0, now=0.0).tasks
    store = ParquetTraceStore(Home(tmp_path).create())
    store.add(calls[:20])
    assert _reader(store, tmp_path, [task]).read().sums[task.id].calls == 20


def test_sums_that_cannot_be_read_or_kept_are_no_error(store: ParquetTraceStore, tmp_path: Path) -> None:
    (tmp_path / "ledger.json").write_text("{broken")
    assert _reader(store, tmp_path).read().total().calls == 8
    nowhere = LedgerReader(store, _tasks(), tmp_path / "no" / "folder" / "ledger.json")
    assert nowhere.read().total().calls == 8
