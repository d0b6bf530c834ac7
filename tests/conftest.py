"""The databases that the registry can stand on. Fixture `database`: where to open it, on SQLite and on PostgreSQL."""

from __future__ import annotations

import importlib.util
import itertools
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from postgres import REQUIRED, NoPostgres, Server, running_postgres

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """A server for the whole session. Skips the test where there is none, unless it is required."""
    try:
        if importlib.util.find_spec("psycopg") is None:
            raise NoPostgres("psycopg is not installed (pip install 'shoal[postgres]')")
        with running_postgres() as server:
            yield server
    except NoPostgres as error:
        if os.environ.get(REQUIRED):
            pytest.fail(f"{REQUIRED} is set, but {error}")
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def migrated(postgres: Server) -> str:
    """A database of the server with Shoal's tables: to copy it is quicker than to make them."""
    from shoal.agents.registry.database import Database

    Database(postgres.create("migrated")).close()
    return "migrated"


@pytest.fixture(params=["sqlite", "postgres"])
def new_database(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], str]:
    """Each call: where a new database is, as `SqlRegistry` takes it. There is nothing in it; on PostgreSQL its tables are."""
    if request.param == "sqlite":
        return lambda: str(tmp_path / f"{next(_numbers)}.db")
    server: Server = request.getfixturevalue("postgres")
    template = request.getfixturevalue("migrated")
    return lambda: server.create(f"test{next(_numbers)}", template)


@pytest.fixture
def database(new_database: Callable[[], str]) -> str:
    """Where a new database is; see `new_database`."""
    return new_database()


@pytest.fixture(params=["sqlite", "postgres"])
def bare_database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a database is whose tables are not made yet."""
    if request.param == "sqlite":
        return str(tmp_path / "home" / "shoal.db")
    server: Server = request.getfixturevalue("postgres")
    return server.create(f"test{next(_numbers)}")
