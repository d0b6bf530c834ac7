from __future__ import annotations

import pytest

from shoal.serve import sse
from shoal.serve.sse import SseParser

STREAM = (
    "\ufeff: a comment\r\n"
    'data: {"a": "é€😀"}\r\n\r\n'
    "event: message\nid: 4\ndata:one\ndata: two\n\n"
    ": keep-alive\n\n"
    "data\n\n"
    "data:  padded \r\r"
    "retry: 10\n\n"
    "data: [DONE]\n\n"
)
EVENTS = ['{"a": "é€😀"}', "one\ntwo", " padded ", "[DONE]"]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 64, 10_000])
def test_events_are_the_same_however_the_bytes_are_cut(size: int) -> None:
    data, parser = STREAM.encode(), SseParser()
    found = [e for i in range(0, len(data), size) for e in parser.feed(data[i : i + size])]
    assert [e for e in found if e] == EVENTS


def test_an_event_without_a_blank_line_after_it_counts_at_the_streams_end() -> None:
    parser = SseParser()
    assert list(parser.feed(b"data: last")) == []
    assert list(parser.close()) == ["last"]
    assert list(SseParser().close()) == []


def test_bytes_that_are_no_utf8_do_not_break_the_stream() -> None:
    assert list(SseParser().feed(b"data: a\xffb\n\n")) == ["a\ufffdb"]


def test_a_line_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    from shoal.errors import GeneralistUnavailable

    monkeypatch.setattr(sse, "MAX_EVENT_CHARS", 100)
    parser = SseParser()
    with pytest.raises(GeneralistUnavailable, match="longer than 100"):
        for _ in range(5):
            list(parser.feed(b"x" * 40))
