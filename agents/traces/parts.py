"""The files of the trace store: their names, reading one, and merging many in order of time. Knows nothing of scrubbing or locks."""

from __future__ import annotations

import heapq
import logging
import re
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from shoal.agents.traces.rows import trace_of
from shoal.agents.traces.trace import Trace

log = logging.getLogger(__name__)

_NAME = re.compile(r"part-(\d{10})\.parquet")
_READ_ROWS = 1024


@dataclass(frozen=True, slots=True)
class Part:
    """One file. `number` grows with each file that is added; `first` is the smallest (timestamp, id) in it."""

    path: Path
    number: int
    rows: int
    size_bytes: int
    first_timestamp: float
    last_timestamp: float


def part_name(number: int) -> str:
    return f"part-{number:010d}.parquet"


def part_numbers(folder: Path) -> list[tuple[int, Path]]:
    """(number, path) of all files, oldest first."""
    found = []
    for path in folder.iterdir():
        match = _NAME.fullmatch(path.name)
        if match:
            found.append((int(match.group(1)), path))
    return sorted(found)


def open_part(path: Path) -> pq.ParquetFile:
    """Raises OSError (FileNotFoundError among them) or pa.ArrowException where the file is no whole Parquet file."""
    return pq.ParquetFile(path, page_checksum_verification=True)


def look_at_part(number: int, path: Path) -> Part:
    """Reads the footer only. Raises as `open_part`, or ValueError where the columns are not a trace store's."""
    with open_part(path) as file:
        metadata = file.metadata
        column = file.schema_arrow.get_field_index("timestamp")
        if column < 0 or file.schema_arrow.get_field_index("id") < 0:
            raise ValueError("it has no columns `id` and `timestamp`")
        bounds = [metadata.row_group(g).column(column).statistics for g in range(metadata.num_row_groups)]
        whole = all(b is not None and b.has_min_max for b in bounds)
        return Part(
            path=path,
            number=number,
            rows=metadata.num_rows,
            size_bytes=path.stat().st_size,
            first_timestamp=min((b.min for b in bounds), default=0.0) if whole else float("-inf"),
            last_timestamp=max((b.max for b in bounds), default=0.0) if whole else float("inf"),
        )


def part_ids(part: Part) -> list[str]:
    with open_part(part.path) as file:
        ids: list[str] = file.read(columns=["id"]).column("id").to_pylist()
    return ids


def read_row(part: Part, number: int) -> dict[str, Any]:
    """One row; reads its row group only."""
    with open_part(part.path) as file:
        group = 0
        while number >= file.metadata.row_group(group).num_rows:
            number -= file.metadata.row_group(group).num_rows
            group += 1
        row: dict[str, Any] = file.read_row_group(group).slice(number, 1).to_pylist()[0]
    return row


def traces_of(part: Part, ids: Set[str]) -> list[Trace]:
    """The traces of the given ids in one file."""
    there = ids & set(part_ids(part))
    if not there:
        return []
    wanted = pa.array(sorted(there), pa.string())
    found: list[Trace] = []
    with open_part(part.path) as file:
        for batch in file.iter_batches(batch_size=_READ_ROWS):
            # only these rows become Python objects
            rows = batch.filter(pc.is_in(batch.column("id"), value_set=wanted))
            found.extend(trace_of(row) for row in rows.to_pylist())
    return found


def superseded_ids(ids_by_part: Mapping[int, Sequence[str]]) -> dict[int, Set[str]]:
    """For each part number, the ids in it that also stand in a part with a higher number."""
    hashes = [np.fromiter(map(hash, ids), dtype=np.int64, count=len(ids)) for ids in ids_by_part.values()]
    if len(hashes) < 2:
        return {}
    values, counts = np.unique(np.concatenate(hashes), return_counts=True)
    repeated = values[counts > 1]
    if not len(repeated):
        return {}
    seen: set[str] = set()
    out: dict[int, Set[str]] = {}
    for (number, ids), hashed in reversed(list(zip(ids_by_part.items(), hashes, strict=True))):
        candidates = {ids[int(i)] for i in np.flatnonzero(np.isin(hashed, repeated))}
        out[number] = candidates & seen
        seen |= candidates
    return {number: ids for number, ids in out.items() if ids}


@contextmanager
def opened_parts(parts: Sequence[Part]) -> Iterator[list[tuple[Part, pq.ParquetFile]]]:
    """All files open at once, so that none is missed if another process merges or erases meanwhile.

    Raises:
        FileNotFoundError: one is gone already; look at the folder again.
    """
    with ExitStack() as stack:
        files = []
        for part in parts:
            try:
                files.append((part, stack.enter_context(open_part(part.path))))
            except FileNotFoundError:
                raise
            except (OSError, pa.ArrowException) as error:
                log.warning("%s cannot be read and is left out: %s", part.path, error)
        yield files


def merged_traces(
    files: Sequence[tuple[Part, pq.ParquetFile]], superseded: Mapping[int, Set[str]]
) -> Iterator[Trace]:
    """All traces that count, by (timestamp, id). A file is read only once its time has come."""
    waiting = sorted(files, key=lambda item: item[0].first_timestamp, reverse=True)
    heap: list[tuple[float, str, int, Trace, Iterator[Trace]]] = []

    def push(number: int, traces: Iterator[Trace]) -> None:
        trace = next(traces, None)
        if trace is not None:
            heapq.heappush(heap, (trace.timestamp, trace.id, number, trace, traces))

    while heap or waiting:
        while waiting and (not heap or waiting[-1][0].first_timestamp <= heap[0][0]):
            part, file = waiting.pop()
            push(part.number, part_traces(part, file, superseded.get(part.number, frozenset())))
        if not heap:
            continue
        _, _, number, trace, traces = heapq.heappop(heap)
        yield trace
        push(number, traces)


def part_traces(part: Part, file: pq.ParquetFile, without: Set[str]) -> Iterator[Trace]:
    """The traces of one file in its order. A damaged page ends it with a warning that names the file."""
    try:
        for batch in file.iter_batches(batch_size=_READ_ROWS):
            for row in batch.to_pylist():
                if row["id"] not in without:
                    yield trace_of(row)
    except (OSError, pa.ArrowException, ValueError, KeyError) as error:
        log.warning("%s is damaged, the rest of it is skipped: %s", part.path, error)
