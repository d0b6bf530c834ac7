from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.agents.traces import store as store_module
from shoal.agents.traces.parts import superseded_ids
from shoal.agents.traces.store import ParquetTraceStore
from shoal.agents.traces.trace import Trace, TraceId
from shoal.errors import StorageFull
from shoal.home import Home


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home").create()


@pytest.fixture
def store(home: Home) -> ParquetTraceStore:
    return ParquetTraceStore(home)


def trace(name: str, at: float = 0.0, *, text: str = "hi", client: str = "", answer: str = "yes") -> Trace:
    return Trace(
        id=TraceId(name),
        request={"model": "m", "messages": [{"role": "user", "content": text}]},
        response={"model": "m", "choices": [{"message": {"role": "assistant", "content": answer}}]},
        timestamp=at,
        client_id=client,
    )


def ids(store: ParquetTraceStore) -> list[str]:
    return [t.id for t in store.scan()]


def parquet_files(home: Home) -> list[Path]:
    return sorted(home.traces.glob("part-*.parquet"))


def test_a_trace_comes_back_as_it_went_in(store: ParquetTraceStore) -> None:
    before = Trace(
        id=TraceId("a"),
        request={
            "model": "gpt-ø",
            "messages": [{"role": "user", "content": [{"type": "text", "text": "🐟 \ud800"}]}],
            "metadata": {"conversation_id": 7},
            "seed": 2**80,
        },
        response={"choices": [{"message": {"role": "assistant", "content": None}}]},
        timestamp=1.5,
        client_id="c",
        tags={"x": [1, {"y": None}]},
        served_by="specialist/t@1",
        latency_ms=0.0,
        privacy="local-only",
    )
    assert store.add([before]) == 1
    assert list(store.scan()) == [before]
    assert store.get(TraceId("a")) == before
    assert store.get(TraceId("b")) is None


def test_an_empty_store_answers_every_question(store: ParquetTraceStore) -> None:
    assert ids(store) == []
    assert store.count() == 0
    assert store.add([]) == 0
    assert store.heads() == []
    assert store.delete(client="x") == 0
    assert store.stats().calls == 0
    assert store.stats().first_timestamp is None


def test_traces_are_scanned_by_time_then_id_over_all_files(store: ParquetTraceStore) -> None:
    store.add([trace("d", 3), trace("b", 1)])
    store.add([trace("e", 2), trace("a", 1), trace("c", 9)])
    store.add([trace("z", 0)])
    assert ids(store) == ["z", "a", "b", "e", "d", "c"]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 5)), max_size=8), max_size=6))
def test_whatever_is_added_the_last_record_of_an_id_counts(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[tuple[int, int]]]
) -> None:
    store = ParquetTraceStore(Home(tmp_path_factory.mktemp("home")).create())
    expected: dict[str, Trace] = {}
    for batch in batches:
        traces = [trace(str(name), at, text=f"{name} {at}") for name, at in batch]
        store.add(traces)
        expected.update({t.id: t for t in traces})
    assert list(store.scan()) == sorted(expected.values(), key=lambda t: (t.timestamp, t.id))
    assert store.count() == len(expected) == store.stats().calls
    assert store.known(list("0123456789x")) == set(expected)
    for name, found in expected.items():
        assert store.get(TraceId(name)) == found


def test_a_repeated_hash_is_not_taken_for_a_repeated_id() -> None:
    class Same(str):
        def __hash__(self) -> int:
            return 1

    found = superseded_ids({1: [Same("a"), Same("b")], 2: [Same("b"), Same("c")]})
    assert {number: sorted(ids) for number, ids in found.items()} == {1: ["b"]}


def test_personal_data_is_gone_before_anything_is_written(store: ParquetTraceStore, home: Home) -> None:
    store.add([trace("a", text="mail eve@example.org", answer="mailed eve@example.org")])
    (found,) = store.scan()
    assert found.chat.last_user_text == "mail <EMAIL_1>"
    assert found.answer.content == "mailed <EMAIL_1>"
    assert store.scrubbed == {"email": 2}
    table = pq.read_table(parquet_files(home)[0])
    assert "eve@" not in str(table.to_pylist())


