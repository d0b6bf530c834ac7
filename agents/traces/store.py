"""Readable traces: scrubbed calls in Parquet files under one folder. Owns which files there are and which record of an id counts.

A batch becomes one file, sorted by time, that appears whole or not at all. Files have increasing numbers; where an id stands
in several, the one with the highest number counts, so that adding again replaces. Knows nothing of the spool, of HTTP or of
learning.
"""

from __future__ import annotations

import contextlib
import logging
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa

from shoal.agents.curation.recognition import Recognition
from shoal.agents.curation.scrub import RECOGNISERS, scrub
from shoal.agents.traces.erased import among_erased, note_erased, note_returned, read_erased
from shoal.agents.traces.files import add_part, folder_lock, replace_part, sync_folder
from shoal.agents.traces.parts import (
    Part,
    look_at_part,
    merged_traces,
    open_part,
    opened_parts,
    part_ids,
    part_numbers,
    part_traces,
    read_row,
    superseded_ids,
    traces_of,
)
from shoal.agents.traces.queries import TraceHead, TraceStats, newest_heads, trace_stats
from shoal.agents.traces.rows import SCHEMA, Row, row_of, trace_of
from shoal.agents.traces.trace import Trace, TraceId
from shoal.errors import SiteError
from shoal.home import Home

log = logging.getLogger(__name__)

