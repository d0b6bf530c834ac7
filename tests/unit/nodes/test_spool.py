from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shoal.errors import DataError, SiteError, StorageFull
from shoal.nodes.segment import SegmentReader
from shoal.nodes.spool import SpoolWriter, list_segments, read_segment, read_spool

KEY = bytes(range(32))


class StoppedClock:
    def now(self) -> float:
        return 1_700_000_000.0

    def monotonic(self) -> float:
        return 5.0


def writer(folder: Path, **options: Any) -> SpoolWriter:
    return SpoolWriter(folder, KEY, writer_id="gateway 1", **options)


def record(number: int, size: int = 40) -> dict[str, Any]:
    return {"id": f"r{number}", "text": "x" * size, "number": number}


def written_segment(folder: Path, count: int) -> Path:
    with writer(folder) as spool:
        for number in range(count):
            spool.append(record(number))
    (segment,) = list_segments(folder)
    return segment.path


def test_what_was_appended_is_read_back_in_order(tmp_path: Path) -> None:
    with writer(tmp_path) as spool:
        for number in range(100):
            spool.append(record(number))
    assert list(read_spool(tmp_path, KEY)) == [record(number) for number in range(100)]


@pytest.mark.parametrize(
    "odd",
    [
        {"text": "half a pair \ud800", "emoji": "🐟"},
        {"number": 2**63 - 1, "negative": -(2**63), "float": 1e300, "none": None, "yes": True},
        {"nested": [[{"a": [1, {"b": []}]}]], "bytes": b"\x00\xff"},
        {},
    ],
)
def test_odd_but_plain_data_survives(tmp_path: Path, odd: dict[str, Any]) -> None:
    with writer(tmp_path) as spool:
        spool.append(odd)
    assert list(read_spool(tmp_path, KEY)) == [odd]


def test_an_integer_beyond_64_bits_does_not_lose_the_record(tmp_path: Path) -> None:
    with writer(tmp_path) as spool:
        spool.append({"seed": 2**70})
    assert list(read_spool(tmp_path, KEY)) == [{"seed": float(2**70)}]


def test_what_is_no_plain_data_is_refused_and_the_spool_goes_on(tmp_path: Path) -> None:
    deep: dict[str, Any] = {}
    inner = deep
    for _ in range(2000):
        inner["a"] = {}
        inner = inner["a"]
    with writer(tmp_path) as spool:
        for bad in (deep, {"object": object()}):
            with pytest.raises(DataError):
                spool.append(bad)
        spool.append(record(1))
    assert list(read_spool(tmp_path, KEY)) == [record(1)]


def test_the_text_of_a_record_is_nowhere_on_the_disk(tmp_path: Path) -> None:
    with writer(tmp_path) as spool:
        spool.append({"text": "a very secret sentence"})
    (segment,) = list_segments(tmp_path)
    assert b"secret" not in segment.path.read_bytes()
    assert segment.path.stat().st_mode & 0o077 == 0


def test_another_key_reads_nothing(tmp_path: Path) -> None:
    written_segment(tmp_path, 3)
    spool = read_spool(tmp_path, b"\x01" * 32)
    assert list(spool) == []
    assert spool.altered == 1


def test_a_full_segment_is_sealed_and_the_next_one_opened(tmp_path: Path) -> None:
    with writer(tmp_path, segment_bytes=1000) as spool:
        for number in range(50):
            spool.append(record(number))
        states = [segment.sealed for segment in list_segments(tmp_path)]
        assert states == [True] * (len(states) - 1) + [False]
        assert len(states) > 3
    assert all(segment.sealed for segment in list_segments(tmp_path))
    assert [r["number"] for r in read_spool(tmp_path, KEY)] == list(range(50))


def test_segments_never_share_a_salt_and_keep_their_order_on_a_stopped_clock(tmp_path: Path) -> None:
    with writer(tmp_path, segment_bytes=100, clock=StoppedClock()) as spool:
        for number in range(30):
            spool.append(record(number))
    assert [r["number"] for r in read_spool(tmp_path, KEY)] == list(range(30))
    salts = [read_segment(s.path, KEY).header.salt for s in list_segments(tmp_path)]
    assert len(salts) == 30
    assert len(set(salts)) == 30


