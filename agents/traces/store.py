"""Readable traces: scrubbed calls in Parquet files under one folder. Owns which files there are and which record of an id counts.

A batch becomes one file, sorted by time, that appears whole or not at all (written aside, then renamed under a lock that
hands out increasing numbers). Where an id stands in several files, the one with the highest number counts, so that adding
again replaces. Knows nothing of the spool, of HTTP or of learning.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import secrets
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from shoal.agents.curation.scrub import RECOGNISERS, scrub
from shoal.agents.traces.parts import (
    Part,
    look_at_part,
    merged_traces,
    open_part,
    part_ids,
    part_name,
    part_numbers,
    read_row,
    superseded_ids,
)
from shoal.agents.traces.rows import SCHEMA, Row, row_of, trace_of
from shoal.agents.traces.trace import Trace, TraceId
from shoal.errors import ShoalError, SiteError, StorageFull
from shoal.home import Home

log = logging.getLogger(__name__)

#: a larger batch is split, which bounds the memory that adding takes
MAX_PART_ROWS = 50_000
_ROW_GROUP_ROWS = 8192


@dataclass(frozen=True, slots=True)
class _View:
    """What the folder held when it was last looked at."""

    signature: tuple[tuple[str, int, int], ...]
    parts: Sequence[Part]
    superseded: Mapping[int, Set[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceStats:
    """Figures of a store. Times in seconds since the epoch; `scrubbed` counts what this process replaced, by kind."""

    calls: int
    files: int
    size_bytes: int
    first_timestamp: float | None
    last_timestamp: float | None
    clients: Mapping[str, int]
    models: Mapping[str, int]
    served_by: Mapping[str, int]
    unreadable: Sequence[str]


class ParquetTraceStore:
    """Implements `TraceStore` on a local folder. Several processes may add, scan and delete at once.

    Args:
        home: the files are in its `traces` folder.
        recognisers: kinds of personal data that are replaced before anything is written.
    """

    def __init__(self, home: Home, *, recognisers: Sequence[str] = RECOGNISERS) -> None:
        self._folder = home.traces
        self._recognisers = tuple(recognisers)
        self._view: _View | None = None
        #: how many pieces of personal data this object has replaced, by kind
        self.scrubbed: dict[str, int] = {}
        #: files that cannot be read, with the reason; they are left out
        self.unreadable: dict[Path, str] = {}
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def add(self, traces: Iterable[Trace]) -> int:
        """Scrub and store. Of several traces with one id the last counts. Returns how many were stored.

        Raises:
            StorageFull: no room; batches of 50,000 that were written before stay.
        """
        stored = 0
        rows: dict[str, Row] = {}
        for trace in traces:
            clean, counts = scrub(trace, self._recognisers)
            for kind, count in counts.items():
                self.scrubbed[kind] = self.scrubbed.get(kind, 0) + count
            row = row_of(clean)
            rows[row["id"]] = row
            if len(rows) >= MAX_PART_ROWS:
                stored += self._write_part(rows.values())
                rows = {}
        return stored + self._write_part(rows.values())

    def scan(self) -> Iterator[Trace]:
        """All traces by (timestamp, id). A damaged file is skipped with a warning that names it."""
        view = self._look()
        return merged_traces(view.parts, view.superseded)

    def get(self, trace_id: TraceId) -> Trace | None:
        for part in reversed(self._look().parts):
            with contextlib.suppress(FileNotFoundError):
                ids = part_ids(part)
                if trace_id in ids:
                    return trace_of(read_row(part, ids.index(trace_id)))
        return None

    def known(self, ids: Collection[str]) -> set[str]:
        """Which of the ids are there."""
        wanted = set(ids)
        found: set[str] = set()
        for part in self._look().parts:
            found |= wanted.intersection(part_ids(part))
        return found

    def count(self) -> int:
        view = self._look()
        return sum(p.rows for p in view.parts) - sum(len(ids) for ids in view.superseded.values())

    def delete(
        self,
        *,
        ids: Collection[str] = (),
        client: str | None = None,
        before: float | None = None,
    ) -> int:
        """Erase the traces that any of the conditions names; older records of a replaced id too. Returns how many went."""
        wanted = frozenset(ids)

        def is_doomed(row: Mapping[str, Any]) -> bool:
            return (
                row["id"] in wanted
                or (client is not None and row["client_id"] == client)
                or (before is not None and row["timestamp"] < before)
            )

        return self._erase(is_doomed)

    def _erase(self, is_doomed: Callable[[Mapping[str, Any]], bool]) -> int:
        gone: set[str] = set()
        with self._locked():
            for part in self._look().parts:
                with open_part(part.path) as file:
                    keys = file.read(columns=["id", "client_id", "timestamp"]).to_pylist()
                    doomed = [is_doomed(row) for row in keys]
                    if not any(doomed):
                        continue
                    kept = file.read().filter(pa.array([not d for d in doomed]))
                gone.update(row["id"] for row, d in zip(keys, doomed, strict=True) if d)
                if kept.num_rows:
                    self._write_table(kept, part.path)
                else:
                    part.path.unlink()
        return len(gone)

    def _write_part(self, rows: Collection[Row]) -> int:
        if not rows:
            return 0
        ordered = sorted(rows, key=lambda row: (row["timestamp"], row["id"]))
        table = pa.Table.from_pylist(ordered, schema=SCHEMA)
        draft = self._draft()
        try:
            self._write_draft(table, draft)
            with self._locked():
                numbers = part_numbers(self._folder)
                draft.rename(self._folder / part_name(numbers[-1][0] + 1 if numbers else 1))
                _sync_folder(self._folder)
        except OSError as error:
            raise _storage_error(self._folder, error) from error
        finally:
            draft.unlink(missing_ok=True)
        return len(rows)

    def _write_table(self, table: pa.Table, path: Path) -> None:
        """Replace a file, whole or not at all."""
        draft = self._draft()
        try:
            self._write_draft(table, draft)
            draft.rename(path)
            _sync_folder(self._folder)
        except OSError as error:
            raise _storage_error(self._folder, error) from error
        finally:
            draft.unlink(missing_ok=True)

    def _draft(self) -> Path:
        return self._folder / f".draft-{os.getpid()}-{secrets.token_hex(6)}"

    def _write_draft(self, table: pa.Table, draft: Path) -> None:
        pq.write_table(
            table,
            draft,
            compression="zstd",
            row_group_size=_ROW_GROUP_ROWS,
            write_page_checksum=True,
            use_dictionary=["client_id", "tags", "served_by", "privacy", "model"],
        )
        draft.chmod(0o600)
        descriptor = os.open(draft, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """One process at a time hands out numbers and replaces files."""
        descriptor = os.open(self._folder / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _look(self) -> _View:
        """The readable files and what is superseded in them; read again only if the folder has changed."""
        found = []
        for number, path in part_numbers(self._folder):
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                found.append((number, path, (path.name, status.st_mtime_ns, status.st_ino)))
        signature = tuple(mark for _, _, mark in found)
        if self._view is not None and self._view.signature == signature:
            return self._view
        parts, ids = [], {}
        self.unreadable = {}
        for number, path, _ in found:
            try:
                part = look_at_part(number, path)
                ids[number] = part_ids(part)
                parts.append(part)
            except FileNotFoundError:
                continue
            except (OSError, pa.ArrowException, ValueError) as error:
                self.unreadable[path] = str(error)
                log.warning("%s cannot be read and is left out: %s", path, error)
        self._view = _View(signature, tuple(parts), superseded_ids(ids))
        return self._view


def _storage_error(folder: Path, error: OSError) -> ShoalError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageFull(
            f"The disk of {folder} is full.", remedy="Free some space and try again; nothing is lost."
        )
    return SiteError(
        f"Traces cannot be written to {folder}: {error}.", remedy="Look at the disk and its rights."
    )


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
