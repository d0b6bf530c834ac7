from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from shoal.agents.traces.chat import ChatRequest
from shoal.errors import DeadlineExceeded, SpecialistUnavailable
from shoal.nodes.spool import SystemClock
from shoal.serve.specialist_client import RemoteSpecialists, this_machine

REQUEST = ChatRequest(body={"model": "auto", "messages": [{"role": "user", "content": "hi"}]})


class FakeHandle:
    """A replica that answers, hangs or fails as it is told."""

    def __init__(self) -> None:
        self.asked = 0
        self.mode = "answer"
        self.pid = 0

    async def ask(self, key: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        self.asked += 1
        await self._behave()
        if key == "missing@1":
            return {"error": "missing@1 is not loaded: it is being loaded"}
        return {"content": "yes", "confidence": 0.9, "reason": ""}

    async def ping(self) -> Mapping[str, Any]:
        await self._behave()
        return {"machine": this_machine() if self.pid else "", "pid": self.pid}

    async def _behave(self) -> None:
        if self.mode == "hang":
            await asyncio.sleep(60)
        if self.mode == "fail":
            raise ConnectionError("replica died")


@pytest.fixture
def handle() -> FakeHandle:
    return FakeHandle()


@pytest.fixture
async def client(handle: FakeHandle) -> AsyncIterator[RemoteSpecialists]:
    made = RemoteSpecialists(lambda name: handle, lambda: {"t@1": "host", "missing@1": "host"}, SystemClock())
    yield made
    made.close()


async def ask(client: RemoteSpecialists, key: str = "t@1", deadline_s: float = 1.0) -> str | None:
    return (await client.ask(key, REQUEST, deadline_s=deadline_s)).content


async def test_an_answer_comes_back_as_a_specialist_answer(client: RemoteSpecialists) -> None:
    said = await client.ask("t@1", REQUEST, deadline_s=1)
    assert (said.content, said.confidence) == ("yes", 0.9)


async def test_a_version_that_is_nowhere_is_refused_at_once(
    client: RemoteSpecialists, handle: FakeHandle
) -> None:
    with pytest.raises(SpecialistUnavailable, match="nowhere@1"):
        await ask(client, "nowhere@1")
    assert handle.asked == 0


async def test_a_version_that_is_not_loaded_is_refused_and_others_still_answer(
    client: RemoteSpecialists,
) -> None:
    with pytest.raises(SpecialistUnavailable, match="being loaded"):
        await ask(client, "missing@1")
    assert await ask(client) == "yes"


async def test_after_one_call_that_hangs_the_next_ones_are_refused_at_once(
    client: RemoteSpecialists, handle: FakeHandle
) -> None:
    await ask(client)
    handle.mode = "hang"
    with pytest.raises(DeadlineExceeded):
        await ask(client, deadline_s=0.1)
    asked, began = handle.asked, time.monotonic()
    for _ in range(20):
        with pytest.raises(SpecialistUnavailable, match="away"):
            await ask(client)
    assert time.monotonic() - began < 0.5
    assert handle.asked == asked


async def test_a_replica_that_comes_back_is_asked_again(
    client: RemoteSpecialists, handle: FakeHandle
) -> None:
    handle.mode = "fail"
    with pytest.raises(SpecialistUnavailable):
        await ask(client)
    handle.mode = "answer"
    for _ in range(50):
        await asyncio.sleep(0.02)
        if not client.away:
            break
    assert await ask(client) == "yes"


async def test_one_slow_answer_among_quick_ones_does_not_shut_the_others_out(
    handle: FakeHandle,
) -> None:
    class SlowForOne(FakeHandle):
        async def ask(self, key: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
            if key == "slow@1":
                await asyncio.sleep(60)
            return await super().ask(key, body)

    slow = SlowForOne()
    client = RemoteSpecialists(lambda name: slow, lambda: {"t@1": "h", "slow@1": "h"}, SystemClock())
    await ask(client)
    waiting = asyncio.create_task(ask(client, "slow@1", 0.2))
    await asyncio.sleep(0.05)
    assert await ask(client) == "yes"
    with pytest.raises(DeadlineExceeded):
        await waiting
    assert await ask(client) == "yes"
    client.close()


async def test_calls_that_wait_for_a_process_that_dies_end_at_once(
    client: RemoteSpecialists, handle: FakeHandle
) -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
        handle.pid = process.pid
        await ask(client)
        handle.mode = "hang"
        waiting = asyncio.create_task(ask(client, deadline_s=30))
        await asyncio.sleep(0.05)
        began = time.monotonic()
        process.kill()
        with pytest.raises(SpecialistUnavailable, match="died"):
            await waiting
        assert time.monotonic() - began < 2


async def test_a_caller_who_gives_up_is_not_told_that_the_specialist_died(
    client: RemoteSpecialists, handle: FakeHandle
) -> None:
    await ask(client)
    handle.mode = "hang"
    waiting = asyncio.create_task(ask(client, deadline_s=30))
    await asyncio.sleep(0.05)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert client.away == {}