def test_deleting_by_id_client_and_time(store: ParquetTraceStore) -> None:
    store.add([trace("a", 1, client="x"), trace("b", 2, client="y"), trace("c", 3, client="x")])
    store.add([trace("d", 4, client="z"), trace("e", 5, client="y")])
    assert store.delete(ids=["d", "nobody"]) == 1
    assert store.delete(client="x") == 2
    assert store.delete(before=5) == 1
    assert ids(store) == ["e"]
    assert store.delete(before=5) == 0


def test_a_deleted_call_does_not_come_back_in_an_older_form(store: ParquetTraceStore, home: Home) -> None:
    store.add([trace("a", 1, client="old", text="first secret"), trace("b", 1)])
    store.add([trace("a", 2, client="new", text="second")])
    assert store.delete(client="new") == 1
    assert ids(store) == ["b"]
    assert "secret" not in str([pq.read_table(p).to_pylist() for p in parquet_files(home)])


def test_deleting_what_an_older_form_said_spares_the_newer_one(store: ParquetTraceStore, home: Home) -> None:
    store.add([trace("a", 1, client="old", text="first secret")])
    store.add([trace("a", 2, client="new", text="second")])
    assert store.delete(client="old") == 0
    assert [t.client_id for t in store.scan()] == ["new"]
    assert "secret" not in str([pq.read_table(p).to_pylist() for p in parquet_files(home)])


def test_a_file_without_traces_left_is_removed(store: ParquetTraceStore, home: Home) -> None:
    store.add([trace("a", client="x")])
    store.delete(client="x")
    assert parquet_files(home) == []
    store.add([trace("b")])
    assert ids(store) == ["b"]


def test_small_files_are_merged_and_every_answer_stays(store: ParquetTraceStore, home: Home) -> None:
    for number in range(12):
        store.add([trace(f"t{number % 8}", number, text=f"{number}")])
    before = list(store.scan())
    assert store.tidy(small_files=100) == 0
    assert store.tidy(small_files=5) == 11
    assert len(parquet_files(home)) == 1
    assert list(store.scan()) == before
    store.add([trace("t1", 50, text="newest")])
    assert store.get(TraceId("t1")) == trace("t1", 50, text="newest")


def test_a_crash_in_the_middle_of_merging_doubles_nothing(store: ParquetTraceStore, home: Home) -> None:
    for number in range(4):
        store.add([trace(f"t{number % 3}", number)])
    before = list(store.scan())
    first = parquet_files(home)[0]
    kept = first.read_bytes()
    store.tidy(small_files=2)
    first.write_bytes(kept)  # as if the process had died before it removed its sources
    assert list(ParquetTraceStore(home).scan()) == before


def test_a_scan_goes_on_while_another_process_merges_and_deletes(
    store: ParquetTraceStore, home: Home
) -> None:
    for number in range(5):
        store.add([trace(f"t{number}", number)])
    scan: Iterator[Trace] = store.scan()
    assert next(scan).id == "t0"
    other = ParquetTraceStore(home)
    other.tidy(small_files=2)
    other.delete(ids=["t3"])
    assert [t.id for t in scan] == ["t1", "t2", "t3", "t4"]
    assert ids(store) == ["t0", "t1", "t2", "t4"]


def test_an_unreadable_file_is_named_and_the_others_are_read(
    store: ParquetTraceStore, home: Home, caplog: pytest.LogCaptureFixture
) -> None:
    store.add([trace("a")])
    store.add([trace("b")])
    parquet_files(home)[0].write_bytes(b"PAR1 nonsense")
    with caplog.at_level(logging.WARNING):
        assert ids(store) == ["b"]
    assert "part-0000000001.parquet cannot be read" in caplog.text
    assert list(store.stats().unreadable) == [str(parquet_files(home)[0])]
    assert store.count() == 1
    store.add([trace("c")])
    assert ids(store) == ["b", "c"]


