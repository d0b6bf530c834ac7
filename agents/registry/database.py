"""Opens the registry's database and brings its schema up to date. Knows nothing of what the tables mean.

Writers are kept apart by the database: SQLite transactions that write begin IMMEDIATE, and PostgreSQL's take one advisory lock, so two
processes wait for each other instead of failing half way. Readers see one state: SQLite's WAL gives that, PostgreSQL's repeatable read.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, Table, create_engine, event, inspect, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError

from shoal.agents.registry.tables import HEAD
from shoal.errors import ConfigError, DataError, ShoalError, SiteError, StorageFull

_BUSY_TIMEOUT_S = 10
_WRITES = "shoal_writes"
#: of PostgreSQL's advisory locks: who holds it is the only one that writes
_WRITE_LOCK = 7306271
#: in JSON, the one key of what stands for a float that is not finite
_NOT_FINITE = "$float"


class Database:
    """An engine with Shoal's rules for transactions and errors.

    Args:
        url_or_path: a SQLite file (made if it is not there), or an SQLAlchemy URL.

    Raises:
        ConfigError: no such database, or no driver for it.
        DataError: the file is no database, is damaged, or was made by a newer Shoal.
        SiteError: it is locked or cannot be reached.
    """

    def __init__(self, url_or_path: str | Path) -> None:
        self.name = _shown_name(url_or_path)
        self.path = _sqlite_path(url_or_path)
        self.engine = self._make_engine(url_or_path)
        self._migrate()

    def _make_engine(self, url_or_path: str | Path) -> Engine:
        try:
            if self.path is None:
                return _make_server_engine(str(url_or_path))
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            engine = create_engine(
                f"sqlite:///{self.path}", connect_args={"timeout": _BUSY_TIMEOUT_S}, hide_parameters=True
            )
        except (ArgumentError, NoSuchModuleError, ModuleNotFoundError) as error:
            raise ConfigError(
                f"The database {self.name} cannot be used: {error}.",
                remedy="Give a path, or a URL such as postgresql://user@host/shoal, with its driver: pip install 'shoal[postgres]'.",
            ) from error
        except OSError as error:
            raise ConfigError(
                f"The folder of {self.name} cannot be made: {error.strerror}.",
                remedy="Name a writable data folder.",
            ) from error
        event.listen(engine, "connect", _set_up_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine

    @contextlib.contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that sees one state and changes nothing."""
        with self._translated(), self.engine.connect() as connection:
            if self.path is None:
                connection = connection.execution_options(isolation_level="REPEATABLE READ")
            with connection.begin():
                yield connection

    @contextlib.contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that is the only writing one."""
        with (
            self._translated(),
            self.engine.connect().execution_options(**{_WRITES: True}) as connection,
            connection.begin(),
        ):
            if connection.dialect.name == "postgresql":
                connection.execute(text(f"SELECT pg_advisory_xact_lock({_WRITE_LOCK})"))
            yield connection

    def close(self) -> None:
        self.engine.dispose()

    def _migrate(self) -> None:
        """Bring the schema to `HEAD`. Of several processes that come at once, one does it and the others wait."""
        with self.read() as connection:
            revision = _revision(connection)
        if revision == HEAD:
            return
        # on PostgreSQL `write` lets one process through at a time
        with self._only_one(), self.write() as connection:
            revision = _revision(connection)
            if revision != HEAD:
                _upgrade(connection, revision, self.name)

    @contextlib.contextmanager
    def _only_one(self) -> Iterator[None]:
        if self.path is None:
            yield
            return
        descriptor = os.open(self.path.with_name(self.path.name + ".lock"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except DBAPIError as error:
            raise _shoal_error(self.name, error) from error
        except SQLAlchemyError as error:
            raise SiteError(f"The database {self.name} failed: {error}.", remedy="Try again.") from error


def _make_server_engine(url: str) -> Engine:
    parsed = make_url(url)
    if parsed.drivername in ("postgresql", "postgres"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    options = {}
    if parsed.get_backend_name() == "postgresql":
        options = {"options": f"-c lock_timeout={_BUSY_TIMEOUT_S}s", "connect_timeout": _BUSY_TIMEOUT_S}
    return create_engine(
        parsed,
        pool_pre_ping=True,
        hide_parameters=True,
        isolation_level="READ COMMITTED",
        json_serializer=_write_json,
        json_deserializer=_read_json,
        connect_args=options,
    )


def _write_json(value: Any) -> str:
    """PostgreSQL's JSON has no infinity and no NaN, which bounds of figures may be."""
    return json.dumps(_finite(value), allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return {_NOT_FINITE: repr(value)}
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    return [_finite(part) for part in value] if isinstance(value, list | tuple) else value


def _read_json(text: str) -> Any:
    return json.loads(
        text, object_hook=lambda found: float(found[_NOT_FINITE]) if found.keys() == {_NOT_FINITE} else found
    )


def _sqlite_path(url_or_path: str | Path) -> Path | None:
    if isinstance(url_or_path, Path) or "://" not in url_or_path:
        return Path(url_or_path)
    with contextlib.suppress(ArgumentError):
        url = make_url(url_or_path)
        if url.get_backend_name() == "sqlite" and url.database:
            return Path(url.database)
    return None


def _shown_name(url_or_path: str | Path) -> str:
    """For messages: without a password."""
    if isinstance(url_or_path, str) and "://" in url_or_path:
        with contextlib.suppress(ArgumentError):
            return make_url(url_or_path).render_as_string(hide_password=True)
    return str(url_or_path)


def _set_up_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # the driver begins nothing by itself; see `_begin_sqlite`
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get(_WRITES)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def upsert(
    connection: Connection, table: Table, values: Mapping[str, Any], changes: Mapping[str, Any] | None = None
) -> None:
    """Insert a row, or change the one with its primary key. `changes`: by default, all of `values`."""
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    connection.execute(
        insert(table)
        .values(**values)
        .on_conflict_do_update(index_elements=list(table.primary_key), set_=dict(changes or values))
    )


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    found = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return None if found is None else str(found)


def _upgrade(connection: Connection, revision: str | None, name: str) -> None:
    from alembic import command  # costs 0.2 s, and is needed once
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if revision is not None and revision not in known:
        raise DataError(
            f"The database {name} was made by a newer Shoal (schema {revision}; this one knows up to {HEAD}).",
            remedy="Upgrade Shoal: pip install --upgrade shoal. Nothing was changed.",
        )
    config.attributes["connection"] = connection
    command.upgrade(config, HEAD)


def _shoal_error(name: str, error: DBAPIError) -> ShoalError:
    # of PostgreSQL's words only the first line: the others quote what was to be written
    diagnosis = getattr(error.orig, "diag", None)
    reason = getattr(diagnosis, "message_primary", None) or str(error.orig).strip().split("\n")[0]
    code = getattr(error.orig, "sqlite_errorcode", 0) & 0xFF
    #: PostgreSQL's, of five characters (its manual, appendix A)
    state = getattr(error.orig, "sqlstate", None) or ""
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED) or state == "55P03":
        return SiteError(
            f"The database {name} was locked by another process for {_BUSY_TIMEOUT_S} s.",
            remedy="Wait for the other command, or end it; nothing was changed.",
        )
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return DataError(
            f"The database {name} is damaged: {reason}.",
            remedy="Move it away and run shoal learn again, or restore a copy; traces and models are not in it.",
        )
    if code == sqlite3.SQLITE_FULL or state == "53100":
        return StorageFull(
            f"The disk of {name} is full.", remedy="Free some space and try again; nothing is lost."
        )
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
        return SiteError(
            f"The database {name} cannot be written: {reason}.", remedy="Check who owns the data folder."
        )
    return SiteError(
        f"The database {name} failed: {reason}.", remedy="Check that it is there and can be reached."
    )
