"""One site for the whole session: a Ray of its own with three nodes, a generalist in another process, and a specialist that serves.

Nothing of it is written to the home folder, and at the end nothing of it may be left.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

sys.path.insert(0, str(Path(__file__).parent))

import tickets
from running_site import MODEL, Site

from shoal.agents.registry.store import SqlRegistry
from shoal.config import Config
from shoal.examples.sales_report.agent import site_settings
from shoal.examples.sales_report.database import build_database
from shoal.home import Home
from shoal.serve.processes import free_ports, site_processes
from shoal.serve.site import start_site, stop_site


@pytest.fixture(scope="session")
def generalist() -> Iterator[str]:
    """Base URL of the stub generalist."""
    [port] = free_ports(1)
    script = Path(__file__).with_name("stub_generalist.py")
    process = subprocess.Popen([sys.executable, str(script), str(port)])
    url = f"http://127.0.0.1:{port}/v1"
    try:
        for _ in range(200):
            try:
                urllib.request.urlopen(f"{url}/models", timeout=1).close()
                break
            except (urllib.error.URLError, OSError):
                time.sleep(0.05)
        yield url
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory, generalist: str) -> Iterator[Site]:
    home = Home(tmp_path_factory.mktemp("site") / "home").create()
    task, version = tickets.install(home)
    port, grpc_port = free_ports(2)
    config = Config.model_validate(
        {
            "generalist": {"base_url": generalist, "model": MODEL, "outputs_may_train": True},
            "serve": {"port": port, "grpc_port": grpc_port, "num_cpus": 2},
            "storage": {"min_free_mb": 1},
            **site_settings(home.root / "sales.db"),
        }
    )
    build_database(home.root / "sales.db")
    before = set(psutil.pids())
    started = start_site(home, config, nodes={"cloud": 1, "edge": 1, "local": 1})
    registry = SqlRegistry(home.database)
    try:
        yield Site(home, config, started, task, version, registry)
    finally:
        registry.close()
        stop_site(home)
    record = started.record
    assert site_processes(record.id) == [], "processes of the site are left"
    left = [p for p in set(psutil.pids()) - before if _mentions(p, record.run_folder)]
    assert left == [], "processes that use the site's folder are left"
    assert not Path(record.run_folder).exists()
    assert not home.site.exists()
    for free in (record.port, record.grpc_port):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", free))


def _mentions(pid: int, folder: str) -> bool:
    try:
        return any(folder in word for word in psutil.Process(pid).cmdline())
    except psutil.Error:
        return False
