"""The spool's file format: one segment of encrypted records, and how to read it after a crash or an alteration.

A segment is a header (magic, version, 64-bit random salt, writer, time) and frames. A frame is a marker, the record's
number, the length of what follows, and the record in msgpack under AES-256-GCM. The nonce is salt and number, so none
is used twice under a key; header, frame head and the frame's place in the file are authenticated, so that a record that
was changed, moved or copied is refused. Knows nothing of what a record means.
"""

from __future__ import annotations

import hashlib
import secrets
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import msgpack
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from shoal.errors import DataError

Record: TypeAlias = Mapping[str, Any]

MAGIC = b"SHOALSPL"
FORMAT_VERSION = 1
MARKER = b"\xf5\xa7SR"
MAX_RECORD_BYTES = 64 << 20

_HEADER = struct.Struct(">8sH8sdH")  # magic, version, salt, created_at, length of the writer's name
_FRAME = struct.Struct(">4sII")  # marker, number, bytes that follow
_PLACE = struct.Struct(">Q")
_TAG_BYTES = 16


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    """Who wrote a segment and when. `size` is the header's length in bytes: the offset of the first record."""

    writer_id: str
    created_at: float
    salt: bytes
    digest: bytes
    size: int


def new_header(*, writer_id: str, created_at: float) -> tuple[SegmentHeader, bytes]:
    """A header with a fresh salt, and its bytes."""
    name = writer_id.encode("utf-8")
    raw = _HEADER.pack(MAGIC, FORMAT_VERSION, secrets.token_bytes(8), created_at, len(name)) + name
    return _parse_header(raw, Path("new segment")), raw


def _parse_header(raw: bytes, path: Path) -> SegmentHeader:
    if len(raw) < _HEADER.size or not raw.startswith(MAGIC):
        raise DataError(
            f"{path} is no spool segment: its header is damaged.", remedy="Move it away and look for a copy."
        )
    _, version, salt, created_at, name_length = _HEADER.unpack_from(raw)
    if version != FORMAT_VERSION:
        raise DataError(
            f"{path} has spool format {version}; this Shoal reads {FORMAT_VERSION}.", remedy="Upgrade Shoal."
        )
    size = _HEADER.size + name_length
    if len(raw) < size:
        raise DataError(f"{path} is cut off inside its header.", remedy="Nothing was in it; remove it.")
    name = raw[_HEADER.size : size].decode("utf-8", "replace")
    return SegmentHeader(name, created_at, salt, hashlib.sha256(raw[:size]).digest()[:16], size)


class FrameWriter:
    """Turns records into frames for one segment. Not thread-safe."""

    def __init__(self, key: bytes, header: SegmentHeader) -> None:
        self._cipher = AESGCM(key)
        self._header = header
        self._next_number = 0

    def frame(self, plain: bytes, *, offset: int) -> bytes:
        """The frame that holds `plain` at `offset` bytes into the file. Each number, and so each nonce, is used once."""
        number = self._next_number
        self._next_number += 1
        head = _FRAME.pack(MARKER, number, len(plain) + _TAG_BYTES)
        nonce = self._header.salt + number.to_bytes(4, "big")
        return head + self._cipher.encrypt(nonce, plain, self._header.digest + head + _PLACE.pack(offset))


def encode_record(record: Record) -> bytes:
    """msgpack. Raises DataError where the record nests too deep, or is larger than 64 MiB."""
    try:
        plain: bytes = msgpack.packb(
            record, use_bin_type=True, unicode_errors="surrogatepass", default=_plain_data
        )
    except (ValueError, TypeError, OverflowError) as error:
        raise DataError(
            f"A record must be plain data that msgpack takes: {error}.", remedy="Send a flatter request."
        ) from error
    if len(plain) > MAX_RECORD_BYTES:
        raise DataError(
            f"A record must be at most {MAX_RECORD_BYTES} bytes long, got {len(plain)}.",
            remedy="Send less at once.",
        )
    return plain


def _plain_data(value: object) -> object:
    """What msgpack cannot hold: integers beyond 64 bits become floats or text, mappings and sequences plain ones."""
    if isinstance(value, int):
        try:
            return float(value)
        except OverflowError:
            return str(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, (set, frozenset)):
        return list(value)
    raise TypeError(f"{type(value).__name__} is no plain data")


class SegmentReader(Iterator[tuple[Record, int]]):
    """Yields (record, offset after it). What cannot be trusted is never yielded, only counted.

    Attributes:
        offset: after the last good record; reading may go on from there later.
        altered: places where bytes were changed; reading goes on at the next good record.
        torn: 1 if the file ends inside a record: a writer that died, or one that is still writing.
    """

    def __init__(self, path: Path, key: bytes, offset: int = 0) -> None:
        self.path = path
        self.altered = 0
        self.torn = 0
        self._raw = path.read_bytes()
        self.header = _parse_header(self._raw, path)
        self.offset = max(offset, self.header.size)
        self._last_number = -1
        self._cipher = AESGCM(key)

    @property
    def size(self) -> int:
        """Bytes in the file when it was opened."""
        return len(self._raw)

    def __iter__(self) -> SegmentReader:
        return self

    def __next__(self) -> tuple[Record, int]:
        if self.offset >= len(self._raw):
            raise StopIteration
        found = self._record_at(self.offset)
        if found is None:
            found = self._resynchronise()
        self._last_number, record, self.offset = found
        return record, self.offset

    def _record_at(self, offset: int) -> tuple[int, Record, int] | None:
        """(number, record, end) if a whole and untouched record starts at `offset`."""
        if len(self._raw) - offset < _FRAME.size:
            return None
        head = self._raw[offset : offset + _FRAME.size]
        marker, number, length = _FRAME.unpack(head)
        start = offset + _FRAME.size
        end = start + length
        if marker != MARKER or number <= self._last_number or end > len(self._raw) or length < _TAG_BYTES:
            return None
        try:
            plain = self._cipher.decrypt(
                self.header.salt + number.to_bytes(4, "big"),
                self._raw[start:end],
                self.header.digest + head + _PLACE.pack(offset),
            )
            record = msgpack.unpackb(plain, unicode_errors="surrogatepass", strict_map_key=False)
        except (InvalidTag, ValueError):
            return None
        return (number, record, end) if isinstance(record, dict) else None

    def _resynchronise(self) -> tuple[int, Record, int]:
        """The next good record behind a bad place. Counts the place; raises StopIteration where there is no other."""
        candidate = self._raw.find(MARKER, self.offset + 1)
        while candidate >= 0:
            found = self._record_at(candidate)
            if found is not None:
                self.altered += 1
                return found
            candidate = self._raw.find(MARKER, candidate + 1)
        if self._ends_inside_record():
            self.torn = 1
        else:
            self.altered += 1
        self._raw = self._raw[: self.offset]
        raise StopIteration

    def _ends_inside_record(self) -> bool:
        rest = self._raw[self.offset : self.offset + _FRAME.size]
        if len(rest) < _FRAME.size:
            return MARKER.startswith(rest[: len(MARKER)])
        marker, _, length = _FRAME.unpack(rest)
        return bool(marker == MARKER and self.offset + _FRAME.size + length > len(self._raw))
