"""What the placement actor must remember, in the registry's database. Implements `PlacementStore` of `shoal.cluster.ports`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from sqlalchemy import select

from shoal.agents.registry import tables as t
from shoal.agents.registry.database import Database, upsert

_KEY = "placement"


class SqlPlacements:
    """One row: the newest decision with the demands that it was made for."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def read(self) -> Mapping[str, Any] | None:
        """What was last kept; None before the first time."""
        with self._database.read() as connection:
            body = connection.execute(select(t.placements.c.body).where(t.placements.c.key == _KEY)).scalar()
        return None if body is None else dict(body)

    def write(self, body: Mapping[str, Any]) -> None:
        values = {"key": _KEY, "body": dict(body), "decided_at": time.time()}
        with self._database.write() as connection:
            upsert(connection, t.placements, values)
