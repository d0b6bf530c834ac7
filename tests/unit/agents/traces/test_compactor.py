from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from shoal.agents.traces import compactor
from shoal.agents.traces.compactor import compact, expire
from shoal.agents.traces.store import ParquetTraceStore
from shoal.agents.traces.trace import Trace, TraceId
from shoal.errors import StorageFull
from shoal.home import Home
from shoal.nodes.spool import SpoolWriter, list_segments, read_spool

KEY = bytes(range(32))


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home").create()


@pytest.fixture
def store(home: Home) -> ParquetTraceStore:
    return ParquetTraceStore(home)


def record(number: int) -> dict[str, Any]:
    return {
        "id": f"t{number}",
        "timestamp": float(number),
        "request": {"model": "m", "messages": [{"role": "user", "content": f"I am eve{number}@x.org"}]},
        "response": {"choices": [{"message": {"role": "assistant", "content": "hello"}}]},
    }


def fill(home: Home, numbers: Iterable[int], **options: Any) -> None:
    with SpoolWriter(home.spool, KEY, writer_id="g", **options) as spool:
        for number in numbers:
            spool.append(record(number))


def names(store: ParquetTraceStore) -> list[str]:
    return [t.id for t in store.scan()]


def test_calls_move_from_the_spool_to_the_readable_traces(home: Home, store: ParquetTraceStore) -> None:
    fill(home, range(5))
    report = compact(home, KEY, store)
    assert (report.calls, report.removed_segments, report.busy) == (5, 1, False)
    assert names(store) == [f"t{n}" for n in range(5)]
    assert all(t.chat.last_user_text == "I am <EMAIL_1>" for t in store.scan())
    assert list_segments(home.spool) == []
    assert compact(home, KEY, store).calls == 0


def test_what_a_site_measured_of_a_call_survives_spool_and_compaction(
    home: Home, store: ParquetTraceStore
) -> None:
    message = {"role": "assistant", "content": "hello", "reasoning_content": "They greet eve7@x.org."}
    measured = {
        "latency_ms": 900.0,
        "first_token_ms": 250.0,
        "cost_usd": 0.002,
        "served_by": "generalist/big",
    }
    whole = {**record(7), "response": {"choices": [{"message": message}]}, **measured}
    with SpoolWriter(home.spool, KEY, writer_id="g") as spool:
        spool.append(Trace.from_dict(whole).to_dict())
    compact(home, KEY, store)
    [trace] = store.scan()
    assert {name: getattr(trace, name) for name in measured} == measured
    assert trace.reasoning == "They greet <EMAIL_1>."


def test_a_home_without_a_spool_is_no_error(tmp_path: Path) -> None:
    home = Home(tmp_path / "fresh")
    assert compact(home, KEY, ParquetTraceStore(home)).calls == 0


def test_calls_are_moved_while_their_writer_goes_on(home: Home, store: ParquetTraceStore) -> None:
    with SpoolWriter(home.spool, KEY, writer_id="g", segment_bytes=3000) as spool:
        for number in range(40):
            spool.append(record(number))
            if number % 7 == 0:
                compact(home, KEY, store)
        assert compact(home, KEY, store).removed_segments >= 0
        assert store.count() == 40
        # what is still being written is read, but kept
        assert [segment.sealed for segment in list_segments(home.spool)] == [False]
    assert compact(home, KEY, store).calls == 0
    assert list_segments(home.spool) == []
    assert sorted(names(store)) == sorted(f"t{n}" for n in range(40))