#: a larger batch is split, which bounds the memory that adding takes
MAX_PART_ROWS = 50_000
#: files with fewer rows are merged once there are many
_SMALL_PART_ROWS = 5_000
_ATTEMPTS = 5

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _View:
    """What the folder held when it was last looked at."""

    signature: tuple[tuple[str, int, int], ...]
    parts: Sequence[Part]
    superseded: Mapping[int, Set[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One file's traces.

    Attributes:
        mark: the same as long as the same traces count in it.
        rows: at most so many traces.
    """

    mark: str
    rows: int
    first_timestamp: float
    last_timestamp: float
    _part: Part
    _without: Set[str]

    def traces(self) -> Iterator[Trace]:
        """By (timestamp, id). Raises FileNotFoundError where another process has merged or erased the file; ask for sections again."""
        with open_part(self._part.path) as file:
            yield from part_traces(self._part, file, self._without)


class ParquetTraceStore:
    """Implements `TraceStore` on a local folder. Several processes may add, scan and delete at once.

    Args:
        home: the files are in its `traces` folder.
        recognisers: kinds of personal data that are replaced before anything is written.
    """

    def __init__(self, home: Home, *, recognisers: Sequence[str] | Recognition = RECOGNISERS) -> None:
        self._folder = home.traces
        self._recognisers = recognisers
        self._view: _View | None = None
        #: how many pieces of personal data this object has replaced, by kind
        self.scrubbed: dict[str, int] = {}
        #: files that cannot be read, with the reason; they are left out
        self.unreadable: dict[Path, str] = {}
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def add(self, traces: Iterable[Trace]) -> int:
        """Scrub and store. Of several traces with one id the last counts. Returns how many were stored.

        Calls that had been erased are no longer counted as such: whoever adds them again wants them.

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
                stored += self._add_rows(rows.values())
                rows = {}
        return stored + self._add_rows(rows.values())

    def _add_rows(self, rows: Collection[Row]) -> int:
        if rows:
            ordered = sorted(rows, key=lambda row: (row["timestamp"], row["id"]))
            add_part(self._folder, pa.Table.from_pylist(ordered, schema=SCHEMA))
            if len(read_erased(self._folder)):
                with folder_lock(self._folder):
                    note_returned(self._folder, [row["id"] for row in ordered])
        return len(rows)

    def scan(self, *, since: float = float("-inf")) -> Iterator[Trace]:
        """All traces by (timestamp, id), as they stand when the first one is asked for. `since`: none that came in before.

        A damaged file is skipped with a warning that names it.
        """

        def wanted(view: _View) -> list[Part]:
            return [part for part in view.parts if part.last_timestamp >= since]

        with contextlib.ExitStack() as stack:
            view, files = self._on_view(lambda v: (v, stack.enter_context(opened_parts(wanted(v)))))
            for trace in merged_traces(files, view.superseded):
                if trace.timestamp >= since:
                    yield trace

    def sections(self) -> list[Section]:
        """The store's traces file by file, oldest file first, so that what was read of a file need not be read again."""

        def find(view: _View) -> list[Section]:
            return [_section(part, view.superseded.get(part.number, frozenset())) for part in view.parts]

        return self._on_view(find)

    def get(self, trace_id: TraceId) -> Trace | None:
        def find(view: _View) -> Trace | None:
            for part in reversed(view.parts):
                ids = part_ids(part)
                if trace_id in ids:
                    return trace_of(read_row(part, ids.index(trace_id)))
            return None

        return self._on_view(find)

    def pick(self, ids: Collection[str]) -> list[Trace]:
        """The traces of these ids that are there. Reads each file at most once, however many are asked for."""

        def find(view: _View) -> list[Trace]:
            missing, found = set(ids), []
            for part in reversed(view.parts):
                if not missing:
                    break
                for trace in traces_of(part, missing):
                    found.append(trace)
                    missing.discard(trace.id)
            return found

        return self._on_view(find)

    def known(self, ids: Collection[str]) -> set[str]:
        """Which of the ids are there."""
        wanted = set(ids)
        return self._on_view(
            lambda view: {i for part in view.parts for i in wanted.intersection(part_ids(part))}
        )

    def erased(self, ids: Sequence[str]) -> set[str]:
        """Which of the ids were erased, and not added again since."""
        return among_erased(ids, read_erased(self._folder))

    def count(self) -> int:
        view = self._look()
        return sum(p.rows for p in view.parts) - sum(len(ids) for ids in view.superseded.values())

    def stats(self) -> TraceStats:
        """Figures of the whole store."""
        return self._on_view(
            lambda view: trace_stats(
                view.parts, view.superseded, {str(p): why for p, why in self.unreadable.items()}
            )
        )

    def heads(self, *, client: str | None = None, limit: int = 20) -> list[TraceHead]:
        """The newest calls, without their texts."""
        return self._on_view(
            lambda view: newest_heads(view.parts, view.superseded, client=client, limit=limit)
        )

    def delete(
        self, *, ids: Collection[str] = (), client: str | None = None, before: float | None = None
    ) -> int:
        """As `erase`; returns how many went."""
        return len(self.erase(ids=ids, client=client, before=before))

    def erase(
        self, *, ids: Collection[str] = (), client: str | None = None, before: float | None = None
    ) -> set[str]:
        """Erase the traces that any of the conditions names, with all older records of their ids. Returns the ids that went.

        Digests of the erased ids are kept, so that specialists that learnt from them can be named; see `erased`.

        Args:
            before: seconds since the epoch.
        """
        wanted = frozenset(ids)

        def is_named(row: Mapping[str, Any]) -> bool:
            return (
                row["id"] in wanted
                or (client is not None and row["client_id"] == client)
                or (before is not None and row["timestamp"] < before)
            )

        with folder_lock(self._folder):
            view = self._look()
            if not wanted and client is None and all(p.first_timestamp >= (before or 0) for p in view.parts):
                return set()
            keys = {part.number: _keys(part) for part in view.parts}
            named = {number: {row["id"] for row in rows if is_named(row)} for number, rows in keys.items()}
            gone = {
                i for number, ids in named.items() for i in ids - view.superseded.get(number, frozenset())
            }
            if gone:
                note_erased(self._folder, gone)
            for part in view.parts:
                # with a call go its older records; an older record that is named itself goes alone
                doomed = gone | named[part.number]
                keep = [row["id"] not in doomed for row in keys[part.number]]
                if not all(keep):
                    self._keep_rows(part, keep)
        return gone

    def _keep_rows(self, part: Part, keep: list[bool]) -> None:
        if any(keep):
            with open_part(part.path) as file:
                table = file.read()
            replace_part(part.path, table.filter(pa.array(keep)))
        else:
            part.path.unlink()
            sync_folder(self._folder)

    def tidy(self, *, small_files: int = 32) -> int:
        """Merge neighbouring small files once there are so many. Returns how many files are fewer.

        A merged file takes the highest number of its sources and appears before they go, so that a crash leaves only
        records that are superseded.
        """
        if sum(p.rows < _SMALL_PART_ROWS for p in self._look().parts) < small_files:
            return 0
        fewer = 0
        with folder_lock(self._folder):
            view = self._look()
            for run in _runs_of_small(view.parts):
                replace_part(run[-1].path, _merged_table(run, view.superseded))
                for part in run[:-1]:
                    part.path.unlink(missing_ok=True)
                fewer += len(run) - 1
            sync_folder(self._folder)
        return fewer

    def _on_view(self, question: Callable[[_View], T]) -> T:
        """The answer over the files that are there now; asked again if another process takes one away meanwhile."""
        for _ in range(_ATTEMPTS):
            try:
                return question(self._look())
            except FileNotFoundError:
                self._view = None
        raise SiteError(
            f"The files in {self._folder} keep changing.", remedy="Wait for the other commands and try again."
        )

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


def _section(part: Part, without: Set[str]) -> Section:
    """Raises FileNotFoundError where the file is gone."""
    status = part.path.stat()
    gone = sum(zlib.crc32(i.encode("utf-8")) for i in without) & 0xFFFFFFFF
    return Section(
        mark=f"{part.path.name}:{status.st_mtime_ns}:{status.st_ino}:{len(without)}:{gone:08x}",
        rows=part.rows,
        first_timestamp=part.first_timestamp,
        last_timestamp=part.last_timestamp,
        _part=part,
        _without=without,
    )


def _keys(part: Part) -> list[dict[str, Any]]:
    with open_part(part.path) as file:
        rows: list[dict[str, Any]] = file.read(columns=["id", "client_id", "timestamp"]).to_pylist()
    return rows


def _runs_of_small(parts: Sequence[Part]) -> Iterator[list[Part]]:
    """Neighbouring small files, by number, that fit into one."""
    run: list[Part] = []
    for part in (*parts, None):
        fits = part is not None and part.rows < _SMALL_PART_ROWS
        if part is not None and fits and sum(p.rows for p in run) + part.rows <= MAX_PART_ROWS:
            run.append(part)
            continue
        if len(run) > 1:
            yield run
        run = [part] if part is not None and fits else []


def _merged_table(run: Sequence[Part], superseded: Mapping[int, Set[str]]) -> pa.Table:
    tables = []
    for part in run:
        with open_part(part.path) as file:
            table = file.read()
        old = superseded.get(part.number, frozenset())
        tables.append(
            table.filter(pa.array([i not in old for i in table.column("id").to_pylist()], pa.bool_()))
        )
    # older files have fewer columns
    return pa.concat_tables(tables, promote_options="default").sort_by(
        [("timestamp", "ascending"), ("id", "ascending")]
    )
