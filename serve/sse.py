"""Server-sent events, without I/O: bytes in any pieces in, the data of whole events out. Knows nothing of what is in them."""

from __future__ import annotations

import codecs
from collections.abc import Iterator

from shoal.errors import GeneralistUnavailable

#: an event larger than this is no chat chunk; the stream is given up rather than collected without end
MAX_EVENT_CHARS = 16 << 20


class SseParser:
    """Collects the `data` fields of events, as the HTML standard says (section 9.2.6).

    Takes LF, CRLF and CR line ends, comments, several `data` lines in one event, and pieces cut anywhere, also within a
    character. `event`, `id` and `retry` fields are skipped.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        #: the start of a line whose end has not come yet
        self._rest = ""
        #: a CR ended the last piece: an LF at the start of the next one belongs to it
        self._after_cr = False
        self._data: list[str] = []
        self._started = False

    def feed(self, piece: bytes) -> Iterator[str]:
        """The data of each event that this piece completes."""
        yield from self._text(self._decoder.decode(piece))

    def close(self) -> Iterator[str]:
        """The data of a last event that the stream's end cut off before its blank line, if it has any."""
        yield from self._text(self._decoder.decode(b"", final=True) + "\n\n")

    def _text(self, text: str) -> Iterator[str]:
        if self._after_cr and text:
            self._after_cr = False
            text = text.removeprefix("\n")
        if not self._started and text:
            self._started = True
            text = text.removeprefix("\ufeff")
        if text.endswith("\r"):
            self._after_cr = True
        if "\r" in text:
            text = text.replace("\r\n", "\n").replace("\r", "\n")
        text = self._rest + text
        if len(text) > MAX_EVENT_CHARS:
            raise GeneralistUnavailable(f"A streamed event is longer than {MAX_EVENT_CHARS} characters.")
        *lines, self._rest = text.split("\n")
        for line in lines:
            if (event := self._line(line)) is not None:
                yield event

    def _line(self, line: str) -> str | None:
        if not line:
            data, self._data = self._data, []
            return "\n".join(data) if data else None
        name, colon, value = line.partition(":")
        if name == "data":
            self._data.append(value.removeprefix(" ") if colon else "")
        return None
