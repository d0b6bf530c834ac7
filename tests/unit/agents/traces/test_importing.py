from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shoal.agents.traces import importing, lines
from shoal.agents.traces.importing import ImportReport, detect_format, import_files
from shoal.agents.traces.store import ParquetTraceStore
from shoal.agents.traces.trace import Trace
from shoal.errors import DataError, UsageError
from shoal.home import Home


@pytest.fixture
def store(tmp_path: Path) -> ParquetTraceStore:
    return ParquetTraceStore(Home(tmp_path / "home").create())


def call(text: str = "hi", answer: str = "yes", **fields: Any) -> dict[str, Any]:
    return {
        "request": {"model": "m", "messages": [{"role": "user", "content": text}]},
        "response": {
            "choices": [{"message": {"role": "assistant", "content": answer}, "finish_reason": "stop"}]
        },
        **fields,
    }


def write(path: Path, *items: Any, packed: bool = False) -> Path:
    """Text and bytes as they are, the rest as JSON; one line each."""
    raw = b"".join(
        (
            item
            if isinstance(item, bytes)
            else item.encode()
            if isinstance(item, str)
            else json.dumps(item).encode()
        )
        + b"\n"
        for item in items
    )
    path.write_bytes(gzip.compress(raw) if packed else raw)
    return path


def import_one(store: ParquetTraceStore, path: Path, **options: Any) -> ImportReport:
    return import_files([path], store=store, **options)


def traces(store: ParquetTraceStore) -> list[Trace]:
    return list(store.scan())


@pytest.mark.parametrize("packed", [False, True])
def test_a_log_is_imported_plain_or_gzipped(store: ParquetTraceStore, tmp_path: Path, packed: bool) -> None:
    log = write(
        tmp_path / "log",
        call(
            "one",
            id="a",
            timestamp=100,
            client_id="c",
            tags={"k": 1},
            served_by="x",
            latency_ms=2,
            privacy="public",
        ),
        call("two", id="b", timestamp=101),
        packed=packed,
    )
    report = import_one(store, log)
    assert (report.kept, report.duplicates, report.skipped_count) == (2, 0, 0)
    assert report.formats == {str(log): "shoal"}
    one, two = traces(store)
    assert (one.client_id, one.tags, one.served_by, one.latency_ms, one.privacy) == (
        "c",
        {"k": 1},
        "x",
        2.0,
        "public",
    )
    assert (two.client_id, two.tags, two.served_by, two.latency_ms, two.privacy) == (
        "",
        {},
        "",
        None,
        "internal",
    )


def test_every_broken_line_is_named_and_the_rest_is_kept(
    store: ParquetTraceStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "MAX_LINE_BYTES", 5000)
    cases: list[tuple[Any, str]] = [
        ("{not json", "it is not JSON"),
        (b'{"request": "\xff\xfe"}', "it is not UTF-8"),
        ('{"request": {"temperature": NaN}}', "NaN is no JSON number"),
        ("[" * 2000 + "]" * 2000, "nests too deep"),
        ("42", "it must be a JSON object, not int"),
        ({"request": call()["request"]}, "it has no `response`"),
        ({**call(), "request": {"model": "m"}}, "request: `messages`: Field required"),
        ({**call(), "request": {"messages": []}}, "at least 1 item"),
        ({**call(), "request": {"messages": [{"role": "pirate", "content": "x"}]}}, "`messages.0.role`"),
        ({**call(), "request": "x"}, "must be a JSON object"),
        ({**call(), "response": {"choices": []}}, "at least one choice"),
        ({**call(), "response": {"error": {"message": "rate limit"}}}, "at least one choice"),
        ({**call(), "response": {"choices": [{"text": "x"}]}}, "must have a message"),
        ({**call(), "response": None}, "must be a JSON object, not NoneType"),
        (call(timestamp="yesterday"), "timestamp must be"),
        (call(timestamp=-5), "timestamp must be"),
        (call(timestamp=True), "timestamp must be"),
        (call(id={"a": 1}), "id must be"),
        (call(tags="x"), "tags must be"),
        (call(latency_ms="fast"), "latency_ms must be"),
        (call(privacy="secret"), "privacy must be one of"),
        (call("x" * 6000), "longer than"),
    ]
    log = write(tmp_path / "log.jsonl", call("first"), *(bad for bad, _ in cases), "", "   ", call("last"))
    report = import_one(store, log)
    assert report.kept == 2
    assert report.skipped_count == len(cases)
    for (file, line, reason), (number, (_, expected)) in zip(
        report.skipped, enumerate(cases, 2), strict=True
    ):
        assert (file, line) == (str(log), number)
        assert expected in reason, (reason, expected)
        assert len(reason) <= 200
    assert sorted(t.chat.last_user_text for t in traces(store)) == ["first", "last"]


