"""How the trace store writes: drafts, atomic renames, one lock. Knows files and tables, not traces."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from shoal.agents.traces.parts import part_name, part_numbers
from shoal.errors import ShoalError, SiteError, StorageFull

_ROW_GROUP_ROWS = 8192


@contextlib.contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """One process at a time hands out numbers and replaces files. Not to be taken twice by one thread."""
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def add_part(folder: Path, table: pa.Table) -> None:
    """A new file with the next number. Raises StorageFull, SiteError."""
    with _draft(folder, table) as draft, folder_lock(folder):
        numbers = part_numbers(folder)
        draft.rename(folder / part_name(numbers[-1][0] + 1 if numbers else 1))
        sync_folder(folder)


def replace_part(path: Path, table: pa.Table) -> None:
    """Another content for a file, whole or not at all; the caller holds the lock. Raises StorageFull, SiteError."""
    with _draft(path.parent, table) as draft:
        draft.rename(path)
        sync_folder(path.parent)


@contextlib.contextmanager
def _draft(folder: Path, table: pa.Table) -> Iterator[Path]:
    draft = folder / f".draft-{os.getpid()}-{secrets.token_hex(6)}"
    try:
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
        yield draft
    except OSError as error:
        raise storage_error(folder, error) from error
    finally:
        draft.unlink(missing_ok=True)


def storage_error(folder: Path, error: OSError) -> ShoalError:
    """What a failed write means to the user."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return StorageFull(
            f"The disk of {folder} is full.", remedy="Free some space and try again; nothing is lost."
        )
    return SiteError(
        f"Traces cannot be written to {folder}: {error}.", remedy="Look at the disk and its rights."
    )


def sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