@pytest.mark.parametrize("step", ["add", "_write_cursor", "remove"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_crash_at_any_step_loses_nothing_and_doubles_nothing(
    home: Home, store: ParquetTraceStore, monkeypatch: pytest.MonkeyPatch, step: str, when: str
) -> None:
    fill(home, range(30), segment_bytes=2000)
    monkeypatch.setattr(compactor, "_BATCH_CALLS", 7)
    target: Any = {"add": ParquetTraceStore, "_write_cursor": compactor, "remove": compactor.Segment}[step]
    real = getattr(target, step)
    calls = 0

    def crashing(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2 and when == "before":
            raise KeyboardInterrupt
        result = real(*args)
        if calls == 2 and when == "after":
            raise KeyboardInterrupt
        return result

    with monkeypatch.context() as patch:
        patch.setattr(target, step, crashing)
        with pytest.raises(KeyboardInterrupt):
            compact(home, KEY, store)
    readable = set(names(store))
    waiting = {r["id"] for r in read_spool(home.spool, KEY)}
    assert readable | waiting == {f"t{n}" for n in range(30)}
    compact(home, KEY, store)
    assert sorted(names(store)) == sorted(f"t{n}" for n in range(30))
    assert list_segments(home.spool) == []


def test_a_full_disk_keeps_the_calls_in_the_spool(
    home: Home, store: ParquetTraceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(home, range(3))

    def full(*_: object) -> int:
        raise StorageFull("The disk is full.")

    with monkeypatch.context() as patch:
        patch.setattr(ParquetTraceStore, "add", full)
        with pytest.raises(StorageFull):
            compact(home, KEY, store)
    assert compact(home, KEY, store).calls == 3


def test_a_torn_end_and_an_altered_middle_are_counted_and_the_rest_is_moved(
    home: Home, store: ParquetTraceStore
) -> None:
    fill(home, range(6))
    (segment,) = list_segments(home.spool)
    raw = bytearray(segment.path.read_bytes())
    raw[len(raw) // 2] ^= 1
    segment.path.write_bytes(raw[:-5])
    report = compact(home, KEY, store)
    assert (report.calls, report.altered, report.torn) == (4, 1, 1)


def test_a_record_that_is_no_trace_holds_back_no_other(home: Home, store: ParquetTraceStore) -> None:
    odd = {
        **record(1),
        "id": "odd",
        "request": {"messages": [{"role": "user", "content": "x"}], "metadata": [1]},
    }
    with SpoolWriter(home.spool, KEY, writer_id="g") as spool:
        for item in (record(0), {"not": "a trace"}, odd, record(2)):
            spool.append(item)
    report = compact(home, KEY, store)
    assert (report.calls, report.refused) == (2, 2)
    assert names(store) == ["t0", "t2"]


def test_a_damaged_cursor_means_reading_from_the_start(home: Home, store: ParquetTraceStore) -> None:
    with SpoolWriter(home.spool, KEY, writer_id="g") as spool:
        spool.append(record(0))
        compact(home, KEY, store)
        (home.spool / ".cursor.json").write_text("[nonsense")
        spool.append(record(1))
        compact(home, KEY, store)
        assert names(store) == ["t0", "t1"]
        assert len(json.loads((home.spool / ".cursor.json").read_text())) == 1


def test_a_cursor_forgets_segments_that_are_gone(home: Home, store: ParquetTraceStore) -> None:
    fill(home, range(3))
    compact(home, KEY, store)
    assert json.loads((home.spool / ".cursor.json").read_text()) == {}


_CHILD = """
import sys
from pathlib import Path
from shoal.agents.traces.compactor import compact
from shoal.agents.traces.store import ParquetTraceStore
from shoal.home import Home
home = Home(Path(sys.argv[1]))

class Slow(ParquetTraceStore):
    def add(self, traces):
        print("holds", flush=True)
        sys.stdin.readline()
        return super().add(traces)

compact(home, bytes(range(32)), Slow(home))
"""


def test_only_one_process_compacts_at_a_time(home: Home, store: ParquetTraceStore) -> None:
    fill(home, range(3))
    child = subprocess.Popen(
        [sys.executable, "-c", _CHILD, str(home.root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    try:
        assert child.stdout.readline() == "holds\n"
        assert compact(home, KEY, store, wait_s=0.05).busy
    finally:
        child.communicate("go on\n", timeout=30)
    assert store.count() == 3
    assert not compact(home, KEY, store).busy


def test_many_small_files_are_merged_on_the_way(home: Home, store: ParquetTraceStore) -> None:
    for number in range(40):
        fill(home, [number])
        compact(home, KEY, store)
    assert len(list(home.traces.glob("part-*"))) < 40
    assert store.count() == 40


def test_traces_older_than_they_may_be_are_erased(store: ParquetTraceStore) -> None:
    day = 86_400.0
    store.add([Trace.from_dict({**record(n), "timestamp": n * day}) for n in range(10)])
    forgotten: list[str] = []
    assert expire(store, retention_days=None, now=10 * day, forget=forgotten.extend) == 0
    assert expire(store, retention_days=4, now=10 * day, forget=forgotten.extend) == 6
    assert expire(store, retention_days=4, now=10 * day, forget=forgotten.extend) == 0
    assert sorted(forgotten) == [f"t{n}" for n in range(6)]
    assert [t.timestamp / day for t in store.scan()] == [6, 7, 8, 9]


def test_a_simple_store_of_ones_own_can_be_filled(home: Home) -> None:
    class Remembering:
        def __init__(self) -> None:
            self.traces: dict[str, Trace] = {}

        def add(self, traces: Iterable[Trace]) -> int:
            new = {t.id: t for t in traces}
            self.traces.update(new)
            return len(new)

        def scan(self) -> Iterator[Trace]:
            return iter(self.traces.values())

        def get(self, trace_id: TraceId) -> Trace | None:
            return self.traces.get(trace_id)

        def count(self) -> int:
            return len(self.traces)

        def tidy(self) -> int:
            return 0

        def erased(self, ids: Sequence[str]) -> set[str]:
            return set()

        def erase(self, *, before: float | None) -> set[str]:
            return set()

    fill(home, range(2))
    remembering = Remembering()
    assert compact(home, KEY, remembering).calls == 2
    assert list(remembering.traces) == ["t0", "t1"]


def test_a_spool_that_is_read_again_does_not_bring_back_what_was_erased(
    home: Home, store: ParquetTraceStore
) -> None:
    with SpoolWriter(home.spool, KEY, writer_id="g") as spool:
        for number in range(4):
            spool.append(record(number))
        compact(home, KEY, store)
        assert store.erase(ids=["t1"]) == {"t1"}
        (home.spool / ".cursor.json").unlink()
        compact(home, KEY, store)
    assert names(store) == ["t0", "t2", "t3"]
