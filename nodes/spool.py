"""The durable spool: a folder of append-only, encrypted segments. Knows files, locks and the disk, not what a record is.

A record is written to the operating system before `append` returns, so it survives the death of any process; a thread
syncs the file every 50 ms, so a power cut costs at most that. A segment that is being written ends in `.open` and is
locked (flock) by its writer; a full one is renamed to `.sealed`. The kernel drops a dead writer's lock, so a reader can
tell a segment that may still grow from one that never will.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import secrets
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from shoal.errors import DataError, ShoalError, SiteError, StorageFull
from shoal.nodes.segment import FrameWriter, Record, SegmentReader, encode_record, new_header

OPEN_SUFFIX = ".open"
SEALED_SUFFIX = ".sealed"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
#: the free room is looked up at most this often, or after this much was written
_CHECK_EVERY_S = 0.2
_CHECK_EVERY_BYTES = 1 << 20


class Clock(Protocol):
    def now(self) -> float: ...

    def monotonic(self) -> float: ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()


@dataclass(frozen=True, slots=True)
class Segment:
    """A file of the spool.

    Attributes:
        name: stays the same when the file is sealed.
        sealed: it will never grow: its writer has finished it, or is dead.
    """

    path: Path
    name: str
    sealed: bool

    def remove(self) -> None:
        """Delete the file, under either of its names."""
        self.path.unlink(missing_ok=True)
        self.path.with_suffix(SEALED_SUFFIX).unlink(missing_ok=True)


class SpoolWriter:
    """Appends records from any thread of one process. Close it, or let it die: both leave whole records.

    Args:
        folder: made if it is not there.
        key: 32 bytes; see `site_key`.
        writer_id: stands in the segments' names and headers, for people.
        min_free_bytes: nothing is taken while the disk has less room than this.
        segment_bytes: a segment is sealed once it is this long.
        sync_every_s: how much a power cut may cost.
    """

    def __init__(
        self,
        folder: Path,
        key: bytes,
        *,
        writer_id: str,
        clock: Clock | None = None,
        min_free_bytes: int = 0,
        segment_bytes: int = 16 << 20,
        sync_every_s: float = 0.05,
    ) -> None:
        self._folder = folder
        self._key = key
        self._writer_id = writer_id
        self._name = re.sub(r"[^A-Za-z0-9_-]", "-", writer_id)[:40] or "writer"
        self._clock: Clock = clock or SystemClock()
        self._min_free_bytes = min_free_bytes
        self._segment_bytes = segment_bytes
        self._sync_every_s = sync_every_s
        self._lock = threading.Lock()
        #: guards the life of the file descriptor against the syncing thread; taken after `_lock` where both are
        self._sync_lock = threading.Lock()
        self._dirty = threading.Event()
        self._closed = False
        self._descriptor: int | None = None
        self._path = folder
        self._frames: FrameWriter | None = None
        self._offset = 0
        #: these two order this writer's segments by name, also if the clock goes back
        self._segments = 0
        self._last_ms = 0
        self._sync_error: OSError | None = None
        self._checked_at = float("-inf")
        self._room_bytes = 0
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise _storage_error(folder, error) from error
        self._thread = threading.Thread(target=self._sync_loop, name="spool-sync", daemon=True)
        self._thread.start()

    def append(self, record: Record) -> None:
        """Write one record. When this returns, the record outlives this process.

        Raises:
            StorageFull: the disk is full or nearly so; nothing of the record is kept.
            SiteError: the disk fails.
            DataError: the record is no plain data, nests too deep or is too large.
        """
        plain = encode_record(record)
        with self._lock:
            if self._closed:
                raise SiteError("The spool is closed.", remedy="Open a new writer.")
            if self._sync_error is not None:
                raise _storage_error(self._path, self._sync_error) from self._sync_error
            self._require_room(len(plain))
            if self._frames is None or self._offset >= self._segment_bytes:
                self._rotate()
            assert self._frames is not None
            frame = self._frames.frame(plain, offset=self._offset)
            self._write(frame)
            self._offset += len(frame)
            self._room_bytes -= len(frame)
        self._dirty.set()

    def flush(self) -> None:
        """Wait until everything appended so far is on the disk itself. Raises StorageFull, SiteError."""
        self._sync()
        with self._lock:
            if self._sync_error is not None:
                raise _storage_error(self._path, self._sync_error) from self._sync_error

    def seal(self) -> None:
        """Finish the current segment, so that a compactor can consume and remove it. The next record opens another."""
        with self._lock:
            self._finish_segment()

    def close(self) -> None:
        """Sync and seal. Safe to call twice."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._finish_segment()
        self._dirty.set()
        self._thread.join(timeout=5)

    def __enter__(self) -> SpoolWriter:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _write(self, frame: bytes) -> None:
        """One write at the known end. A part that a full disk let through is cut off again."""
        assert self._descriptor is not None
        written = 0
        try:
            while written < len(frame):
                written += os.pwrite(
                    self._descriptor, frame[written:] if written else frame, self._offset + written
                )
        except OSError as error:
            with contextlib.suppress(OSError):  # the next record overwrites what cannot be cut off
                os.ftruncate(self._descriptor, self._offset)
            self._checked_at = float("-inf")
            raise _storage_error(self._path, error) from error

    def _require_room(self, size: int) -> None:
        now = self._clock.monotonic()
        if now - self._checked_at >= _CHECK_EVERY_S or self._room_bytes < size + _CHECK_EVERY_BYTES:
            try:
                found = os.statvfs(self._folder)
            except OSError as error:
                raise _storage_error(self._folder, error) from error
            self._room_bytes = found.f_bavail * found.f_frsize - self._min_free_bytes
            self._checked_at = now
        if self._room_bytes < size:
            raise StorageFull(
                f"The disk of {self._folder} must keep {self._min_free_bytes >> 20} MiB free, and has less.",
                remedy="Free some space, or lower storage.min_free_mb.",
            )

    def _rotate(self) -> None:
        self._finish_segment()
        self._segments += 1
        self._last_ms = max(self._last_ms, int(self._clock.now() * 1000))
        name = f"{self._last_ms:015d}-{self._name}-{self._segments:06d}-{secrets.token_hex(4)}"
        draft = self._folder / f".{name}.new"
        header, raw = new_header(writer_id=self._writer_id, created_at=self._clock.now())
        descriptor = -1
        try:
            descriptor = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            # locked before it has a name that readers look for: nobody takes it for a dead writer's
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.write(descriptor, raw) < len(raw):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            path = self._folder / f"{name}{OPEN_SUFFIX}"
            draft.rename(path)
            _sync_folder(self._folder)
        except OSError as error:
            if descriptor >= 0:
                os.close(descriptor)
            with contextlib.suppress(OSError):
                draft.unlink(missing_ok=True)
            raise _storage_error(self._folder, error) from error
        with self._sync_lock:
            self._descriptor = descriptor
        self._path = path
        self._frames = FrameWriter(self._key, header)
        self._offset = header.size

    def _finish_segment(self) -> None:
        if self._descriptor is None:
            return
        with self._sync_lock:
            descriptor, self._descriptor = self._descriptor, None
            self._frames = None
            try:
                os.fdatasync(descriptor)
                self._path.rename(self._path.with_suffix(SEALED_SUFFIX))
                _sync_folder(self._folder)
            except FileNotFoundError:
                pass  # the data folder was taken away; there is nothing to seal
            except OSError as error:
                raise _storage_error(self._path, error) from error
            finally:
                os.close(descriptor)

    def _sync_loop(self) -> None:
        while not self._closed:
            self._dirty.wait()
            time.sleep(self._sync_every_s)
            self._dirty.clear()
            self._sync()
            if self._sync_error is not None:
                self._dirty.set()

    def _sync(self) -> None:
        with self._sync_lock:
            if self._descriptor is None:
                self._sync_error = None
                return
            try:
                os.fdatasync(self._descriptor)
                self._sync_error = None
            except OSError as error:
                self._sync_error = error


