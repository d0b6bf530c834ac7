"""API keys: made once, shown once, kept only as a SHA-256. Owns their table; knows nothing of HTTP or of who checks them."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from sqlalchemy import RowMapping, func, insert, select, update

from shoal.agents.registry import tables as t
from shoal.agents.registry.database import Database
from shoal.agents.registry.store import SqlRegistry
from shoal.errors import NotFound, UsageError

PREFIX = "sk-shoal-"
#: what a key may be allowed to do
SCOPES = ("chat", "feedback", "plans", "admin")
DEFAULT_SCOPES = ("chat", "feedback")


class Clock(Protocol):
    def now(self) -> float: ...


class _SystemClock:
    def now(self) -> float:
        return time.time()


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRecord:
    """What is known of a key.

    Attributes:
        id: names it in commands; not secret.
        sha256: of the key's text, in hexadecimal.
        rate_per_min: most requests a minute; None for no limit.
        budget_usd: most money in all; None for no limit.
        spent_usd: of the budget, so far.
        revoked_at: None while it is good.
    """

    id: str
    name: str
    sha256: str
    scopes: tuple[str, ...]
    rate_per_min: int | None
    budget_usd: float | None
    spent_usd: float
    created_at: float
    revoked_at: float | None


def sha256_hex(plaintext: str) -> str:
    """What `SqlKeys.find` looks for."""
    return hashlib.sha256(plaintext.encode("utf-8", "surrogatepass")).hexdigest()


class SqlKeys:
    """The keys of a site. Safe to use from several threads and processes."""

    def __init__(self, source: SqlRegistry | Database, *, clock: Clock | None = None) -> None:
        self._database = source.database if isinstance(source, SqlRegistry) else source
        self._clock: Clock = clock or _SystemClock()

    def create(
        self,
        name: str,
        scopes: Sequence[str] = DEFAULT_SCOPES,
        rate_per_min: int | None = None,
        budget_usd: float | None = None,
    ) -> tuple[KeyRecord, str]:
        """A new key and its text, which is stored nowhere.

        Raises:
            UsageError: an unknown scope, or a limit that is not above zero.
        """
        unknown = [scope for scope in scopes if scope not in SCOPES]
        if unknown or not scopes:
            raise UsageError(
                f"A key's scopes must be among {', '.join(SCOPES)}, got {', '.join(unknown) or 'none'}.",
                remedy="For example --scope chat.",
                param="scopes",
            )
        if rate_per_min is not None and rate_per_min < 1:
            raise UsageError(
                f"A key's rate must be at least 1 a minute, got {rate_per_min}.",
                remedy="Leave it out for no limit.",
            )
        if budget_usd is not None and not budget_usd > 0:
            raise UsageError(
                f"A key's budget must be above 0 USD, got {budget_usd}.", remedy="Leave it out for no limit."
            )
        plaintext = PREFIX + secrets.token_urlsafe(32)
        record = KeyRecord(
            id=f"key-{secrets.token_hex(6)}",
            name=name,
            sha256=sha256_hex(plaintext),
            scopes=tuple(dict.fromkeys(scopes)),
            rate_per_min=rate_per_min,
            budget_usd=budget_usd,
            spent_usd=0.0,
            created_at=self._clock.now(),
            revoked_at=None,
        )
        with self._database.write() as connection:
            connection.execute(
                insert(t.api_keys).values(
                    id=record.id,
                    name=record.name,
                    sha256=record.sha256,
                    scopes=list(record.scopes),
                    rate_per_min=record.rate_per_min,
                    budget_usd=record.budget_usd,
                    spent_usd=record.spent_usd,
                    created_at=record.created_at,
                    revoked_at=record.revoked_at,
                )
            )
        return record, plaintext

    def ls(self) -> list[KeyRecord]:
        """All keys, revoked ones too, oldest first."""
        with self._database.read() as connection:
            rows = connection.execute(select(t.api_keys).order_by(t.api_keys.c.created_at, t.api_keys.c.id))
            return [_record(row) for row in rows.mappings()]

    def find(self, digest: str) -> KeyRecord | None:
        """The good key whose text has this SHA-256 (hexadecimal); None where there is none, or it was revoked."""
        query = select(t.api_keys).where(t.api_keys.c.sha256 == digest, t.api_keys.c.revoked_at.is_(None))
        with self._database.read() as connection:
            row = connection.execute(query).mappings().first()
            return None if row is None else _record(row)

    def get(self, key_id: str) -> KeyRecord | None:
        """The good key of this id; None where there is none, or it was revoked."""
        query = select(t.api_keys).where(t.api_keys.c.id == key_id, t.api_keys.c.revoked_at.is_(None))
        with self._database.read() as connection:
            row = connection.execute(query).mappings().first()
            return None if row is None else _record(row)

    def revoke(self, key_id: str) -> None:
        """From now on the key is refused. Revoking twice is no error. Raises NotFound."""
        with self._database.write() as connection:
            known = connection.execute(select(t.api_keys.c.id).where(t.api_keys.c.id == key_id)).first()
            if known is None:
                raise NotFound(f"There is no key {key_id!r}.", remedy="shoal keys ls names those there are.")
            connection.execute(
                update(t.api_keys)
                .where(t.api_keys.c.id == key_id, t.api_keys.c.revoked_at.is_(None))
                .values(revoked_at=self._clock.now())
            )

    def count(self) -> int:
        """How many keys were ever made. Revoked ones count: a site that has asked for a key goes on asking."""
        query = select(func.count()).select_from(t.api_keys)
        with self._database.read() as connection:
            return int(connection.execute(query).scalar_one())

    def add_spend(self, key_id: str, usd: float) -> None:
        """Count money against a key's budget. An unknown id is no error: the key may just have gone."""
        with self._database.write() as connection:
            connection.execute(
                update(t.api_keys)
                .where(t.api_keys.c.id == key_id)
                .values(spent_usd=t.api_keys.c.spent_usd + usd)
            )


def _record(row: RowMapping) -> KeyRecord:
    return KeyRecord(**{**row, "scopes": tuple(row["scopes"])})
