"""Reads a log file, plain or gzipped, record by record. Owns what a broken file may do to a reader: nothing but a named fault."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any, TypeAlias

from shoal.errors import UsageError

GZIP_MAGIC = b"\x1f\x8b"
MAX_LINE_BYTES = 16 << 20
_MAX_DOCUMENT_BYTES = 256 << 20
_TELL_EVERY_LINES = 256
#: only such an escape can spell half a character in a file that is UTF-8
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")

Readable: TypeAlias = BufferedReader | gzip.GzipFile


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a line (1, 2, ...) is no record."""

    line: int
    reason: str


@dataclass(frozen=True, slots=True)
class Parsed:
    """The JSON of a line; of a file that is one JSON document, the items of its list or the whole, numbered alike.

    Attributes:
        may_break: its text has escapes that could spell half a character.
    """

    line: int
    record: Any
    may_break: bool = True


def read_records(path: Path, *, on_bytes: Callable[[int], None] | None = None) -> Iterator[Parsed | Fault]:
    """The records of a file in order, and the faults between them. Blank lines do not count as either.

    Args:
        on_bytes: told how many bytes of the file (as it lies on the disk) are read so far.

    Raises:
        UsageError: the file is not there, is a folder, or may not be read.
    """
    with _opened(path) as raw:
        is_gzip = raw.peek(2)[:2] == GZIP_MAGIC
        document = _whole_document(_unpacked(raw, is_gzip))
        if document is not None:
            yield from (Parsed(number, record) for number, record in enumerate(document, start=1))
            return
        raw.seek(0)
        for count, item in enumerate(_lines(_unpacked(raw, is_gzip))):
            yield item if isinstance(item, Fault) else _parse(*item)
            if on_bytes is not None and count % _TELL_EVERY_LINES == 0:
                on_bytes(raw.tell())


def _unpacked(raw: BufferedReader, is_gzip: bool) -> Readable:
    return gzip.GzipFile(fileobj=raw) if is_gzip else raw


def _opened(path: Path) -> BufferedReader:
    if path.is_dir():
        raise UsageError(
            f"{path} is a folder; files are imported one by one.", remedy=f"Name them: {path}/*.jsonl"
        )
    try:
        return path.open("rb")
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.", remedy="Check the path.") from error


def _lines(text: Readable) -> Iterator[tuple[int, bytes] | Fault]:
    """(number, line) of the lines that are not blank."""
    number = 0
    while True:
        number += 1
        try:
            line = text.readline(MAX_LINE_BYTES + 1)
            if len(line) > MAX_LINE_BYTES and not line.endswith(b"\n"):
                while line and not line.endswith(b"\n"):
                    line = text.readline(MAX_LINE_BYTES)
                yield Fault(number, f"the line is longer than {MAX_LINE_BYTES >> 20} MiB")
                continue
        except EOFError:
            yield Fault(number, "the gzip data ends early: the file is cut off")
            return
        except (OSError, zlib.error) as error:
            yield Fault(number, f"the gzip data is damaged from here on: {error}")
            return
        if not line:
            return
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        if line.strip():
            yield number, line


def _parse(number: int, line: bytes) -> Parsed | Fault:
    try:
        record = json.loads(line.decode("utf-8"), parse_constant=_refuse_constant)
        return Parsed(number, record, may_break=_SURROGATE.search(line) is not None)
    except UnicodeDecodeError as error:
        return Fault(number, f"it is not UTF-8 (byte {error.start + 1} of the line)")
    except json.JSONDecodeError as error:
        return Fault(number, f"it is not JSON: {error.msg} (column {error.colno})")
    except RecursionError:
        return Fault(number, "its JSON nests too deep")
    except ValueError as error:
        return Fault(number, f"it is not JSON: {error}")


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _whole_document(text: Readable) -> list[Any] | None:
    """The records of a file that is one JSON document over many lines, or a list; None for JSON Lines."""
    first = next(_lines(text), None)
    if first is None or isinstance(first, Fault):
        return None
    start = first[1].strip()
    # a document over many lines has a first line that says nothing by itself
    if not start.startswith(b"[") and start != b"{":
        return None
    try:
        content = first[1] + text.read(_MAX_DOCUMENT_BYTES)
        document = json.loads(content.decode("utf-8"), parse_constant=_refuse_constant)
    except (EOFError, OSError, zlib.error, ValueError, RecursionError):
        return None
    return document if isinstance(document, list) else [document]
