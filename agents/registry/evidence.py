"""What versions were seen to do, in the database: comparisons, bets, inputs, contradicted answers. Functions for `SqlRegistry`'s transactions.

Owns that what was seen, and up to which of a sender's numbers it was, changes together. What the states mean is the business of
`agents/contract/sequential.py`, `agents/contract/drift.py` and `agents/feedback/watching.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, delete, insert, select

from shoal.agents.registry import tables as t
from shoal.agents.registry import versions
from shoal.agents.registry.database import upsert
from shoal.agents.registry.lifecycle import Asker
from shoal.agents.registry.records import VersionState
from shoal.errors import InvalidRequest

_SENDER_GONE_S = 30 * 86400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Comparisons of a version at one stage, and the bets on them (`Wager.to_dict`; None where an older Shoal counted)."""

    compared: int
    agreed: int
    bets: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """All that was seen of a version since it last began to be asked.

    Attributes:
        stages: `shadow`, `canary`, `audit` -> what was compared there.
        watch: `Watch.to_dict`; None where nothing came in yet.
        contradicted: when the answers were given that somebody contradicted, seconds since the epoch.
    """

    stages: Mapping[str, Stage] = field(default_factory=dict)
    watch: Mapping[str, Any] | None = None
    contradicted: Sequence[float] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What is to be kept, in one change.

    Attributes:
        counts: (version key, stage) -> (compared, agreed) to add.
        bets: (version key, stage) -> the bets as they now stand.
        watches: version key -> its watch as it now stands.
        notes: (version key, reason) for the history; no state changes.
        senders: name -> the highest of its numbers that is among these.
    """

    counts: Mapping[tuple[str, str], tuple[int, int]] = field(default_factory=dict)
    bets: Mapping[tuple[str, str], Mapping[str, Any]] = field(default_factory=dict)
    watches: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    notes: Sequence[tuple[str, str]] = ()
    senders: Mapping[str, int] = field(default_factory=dict)


def keep(connection: Connection, seen: Seen, *, now: float) -> None:
    """Raises InvalidRequest where more agreed than were compared."""
    for (key, stage), (compared, agreed) in seen.counts.items():
        if not 0 <= agreed <= compared:
            raise InvalidRequest(f"`agreed` must lie in [0, {compared}], got {agreed}.", param="agreed")
        task_id, number = versions.split_key(key)
        c = t.comparisons.c
        values: dict[str, Any] = {"compared": compared, "agreed": agreed, "updated_at": now}
        if (key, stage) in seen.bets:
            values["bets"] = dict(seen.bets[key, stage])
        more = {**values, "compared": c.compared + compared, "agreed": c.agreed + agreed}
        upsert(
            connection, t.comparisons, {**values, "task_id": task_id, "number": number, "stage": stage}, more
        )
    for key, body in seen.watches.items():
        task_id, number = versions.split_key(key)
        values = {"body": dict(body), "updated_at": now}
        upsert(connection, t.watches, {**values, "task_id": task_id, "number": number}, values)
    for key, reason in seen.notes:
        versions.remark(connection, key, reason, now=now)
    for name, number in seen.senders.items():
        upsert(connection, t.senders, {"name": name, "counted": number, "at": now})
    if seen.senders:
        # a sender is a process; one that has been silent for so long is gone
        connection.execute(delete(t.senders).where(t.senders.c.at < now - _SENDER_GONE_S))


def of(connection: Connection, key: str) -> Evidence:
    """What is known of one version."""
    task_id, number = versions.split_key(key)
    found = []
    for table in (t.comparisons, t.watches, t.contradictions):
        query = select(table).where(table.c.task_id == task_id, table.c.number == number)
        found.append(list(connection.execute(query).mappings()))
    stages, watches, contradicted = found
    return Evidence(
        stages={
            row["stage"]: Stage(compared=row["compared"], agreed=row["agreed"], bets=row["bets"])
            for row in stages
        },
        watch=watches[0]["body"] if watches else None,
        contradicted=tuple(sorted(row["answered_at"] for row in contradicted)),
    )


def contradict(connection: Connection, key: str, trace_id: str, answered_at: float | None) -> bool:
    """Keep it that an answer was contradicted, or, with None, that it is no longer. Returns whether that is news."""
    task_id, number = versions.split_key(key)
    table = t.contradictions
    known = connection.execute(select(table.c.trace_id).where(table.c.trace_id == trace_id)).first()
    if (known is None) == (answered_at is None):
        return False
    if answered_at is None:
        connection.execute(delete(table).where(table.c.trace_id == trace_id))
    else:
        connection.execute(
            insert(table).values(trace_id=trace_id, task_id=task_id, number=number, answered_at=answered_at)
        )
    return True


def broken(connection: Connection) -> dict[str, tuple[str, float]]:
    """Of each version that was taken back because its contract was broken: why, and when last."""
    events = t.version_events
    query = (
        select(events)
        .where(events.c.asker == str(Asker.AUDIT), events.c.to_state == str(VersionState.PAUSED))
        .order_by(events.c.sequence)
    )
    return {
        f"{row['task_id']}@{row['number']}": (row["reason"], row["at"])
        for row in connection.execute(query).mappings()
        if row["from_state"] != row["to_state"]
    }


def forget(connection: Connection, task_id: str, number: int | None = None) -> None:
    """All of a version, which begins anew, or of a task."""
    for table in (t.comparisons, t.watches, t.contradictions):
        gone = delete(table).where(table.c.task_id == task_id)
        connection.execute(gone if number is None else gone.where(table.c.number == number))
