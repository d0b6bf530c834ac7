"""A real PostgreSQL for tests, on a Unix socket in a folder of its own. Nothing listens on a port."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

#: where this is set, tests that find no PostgreSQL fail instead of skipping themselves; `.ci/run` sets it
REQUIRED = "SHOAL_TEST_POSTGRES"
#: the server refuses to run as root; Debian's package makes this user
_USER = "postgres"


class NoPostgres(Exception):
    """Why there is none."""


@dataclass(frozen=True)
class Server:
    """A running server."""

    folder: Path

    def url(self, database: str) -> str:
        return f"postgresql://{_USER}@/{database}?host={self.folder}"

    def create(self, database: str, template: str = "template0") -> str:
        """A new database, a copy of another one that nobody uses; its URL."""
        import psycopg

        with psycopg.connect(host=str(self.folder), user=_USER, dbname=_USER, autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{database}" TEMPLATE "{template}"'.encode())
        return self.url(database)


def find_binaries() -> Path:
    """The folder of `initdb` and `postgres`. Raises NoPostgres."""
    found = shutil.which("initdb")
    if found is not None:
        return Path(found).parent
    # Debian keeps them off the path, by version
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda p: float(p.parts[4]))
    if not folders:
        raise NoPostgres("PostgreSQL is not installed (apt-get install postgresql)")
    return folders[-1].parent


@contextmanager
def running_postgres() -> Iterator[Server]:
    """A server that lives as long as the block. Raises NoPostgres."""
    binaries = find_binaries()
    # short: the path of a socket has at most 107 characters
    folder = Path(tempfile.mkdtemp(prefix="shoal-pg-"))
    as_user = (
        ["setpriv", f"--reuid={_USER}", f"--regid={_USER}", "--clear-groups"] if os.geteuid() == 0 else []
    )
    if as_user:
        shutil.chown(folder, _USER, _USER)
    data = folder / "data"
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "cwd": "/"}
    made = subprocess.run(
        [
            *as_user,
            binaries / "initdb",
            "-D",
            data,
            "-U",
            _USER,
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--locale=C",
            "-N",
        ],
        check=False,
        **quiet,  # type: ignore[call-overload]
    )
    if made.returncode:
        shutil.rmtree(folder, ignore_errors=True)
        raise NoPostgres(f"initdb failed: {made.stdout.decode(errors='replace')[-300:]}")
    settings = {
        "listen_addresses": "",
        "unix_socket_directories": folder,
        "max_connections": 200,
        "shared_buffers": "16MB",
        # the tests kill clients, never the server
        "fsync": "off",
        "full_page_writes": "off",
        "synchronous_commit": "off",
        "wal_level": "minimal",
        "max_wal_senders": "0",
        "autovacuum": "off",
    }
    options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [*as_user, binaries / "postgres", "-D", data, *options],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
        )
    try:
        _wait(server, folder)
        yield Server(folder)
    finally:
        server.send_signal(signal.SIGINT)  # a fast shutdown: clients are cut off
        server.wait(20)
        shutil.rmtree(folder, ignore_errors=True)


def _wait(server: subprocess.Popen[bytes], folder: Path) -> None:
    import psycopg

    for _ in range(200):
        if server.poll() is not None:
            raise NoPostgres(f"the server did not start: {(folder / 'log').read_text()[-300:]}")
        try:
            psycopg.connect(host=str(folder), user=_USER, dbname=_USER, connect_timeout=2).close()
            return
        except psycopg.OperationalError:
            time.sleep(0.05)
    raise NoPostgres(f"the server does not answer: {(folder / 'log').read_text()[-300:]}")