def test_half_a_character_and_a_time_out_of_reach_are_named(store: ParquetTraceStore, tmp_path: Path) -> None:
    half = json.dumps(call("HALF")).replace("HALF", "\\ud800")
    path = write(tmp_path / "log.jsonl", half, call(timestamp=1e300), call(timestamp=1_735_689_817))
    report = import_one(store, path)
    assert report.kept == 1
    assert [(line, reason.split(",")[0]) for _, line, reason in report.skipped] == [
        (1, "a text in it has half a character (a lone surrogate)"),
        (2, "timestamp lies beyond the year 5000"),
    ]


def test_strict_stops_before_anything_of_the_file_is_stored(store: ParquetTraceStore, tmp_path: Path) -> None:
    good = write(tmp_path / "good.jsonl", call("good"))
    bad = write(tmp_path / "bad.jsonl", call("one"), "{", call("two"))
    with pytest.raises(DataError, match=r"bad\.jsonl, line 2: it is not JSON") as caught:
        import_files([good, bad], store=store, strict=True)
    assert caught.value.exit_code == 1
    assert [t.chat.last_user_text for t in traces(store)] == ["good"]
    assert import_one(store, good, strict=True).kept == 1


def test_importing_twice_doubles_nothing_also_without_ids(store: ParquetTraceStore, tmp_path: Path) -> None:
    log = write(tmp_path / "log", call("a"), call("b"), call("a"), call("c", id="own"))
    assert import_one(store, log).duplicates == 0
    before = traces(store)
    assert len(before) == 4  # the same content twice is two calls
    os.utime(log, (1, 1))
    report = import_one(store, log)
    assert (report.kept, report.duplicates) == (4, 4)
    assert {t.id for t in traces(store)} == {t.id for t in before}


def test_an_id_that_comes_twice_counts_once(store: ParquetTraceStore, tmp_path: Path) -> None:
    log = write(tmp_path / "log", call("old", id="a"), call("new", id="a"), call("b", id=7))
    report = import_one(store, log)
    assert (report.kept, report.duplicates) == (3, 1)
    assert {t.id: t.chat.last_user_text for t in traces(store)} == {"a": "new", "7": "b"}


@pytest.mark.parametrize(
    ("stamp", "seconds"),
    [
        (1735689817, 1735689817.0),
        (1735689817123, 1735689817.123),
        (1735689817123456, 1735689817.123456),
        (1735689817123456789, 1735689817.1234567),
        ("2025-01-01T00:03:37Z", 1735689817.0),
        ("2025-01-01T01:03:37+01:00", 1735689817.0),
        ("2025-01-01 00:03:37", 1735689817.0),
        ("1735689817.5", 1735689817.5),
        (0, 0.0),
    ],
)
def test_times_are_understood_in_many_forms(
    store: ParquetTraceStore, tmp_path: Path, stamp: Any, seconds: float
) -> None:
    import_one(store, write(tmp_path / "log", call(timestamp=stamp)))
    assert traces(store)[0].timestamp == pytest.approx(seconds)


def test_without_times_the_files_order_is_kept(store: ParquetTraceStore, tmp_path: Path) -> None:
    log = write(tmp_path / "log", *(call(f"{n}") for n in range(20)))
    os.utime(log, (1000, 1000))
    import_one(store, log)
    assert [t.chat.last_user_text for t in traces(store)] == [f"{n}" for n in range(20)]
    assert 1000 <= traces(store)[0].timestamp < 1001
    created = call("created")
    created["response"]["created"] = 500
    import_one(store, write(tmp_path / "log2", created))
    assert traces(store)[0].timestamp == 500


def test_a_cut_off_gzip_keeps_what_was_read_and_names_the_fault(
    store: ParquetTraceStore, tmp_path: Path
) -> None:
    log = write(tmp_path / "log.gz", *(call(os.urandom(200).hex()) for _ in range(200)), packed=True)
    log.write_bytes(log.read_bytes()[:-3000])
    report = import_one(store, log)
    assert 100 < report.kept < 200
    assert "cut off" in report.skipped[-1][2]
    with pytest.raises(DataError, match="cut off"):
        import_one(store, log, strict=True)


