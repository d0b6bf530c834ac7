"""Clients that keep calling a site while something is done to it, and remember what they got."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass, field

import httpx
import tickets


@dataclass(frozen=True, slots=True)
class Got:
    """One call. `at`, `until`: seconds on the monotonic clock. `status` is 0 where the connection broke."""

    at: float
    until: float
    status: int
    trace_id: str = ""
    served_by: str = ""
    content_type: str = ""
    body: str = ""
    error: str = ""

    @property
    def ok(self) -> bool:
        return self.status == 200


@dataclass
class Load:
    """`clients` callers, each with one call under way at any time."""

    url: str
    clients: int = 6
    pause_s: float = 0.02
    got: list[Got] = field(default_factory=list)
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def __aenter__(self) -> Load:
        self._stop = asyncio.Event()
        self._tasks = [asyncio.create_task(self._client(n)) for n in range(self.clients)]
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._stop.set()
        await asyncio.gather(*self._tasks)

    async def _client(self, number: int) -> None:
        rng = random.Random(number)
        async with httpx.AsyncClient(base_url=self.url, timeout=30) as client:
            while not self._stop.is_set():
                self.got.append(await call(client, tickets.ticket(rng)[0]))
                await asyncio.sleep(self.pause_s)


async def call(client: httpx.AsyncClient, text: str) -> Got:
    at = time.monotonic()
    try:
        answer = await client.post("/v1/chat/completions", json=tickets.body(text))
    except httpx.HTTPError as error:
        return Got(at=at, until=time.monotonic(), status=0, error=repr(error))
    return Got(
        at=at,
        until=time.monotonic(),
        status=answer.status_code,
        trace_id=answer.headers.get("X-Shoal-Trace-Id", ""),
        served_by=answer.headers.get("X-Shoal-Served-By", ""),
        content_type=answer.headers.get("Content-Type", ""),
        body=answer.text[:500],
    )
