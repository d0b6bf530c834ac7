"""A running site and what a test needs of it."""

from __future__ import annotations

import time
from dataclasses import dataclass

import httpx
import tickets

from shoal.agents.registry.records import Task, Version
from shoal.agents.registry.store import SqlRegistry
from shoal.agents.traces.store import ParquetTraceStore
from shoal.config import Config
from shoal.home import Home
from shoal.nodes.site_key import load_or_create_key
from shoal.nodes.spool import read_spool
from shoal.serve.processes import describe
from shoal.serve.site import Started, alive_processes

MODEL = "stub-large"


@dataclass
class Site:
    """A running site and what a test needs of it."""

    home: Home
    config: Config
    started: Started
    task: Task
    version: Version
    registry: SqlRegistry

    @property
    def url(self) -> str:
        return self.started.record.url

    @property
    def grpc(self) -> str:
        return self.started.record.grpc_address

    def ask(self, text: str, **changes: object) -> httpx.Response:
        body = {**tickets.body(text), **changes}
        return httpx.post(f"{self.url}/v1/chat/completions", json=body, timeout=30)

    def served_by(self, text: str = "Hello, I have a question about my invoice.") -> str:
        answer = self.ask(text)
        answer.raise_for_status()
        return answer.headers["X-Shoal-Served-By"]

    def wait_until(self, is_so: object, *, within_s: float) -> float:
        """Seconds until the callable `is_so` gives something true. Raises TimeoutError."""
        assert callable(is_so)
        began = time.monotonic()
        while time.monotonic() - began < within_s:
            if is_so():
                return time.monotonic() - began
            time.sleep(0.05)
        raise TimeoutError(f"still not so after {within_s} s")

    def served_by_specialist(self) -> bool:
        return self.served_by().startswith("specialist/")

    def pid(self, name: str) -> int:
        """The process whose shown name contains `name`."""
        views = describe(alive_processes(self.started.record))
        return next(view.pid for view in views if name in view.name)

    def kept_traces(self) -> set[str]:
        """Ids in the spool and in the readable traces. The spool is read twice: the compactor moves traces meanwhile."""
        key = load_or_create_key(self.home.key)
        ids = {str(record["id"]) for record in read_spool(self.home.spool, key)}
        ids |= {trace.id for trace in ParquetTraceStore(self.home).scan()}
        return ids | {str(record["id"]) for record in read_spool(self.home.spool, key)}