def _storage_error(path: Path, error: OSError) -> ShoalError:
    if error.errno in _FULL:
        return StorageFull(
            f"The disk of {path} is full.", remedy="Free some space; nothing that was accepted is lost."
        )
    return SiteError(
        f"The spool {path} cannot be written: {error.strerror}.", remedy="Look at the disk and its rights."
    )


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def list_segments(folder: Path) -> list[Segment]:
    """The segments there are, oldest first. A file that vanishes meanwhile was consumed by another reader."""
    found: dict[str, Segment] = {}
    if not folder.is_dir():
        return []
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.suffix == SEALED_SUFFIX:
            found[path.stem] = Segment(path, path.stem, True)
        elif path.suffix == OPEN_SUFFIX and path.stem not in found:
            segment = _look_at_open(path)
            if segment is not None:
                found[path.stem] = segment
    return [found[name] for name in sorted(found)]


def _look_at_open(path: Path) -> Segment | None:
    """The segment of an `.open` file; None where it was consumed meanwhile."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        sealed = path.with_suffix(SEALED_SUFFIX)
        return Segment(sealed, path.stem, True) if sealed.exists() else None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return Segment(path, path.stem, True)
    except BlockingIOError:
        return Segment(path, path.stem, False)
    finally:
        os.close(descriptor)


def read_segment(path: Path, key: bytes, offset: int = 0) -> SegmentReader:
    """An iterator of (record, offset after it) from `offset` on; also over a segment that another process is writing.

    Raises:
        DataError: the file is no segment.
        FileNotFoundError: it is not there (any more).
    """
    return SegmentReader(path, key, offset)


class SpoolReader:
    """Iterates over all records of a spool, oldest segment first; counts what it had to leave out."""

    def __init__(self, folder: Path, key: bytes) -> None:
        self._folder = folder
        self._key = key
        self.altered = 0
        self.torn = 0
        #: segments whose header is damaged
        self.unreadable: list[Path] = []

    def __iter__(self) -> Iterator[Record]:
        for segment in list_segments(self._folder):
            try:
                reader = open_segment(segment, self._key)
            except DataError:
                self.unreadable.append(segment.path)
                continue
            if reader is None:
                continue
            for record, _ in reader:
                yield record
            self.altered += reader.altered
            self.torn += reader.torn


def open_segment(segment: Segment, key: bytes, offset: int = 0) -> SegmentReader | None:
    """Read a listed segment, also if it was sealed since; None where it is gone. Raises DataError as `read_segment`."""
    for path in (segment.path, segment.path.with_suffix(SEALED_SUFFIX)):
        with contextlib.suppress(FileNotFoundError):
            return read_segment(path, key, offset)
    return None


def read_spool(folder: Path, key: bytes) -> SpoolReader:
    """All records that are in the spool now. Reading changes nothing; see the compactor for consuming."""
    return SpoolReader(folder, key)