def test_a_reader_follows_a_writer_from_offset_to_offset(tmp_path: Path) -> None:
    with writer(tmp_path) as spool:
        offset, seen = 0, []
        for number in range(20):
            spool.append(record(number))
            if number % 3 == 0:
                (segment,) = list_segments(tmp_path)
                for found, after in read_segment(segment.path, KEY, offset):
                    seen.append(found["number"])
                    offset = after
        assert seen == list(range(19))


def test_threads_may_append_at_once(tmp_path: Path) -> None:
    with writer(tmp_path, segment_bytes=20_000) as spool:

        def append(start: int) -> None:
            for number in range(start, start + 200):
                spool.append(record(number))

        threads = [threading.Thread(target=append, args=(1000 * i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    found = [r["number"] for r in read_spool(tmp_path, KEY)]
    assert sorted(found) == [1000 * i + n for i in range(4) for n in range(200)]


def test_a_record_that_was_moved_or_copied_is_refused(tmp_path: Path) -> None:
    path = written_segment(tmp_path, 3)
    raw = path.read_bytes()
    ends = [offset for _, offset in read_segment(path, KEY)]
    first = read_segment(path, KEY).header.size
    one, two = raw[first : ends[0]], raw[ends[0] : ends[1]]
    path.write_bytes(raw[:first] + two + one + raw[ends[1] :])
    reader = read_segment(path, KEY)
    assert [r["number"] for r, _ in reader] == [2]
    assert reader.altered == 1
    path.write_bytes(raw + one)
    reader = read_segment(path, KEY)
    assert [r["number"] for r, _ in reader] == [0, 1, 2]
    assert reader.altered == 1


def test_a_record_of_another_segment_is_refused(tmp_path: Path) -> None:
    one, two = written_segment(tmp_path / "a", 1), written_segment(tmp_path / "b", 1)
    size = read_segment(one, KEY).header.size
    two.write_bytes(two.read_bytes()[:size] + one.read_bytes()[size:])
    reader = read_segment(two, KEY)
    assert list(reader) == []
    assert reader.altered == 1


def test_a_file_that_is_no_segment_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    written_segment(tmp_path, 2)
    (tmp_path / "000-x.sealed").write_bytes(b"nonsense")
    spool = read_spool(tmp_path, KEY)
    assert len(list(spool)) == 2
    assert spool.unreadable == [tmp_path / "000-x.sealed"]


@pytest.fixture(scope="module")
def segment_bytes_and_records(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, list[int]]:
    path = written_segment(tmp_path_factory.mktemp("segment"), 12)
    return path.read_bytes(), [offset for _, offset in read_segment(path, KEY)]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 1))
def test_a_file_cut_anywhere_gives_all_whole_records_before_the_cut(
    tmp_path: Path, segment_bytes_and_records: tuple[bytes, list[int]], share: float
) -> None:
    raw, ends = segment_bytes_and_records
    cut = int(share * len(raw))
    path = tmp_path / "cut.sealed"
    path.write_bytes(raw[:cut])
    whole = sum(end <= cut for end in ends)
    try:
        reader = SegmentReader(path, KEY)
    except DataError:
        assert whole == 0
        return
    assert [r for r, _ in reader] == [record(number) for number in range(whole)]
    assert reader.torn == (cut not in (*ends, reader.header.size))
    assert reader.altered == 0


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    flips=st.lists(st.tuples(st.floats(0, 0.9999), st.integers(0, 7)), min_size=1, max_size=6, unique=True)
)
def test_flipped_bits_never_crash_a_reader_and_never_yield_another_record(
    tmp_path: Path, segment_bytes_and_records: tuple[bytes, list[int]], flips: list[tuple[float, int]]
) -> None:
    raw, ends = segment_bytes_and_records
    changed = bytearray(raw)
    for share, bit in flips:
        changed[int(share * len(raw))] ^= 1 << bit
    path = tmp_path / "flipped.sealed"
    path.write_bytes(changed)
    try:
        reader = SegmentReader(path, KEY)
        found = [r["number"] for r, _ in reader]
    except DataError:
        return
    header = reader.header.size
    starts = [header, *ends[:-1]]
    touched = {
        i for i, (a, b) in enumerate(zip(starts, ends, strict=True)) if raw[a:b] != bytes(changed[a:b])
    }
    if bytes(changed[:header]) == raw[:header]:
        assert found == [number for number in range(len(ends)) if number not in touched]
        assert (reader.altered + reader.torn > 0) == bool(touched)
    else:
        assert found == []


