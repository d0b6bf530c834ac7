"""Moves calls from the spool to the readable traces. Owns the cursor; knows nothing of who appends or who reads.

The order of steps is what makes it safe: read from the cursor, scrub and write Parquet, move the cursor, remove segments
that are read to their end. A crash between any two repeats work, and a repeated call replaces itself by its id.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import secrets
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from shoal.agents.ports import TraceStore
from shoal.agents.traces.trace import Trace
from shoal.errors import DataError, ShoalError
from shoal.home import Home
from shoal.nodes.spool import Segment, list_segments, open_segment

log = logging.getLogger(__name__)

_BATCH_CALLS = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class CompactReport:
    """What one run did.

    Attributes:
        calls: moved to the readable traces.
        altered: places in the spool whose bytes had been changed; refused.
        torn: segments that end inside a record, as a writer that died leaves them.
        refused: records that were whole but no trace.
        removed_segments: consumed and deleted.
        busy: another process is compacting; nothing was done.
    """

    calls: int = 0
    altered: int = 0
    torn: int = 0
    refused: int = 0
    removed_segments: int = 0
    busy: bool = False


def compact(home: Home, key: bytes, store: CompactStore, *, wait_s: float = 20.0) -> CompactReport:
    """Make the calls that are in the spool readable. Safe while other processes append.

    Args:
        wait_s: how long to wait for another process that is compacting; it moves the same calls.

    Raises:
        StorageFull: no room for the traces; the spool keeps them.
    """
    home.spool.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _only_one(home, wait_s) as is_ours:
        if not is_ours:
            return CompactReport(busy=True)
        return _Run(home, key, store).go()


class CompactStore(TraceStore, Protocol):
    """A trace store that can merge the many small files that compacting makes, and forget."""

    def tidy(self) -> int: ...

    def erase(self, *, before: float | None) -> set[str]:
        """Returns the ids that went."""
        ...

    def erased(self, ids: Sequence[str]) -> set[str]:
        """Which of the ids were erased."""
        ...


def expire(
    store: CompactStore,
    *,
    retention_days: float | None,
    now: float,
    forget: Callable[[Collection[str]], object] = lambda ids: None,
) -> int:
    """Erase traces that are older than they may be; None keeps all. Returns how many went.

    Args:
        forget: told the ids that went, to erase what else is kept of these calls.
    """
    if retention_days is None:
        return 0
    gone = store.erase(before=now - retention_days * 86_400)
    if gone:
        forget(gone)
    return len(gone)


class _Run:
    def __init__(self, home: Home, key: bytes, store: CompactStore) -> None:
        self._cursor_path = home.spool / ".cursor.json"
        self._folder = home.spool
        self._key = key
        self._store = store
        self._cursor = _read_cursor(self._cursor_path)
        self._calls = self._altered = self._torn = self._refused = self._removed = 0
        self._batch: list[Trace] = []
        #: offsets to remember once the batch is stored
        self._reached: dict[str, int] = {}
        self._finished: list[Segment] = []

    def go(self) -> CompactReport:
        for segment in list_segments(self._folder):
            self._consume(segment)
        self._settle()
        self._forget()
        if self._calls:
            self._store.tidy()
        return CompactReport(
            calls=self._calls,
            altered=self._altered,
            torn=self._torn,
            refused=self._refused,
            removed_segments=self._removed,
        )

    def _consume(self, segment: Segment) -> None:
        try:
            reader = open_segment(segment, self._key, self._cursor.get(segment.name, 0))
        except DataError as error:
            if segment.sealed:
                log.warning("%s", error)
                self._altered += 1
            return
        if reader is None:
            return
        for record, offset in reader:
            try:
                self._batch.append(Trace.from_dict(record))
            except (KeyError, TypeError, ValueError):
                self._refused += 1
            self._reached[segment.name] = offset
            if len(self._batch) >= _BATCH_CALLS:
                self._settle()
        self._altered += reader.altered
        if segment.sealed:
            self._torn += reader.torn
            self._finished.append(segment)

    def _settle(self) -> None:
        """Store the batch, then remember how far it reached, then remove what is read to its end."""
        if self._batch:
            # a spool that is read again, because its cursor was lost, must not bring back what was erased
            erased = self._store.erased([trace.id for trace in self._batch])
            self._add([trace for trace in self._batch if trace.id not in erased])
            self._batch = []
        if self._reached:
            self._cursor.update(self._reached)
            self._reached = {}
            _write_cursor(self._cursor_path, self._cursor)
        for segment in self._finished:
            segment.remove()
            self._removed += 1
        self._finished = []

    def _add(self, batch: list[Trace]) -> None:
        """A record that the store cannot hold must not keep back the others."""
        try:
            self._calls += self._store.add(batch)
        except ShoalError:
            raise
        except Exception as error:  # noqa: BLE001
            if len(batch) == 1:
                log.warning("call %s is refused: %s: %s", batch[0].id, type(error).__name__, error)
                self._refused += 1
                return
            middle = len(batch) // 2
            self._add(batch[:middle])
            self._add(batch[middle:])

    def _forget(self) -> None:
        """Drop the offsets of segments that are gone."""
        there = {s.name for s in list_segments(self._folder)}
        kept = {name: offset for name, offset in self._cursor.items() if name in there}
        if kept != self._cursor:
            _write_cursor(self._cursor_path, kept)


@contextlib.contextmanager
def _only_one(home: Home, wait_s: float) -> Iterator[bool]:
    """Whether this process may compact; another that does is waited for."""
    descriptor = os.open(home.spool / ".compact.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        yield _lock_within(descriptor, wait_s)
    finally:
        os.close(descriptor)


def _lock_within(descriptor: int, wait_s: float) -> bool:
    deadline = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.02)


def _read_cursor(path: Path) -> dict[str, int]:
    """Offsets by segment. One that cannot be read counts as empty: calls are then stored again under their ids."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return {str(name): int(offset) for name, offset in data.items()}
    except FileNotFoundError:
        return {}
    except (ValueError, AttributeError, TypeError):
        log.warning("%s is damaged; the spool is read from its start", path)
        return {}


def _write_cursor(path: Path, cursor: dict[str, int]) -> None:
    draft = path.with_name(f".cursor-{secrets.token_hex(4)}")
    try:
        with draft.open("w", encoding="utf-8") as file:
            json.dump(cursor, file)
            file.flush()
            os.fsync(file.fileno())
        draft.rename(path)
    finally:
        draft.unlink(missing_ok=True)