def test_a_damaged_gzip_keeps_what_was_read_and_names_the_fault(
    store: ParquetTraceStore, tmp_path: Path
) -> None:
    log = write(tmp_path / "log.gz", *(call(os.urandom(400).hex()) for _ in range(400)), packed=True)
    raw = bytearray(log.read_bytes())
    raw[len(raw) // 2 : len(raw) // 2 + 200] = bytes(200)
    log.write_bytes(raw)
    report = import_one(store, log)
    assert report.kept > 50
    assert report.skipped_count >= 1


def test_a_byte_order_mark_and_windows_line_ends_do_no_harm(store: ParquetTraceStore, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(
        b"\xef\xbb\xbf" + json.dumps(call()).encode() + b"\r\n" + json.dumps(call("two")).encode()
    )
    assert import_one(store, log).kept == 2


def test_an_empty_file_is_an_empty_log(store: ParquetTraceStore, tmp_path: Path) -> None:
    assert import_one(store, write(tmp_path / "log")).kept == 0


def test_a_missing_file_a_folder_and_an_unknown_format_are_wrong_usage(
    store: ParquetTraceStore, tmp_path: Path
) -> None:
    log = write(tmp_path / "log", call())
    for options, message in (
        ({"paths": [log, tmp_path / "nope"]}, "nope is not there"),
        ({"paths": [tmp_path]}, "is a folder"),
        ({"paths": [log], "format": "xml"}, "--format must be auto or one of"),
    ):
        with pytest.raises(UsageError, match=message) as caught:
            import_files(store=store, **options)  # type: ignore[arg-type]
        assert caught.value.exit_code == 2
    assert store.count() == 0


def test_only_a_hundred_faults_are_spelled_out(store: ParquetTraceStore, tmp_path: Path) -> None:
    report = import_one(store, write(tmp_path / "log", call(), *["{"] * 250))
    assert (report.kept, report.skipped_count, len(report.skipped)) == (1, 250, 100)


def test_progress_is_told_in_bytes_and_ends_at_the_whole(store: ParquetTraceStore, tmp_path: Path) -> None:
    logs = [write(tmp_path / name, *(call(f"{n}") for n in range(600))) for name in ("a", "b")]
    told: list[tuple[int, int]] = []
    import_files(logs, store=store, progress=lambda done, total: told.append((done, total)))
    whole = sum(log.stat().st_size for log in logs)
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert {total for _, total in told} == {whole}
    assert told[-1] == (whole, whole)
    assert len(told) > 4


def test_a_large_log_is_stored_in_batches(
    store: ParquetTraceStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importing, "_BATCH_CALLS", 10)
    report = import_one(store, write(tmp_path / "log", *(call(id=f"{n % 15}") for n in range(30))))
    assert (report.kept, report.duplicates, store.count()) == (30, 15, 15)


def test_odd_but_legal_json_is_kept(store: ParquetTraceStore, tmp_path: Path) -> None:
    odd = '{"id": "a", "request": {"messages": [{"role": "user", "content": "\\u0000"}], "seed": %d}, "response": %s}'
    log = write(tmp_path / "log", odd % (10**30, json.dumps(call()["response"])))
    assert import_one(store, log).kept == 1
    assert traces(store)[0].chat.last_user_text == "\x00"
    assert traces(store)[0].request["seed"] == 10**30


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(raw=st.binary(max_size=300), packed=st.booleans(), name=st.sampled_from(["auto", *importing.FORMATS]))
def test_no_file_crashes_an_import(
    store: ParquetTraceStore, tmp_path: Path, raw: bytes, packed: bool, name: str
) -> None:
    log = tmp_path / "log"
    log.write_bytes(gzip.compress(raw) if packed else raw)
    report = import_one(store, log, format=name)
    assert report.kept == 0


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "request",
                    "response",
                    "messages",
                    "choices",
                    "message",
                    "role",
                    "content",
                    "custom_id",
                    "body",
                    "observations",
                    "type",
                    "input",
                    "output",
                    "resourceSpans",
                    "scopeSpans",
                    "spans",
                    "attributes",
                    "key",
                    "value",
                    "id",
                    "standard_logging_object",
                    "call_type",
                    "metadata",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(record=_JSON, name=st.sampled_from(["auto", *importing.FORMATS]))
def test_no_json_crashes_an_import(store: ParquetTraceStore, tmp_path: Path, record: Any, name: str) -> None:
    log = write(tmp_path / "log", record)
    import_one(store, log, format=name)


def test_the_format_is_told_by_the_first_record_that_tells(tmp_path: Path) -> None:
    assert detect_format(write(tmp_path / "log", "{", '{"x": 1}', call())) == "shoal"
    assert detect_format(write(tmp_path / "log", "{", {"messages": [], "response": {}})) == "litellm"
