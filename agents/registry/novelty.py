"""The novelty pool, in the registry's database. Implements `PoolStore` of `agents/feedback/novelty.py`.

Holds ids of readable traces, never their contents. Its changes raise no epoch: no gateway needs to know.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict

from sqlalchemy import delete, func, insert, select

from shoal.agents.feedback.novelty import NovelCall
from shoal.agents.registry import tables as t
from shoal.agents.registry.database import Database

#: values in one statement
_AT_ONCE = 500


class SqlNovelty:
    """One row a call."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, calls: Sequence[NovelCall], *, most: int) -> None:
        """Take calls in; of those beyond `most` the oldest leave. One that is there already is replaced."""
        table = t.novel_calls
        newest = list({call.trace_id: call for call in calls}.values())[-most:]
        if not newest:
            return
        with self._database.write() as connection:
            for ids in _parts([call.trace_id for call in newest]):
                connection.execute(delete(table).where(table.c.trace_id.in_(ids)))
            connection.execute(insert(table), [asdict(call) for call in newest])
            count = connection.execute(select(func.count()).select_from(table)).scalar_one()
            if count > most:
                oldest = select(table.c.trace_id).order_by(table.c.at, table.c.trace_id).limit(count - most)
                for ids in _parts([row[0] for row in connection.execute(oldest)]):
                    connection.execute(delete(table).where(table.c.trace_id.in_(ids)))

    def remove(self, trace_ids: Collection[str]) -> None:
        """Let calls go."""
        if not trace_ids:
            return
        with self._database.write() as connection:
            for ids in _parts(sorted(trace_ids)):
                connection.execute(delete(t.novel_calls).where(t.novel_calls.c.trace_id.in_(ids)))

    def all(self) -> list[NovelCall]:
        """Oldest first."""
        query = select(t.novel_calls).order_by(t.novel_calls.c.at, t.novel_calls.c.trace_id)
        with self._database.read() as connection:
            return [NovelCall(**row) for row in connection.execute(query).mappings()]


def _parts(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(ids), _AT_ONCE):
        yield ids[start : start + _AT_ONCE]
