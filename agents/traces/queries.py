"""Questions over the trace store's files, answered by DuckDB without reading any call's text. Knows nothing of writing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shoal.agents.traces.parts import Part

if TYPE_CHECKING:
    import duckdb


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceStats:
    """Figures of a store. Times in seconds since the epoch, None where there are no calls.

    Attributes:
        clients, models, served_by: calls by each; an empty name where a call does not say.
        unreadable: file -> why it is left out.
    """

    calls: int
    files: int
    size_bytes: int
    first_timestamp: float | None
    last_timestamp: float | None
    conversations: int
    clients: Mapping[str, int]
    models: Mapping[str, int]
    served_by: Mapping[str, int]
    unreadable: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceHead:
    """One call without its texts."""

    id: str
    timestamp: float
    client_id: str
    model: str
    served_by: str
    latency_ms: float | None
    privacy: str


def trace_stats(
    parts: Sequence[Part], superseded: Mapping[int, Set[str]], unreadable: Mapping[str, str]
) -> TraceStats:
    groups: dict[str, dict[str, int]] = {"client_id": {}, "model": {}, "served_by": {}}
    calls, first, last, conversations = 0, None, None, 0
    with _calls(parts, superseded) as database:
        if database is not None:
            calls, first, last, conversations = database.execute(
                "SELECT count(*), min(timestamp), max(timestamp), count(DISTINCT conversation_id) FROM calls"
            ).fetchall()[0]
            for column, counts in groups.items():
                counts.update(
                    database.execute(
                        f"SELECT {column}, count(*) AS n FROM calls GROUP BY 1 ORDER BY n DESC, 1 LIMIT 100"
                    ).fetchall()
                )
    return TraceStats(
        calls=calls,
        files=len(parts),
        size_bytes=sum(part.size_bytes for part in parts),
        first_timestamp=first,
        last_timestamp=last,
        conversations=conversations,
        clients=groups["client_id"],
        models=groups["model"],
        served_by=groups["served_by"],
        unreadable=unreadable,
    )


def newest_heads(
    parts: Sequence[Part], superseded: Mapping[int, Set[str]], *, client: str | None, limit: int
) -> list[TraceHead]:
    """Newest first."""
    with _calls(parts, superseded) as database:
        if database is None:
            return []
        rows = database.execute(
            "SELECT id, timestamp, client_id, model, served_by, latency_ms, privacy FROM calls "
            "WHERE $client IS NULL OR client_id = $client ORDER BY timestamp DESC, id DESC LIMIT $limit",
            {"client": client, "limit": limit},
        ).fetchall()
    names = ("id", "timestamp", "client_id", "model", "served_by", "latency_ms", "privacy")
    return [TraceHead(**dict(zip(names, row, strict=True))) for row in rows]


@contextmanager
def _calls(
    parts: Sequence[Part], superseded: Mapping[int, Set[str]]
) -> Iterator[duckdb.DuckDBPyConnection | None]:
    """A database with a view `calls` of the records that count; None where there are no files.

    Raises:
        FileNotFoundError: a file is gone; look at the folder again.
    """
    import duckdb
    import pyarrow as pa

    if not parts:
        yield None
        return
    with _missing_files_named(parts), duckdb.connect(":memory:", config={"threads": 2}) as database:
        old = pa.table(
            {
                "file": pa.array(
                    [str(p.path) for p in parts for _ in superseded.get(p.number, ())], pa.string()
                ),
                "id": pa.array([i for p in parts for i in superseded.get(p.number, ())], pa.string()),
            }
        )
        database.register("old", old)
        # older files have fewer columns
        files = database.read_parquet([str(part.path) for part in parts], filename=True, union_by_name=True)
        files.create_view("files")
        database.execute(
            "CREATE VIEW calls AS SELECT files.* FROM files ANTI JOIN old ON files.filename = old.file AND files.id = old.id"
        )
        yield database


@contextmanager
def _missing_files_named(parts: Sequence[Part]) -> Iterator[None]:
    import duckdb

    try:
        yield
    except duckdb.IOException as error:
        for part in parts:
            if not part.path.exists():
                raise FileNotFoundError(str(part.path)) from error
        raise