def test_a_damaged_page_is_noticed(
    store: ParquetTraceStore, home: Home, caplog: pytest.LogCaptureFixture
) -> None:
    store.add([trace(f"t{n:03}", n, text=f"a text {n * 7919}") for n in range(300)])
    path = parquet_files(home)[0]
    raw = bytearray(path.read_bytes())
    column = pq.ParquetFile(path).metadata.row_group(0).column(9)
    raw[column.data_page_offset + column.total_compressed_size // 2] ^= 0xFF
    path.write_bytes(raw)
    with caplog.at_level(logging.WARNING):
        assert len(ids(ParquetTraceStore(home))) < 300
    assert "part-0000000001.parquet is damaged" in caplog.text


_CHILD = """
import sys
from pathlib import Path
from shoal.agents.traces.store import ParquetTraceStore
from shoal.agents.traces.trace import Trace, TraceId
from shoal.home import Home
store = ParquetTraceStore(Home(Path(sys.argv[1])))
for batch in range(8):
    store.add([
        Trace(id=TraceId(f"{sys.argv[2]}-{batch}-{n}"), timestamp=float(n), response={"choices": [{"message": {}}]},
              request={"messages": [{"role": "user", "content": "x"}]})
        for n in range(10)
    ])
"""


def test_two_processes_that_add_at_once_lose_nothing(store: ParquetTraceStore, home: Home) -> None:
    children = [subprocess.Popen([sys.executable, "-c", _CHILD, str(home.root), name]) for name in ("a", "b")]
    assert [child.wait(60) for child in children] == [0, 0]
    assert store.count() == 160
    assert len(set(ids(store))) == 160
    assert len(parquet_files(home)) == 16


def test_a_full_disk_is_a_clear_error_and_leaves_no_draft(
    store: ParquetTraceStore, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.add([trace("a")])

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(pq, "write_table", full)
        with pytest.raises(StorageFull, match="is full"):
            store.add([trace("b")])
    assert ids(store) == ["a"]
    assert not list(home.traces.glob(".draft*"))


def test_a_large_batch_is_split_into_files(
    store: ParquetTraceStore, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "MAX_PART_ROWS", 10)
    assert store.add(trace(f"t{n:02}", n) for n in range(25)) == 25
    assert len(parquet_files(home)) == 3
    assert ids(store) == [f"t{n:02}" for n in range(25)]


def test_stats_and_heads_count_only_the_records_that_count(store: ParquetTraceStore) -> None:
    store.add([trace("a", 1, client="x"), trace("b", 2, client="y")])
    store.add([trace("a", 3, client="z")])
    stats = store.stats()
    assert (stats.calls, stats.files, stats.first_timestamp, stats.last_timestamp) == (2, 2, 2.0, 3.0)
    assert stats.clients == {"y": 1, "z": 1}
    assert stats.models == {"m": 2}
    assert [head.id for head in store.heads()] == ["a", "b"]
    assert [head.id for head in store.heads(limit=1)] == ["a"]
    assert [head.id for head in store.heads(client="y")] == ["b"]


def test_a_scan_may_begin_at_a_time(store: ParquetTraceStore) -> None:
    store.add([trace("a", 1), trace("b", 5)])
    store.add([trace("c", 2), trace("d", 3)])
    assert [t.id for t in store.scan(since=3)] == ["d", "b"]
    assert [t.id for t in store.scan(since=6)] == []


def test_calls_are_picked_by_their_ids_and_the_record_that_counts_is_the_newest(
    store: ParquetTraceStore,
) -> None:
    store.add([trace("a", 1, answer="old"), trace("b", 2), trace("c", 3)])
    store.add([trace("a", 1, answer="new"), trace("d", 4)])
    found = {t.id: t.answer.content for t in store.pick({"a", "c", "d", "missing"})}
    assert found == {"a": "new", "c": "yes", "d": "yes"}
    assert store.pick(()) == []


def test_files_from_before_a_column_was_added_are_read_counted_and_merged(
    home: Home, store: ParquetTraceStore
) -> None:
    store.add([trace("old", 1.0, client="c")])
    [path] = parquet_files(home)
    table = pq.read_table(path).drop_columns(["first_token_ms", "cost_usd"])
    pq.write_table(table, path)
    store.add([trace("new", 2.0, client="c")])
    assert [(t.id, t.cost_usd) for t in store.scan()] == [("old", None), ("new", None)]
    assert store.stats().clients == {"c": 2}
    assert store.tidy(small_files=2) == 1
    assert ids(store) == ["old", "new"]