_CHILD = """
import os, sys
from pathlib import Path
from shoal.nodes.spool import SpoolWriter
spool = SpoolWriter(Path(sys.argv[1]), bytes(range(32)), writer_id="child", segment_bytes=50_000)
number = 0
while True:
    spool.append({"number": number, "text": "y" * 500})
    os.write(1, b"%d\\n" % number)
    number += 1
"""


def test_kill_9_loses_no_record_that_was_acknowledged(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", _CHILD, str(tmp_path)], stdout=subprocess.PIPE)
    assert child.stdout is not None
    acknowledged = [int(child.stdout.readline()) for _ in range(400)]
    assert list_segments(tmp_path)[-1].sealed is False
    child.send_signal(signal.SIGKILL)
    rest = child.stdout.read()
    child.wait()
    acknowledged += [int(line) for line in rest.split(b"\n")[:-1]]
    spool = read_spool(tmp_path, KEY)
    found = [r["number"] for r in spool]
    assert found[: len(acknowledged)] == acknowledged
    assert len(found) <= len(acknowledged) + 1
    assert spool.altered == 0
    # the kernel dropped the dead writer's lock
    assert all(segment.sealed for segment in list_segments(tmp_path))


def test_too_little_room_refuses_the_record_and_keeps_the_others(tmp_path: Path) -> None:
    with writer(tmp_path) as spool:
        spool.append(record(0))
    with writer(tmp_path, min_free_bytes=1 << 60) as spool, pytest.raises(StorageFull, match="must keep"):
        spool.append(record(1))
    assert list(read_spool(tmp_path, KEY)) == [record(0)]


_FULL_DISK = """
import resource, sys
from pathlib import Path
from shoal.errors import StorageFull
from shoal.nodes.spool import SpoolWriter
spool = SpoolWriter(Path(sys.argv[1]), bytes(range(32)), writer_id="child")
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))
kept = refused = 0
for number in range(100):
    try:
        spool.append({"number": number, "text": "z" * 700})
        kept += 1
    except StorageFull:
        refused += 1
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
spool.append({"number": 1000})
spool.close()
print(kept, refused)
"""


def test_a_disk_that_fills_up_leaves_nothing_half_written_and_goes_on_afterwards(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _FULL_DISK, str(tmp_path)], capture_output=True, text=True, check=True
    )
    kept, refused = map(int, done.stdout.split())
    assert kept > 5
    assert refused == 100 - kept
    spool = read_spool(tmp_path, KEY)
    assert [r["number"] for r in spool] == [*range(kept), 1000]
    assert (spool.altered, spool.torn) == (0, 0)


def test_a_closed_writer_takes_nothing_more(tmp_path: Path) -> None:
    spool = writer(tmp_path)
    spool.append(record(0))
    spool.close()
    spool.close()
    with pytest.raises(SiteError, match="closed"):
        spool.append(record(1))


def test_a_folder_that_cannot_be_made_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SiteError, match="cannot be written"):
        writer(tmp_path / "file" / "spool")


def test_the_background_thread_syncs_what_was_appended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    real = os.fdatasync
    monkeypatch.setattr(os, "fdatasync", lambda fd: (synced.append(fd), real(fd))[1])
    spool = writer(tmp_path, sync_every_s=0.01)
    for number in range(500):
        spool.append(record(number))
    deadline = time.monotonic() + 5
    while not synced and time.monotonic() < deadline:
        time.sleep(0.01)
    assert 1 <= len(synced) < 100
    spool.close()
