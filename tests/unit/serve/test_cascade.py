"""Whatever keeps a specialist from answering, the client gets the generalist's answer, whole or streamed, and not a byte of the other's.

Among what keeps it: it is unsure, slow or away; a replica that serves another version than it says; a rollback while it was asked.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from shoal.agents.fakes import FakeClock, FunctionEngine
from shoal.agents.ports import Engine, SpecialistAnswer
from shoal.agents.registry.records import VersionState
from shoal.agents.traces.chat import ChatRequest
from shoal.errors import NoPerformer, SpecialistUnavailable, WrongVersion
from shoal.nodes.spool import SystemClock
from shoal.serve.call import LOCAL_CALLER
from shoal.serve.fakes import FunctionSpecialists
from shoal.serve.settings import ServiceSettings
from shoal.serve.specialist_client import RemoteSpecialists
from shoal.serve.specialist_host import SpecialistHost

from .conftest import SERVING, SHADOW, Bench, ask, route

SECRET = "SPECIALIST-SAID"
DIGEST, OTHER = "a" * 64, "b" * 64
NAMED = replace(SERVING, sha256=DIGEST)
REQUEST = ChatRequest(body=ask("hi", "triage"))


def says(confidence: float) -> Callable[[ChatRequest], SpecialistAnswer]:
    return lambda request: SpecialistAnswer(content=SECRET, confidence=confidence)


class LyingReplica:
    """Answers every question, surely, as whoever it is told to be."""

    def __init__(self, **said: Any) -> None:
        self.said = {"content": SECRET, "confidence": 0.99, "reason": "", **said}

    async def ask(self, key: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        return self.said

    async def ping(self) -> Mapping[str, Any]:
        return {"machine": "", "pid": 0}


LIES = {
    "another version": {"version": "t1@2", "sha256": DIGEST},
    "another task": {"version": "t9@3", "sha256": DIGEST},
    "other files": {"version": "t1@3", "sha256": OTHER},
    "nothing": {},
}


def over(replica: Any, told: list[tuple[str, str]] | None = None, clock: Any = None) -> RemoteSpecialists:
    return RemoteSpecialists(
        lambda name: replica,
        lambda: {"t1@3": "host"},
        clock or SystemClock(),
        digests=lambda: {"t1@3": DIGEST},
        on_wrong=lambda key, why: None if told is None else told.append((key, why)),
    )


# -- the cascade


def unsure(bench: Bench) -> None:
    bench.specialists.functions["t1@3"] = says(0.79)


def nothing_to_say(bench: Bench) -> None:
    bench.specialists.functions["t1@3"] = lambda request: SpecialistAnswer(content=None, confidence=1.0)


def slow(bench: Bench) -> None:
    bench.settings = ServiceSettings(specialist_deadline_s=0.01)
    bench.specialists.functions["t1@3"] = says(0.99)
    bench.specialists.delay_s = 5.0


def failed(bench: Bench) -> None:
    bench.specialists.error = SpecialistUnavailable(f"{SECRET} is away.")


def lying(bench: Bench) -> None:
    bench.routes = (route("triage", NAMED),)
    bench.specialists = over(LyingReplica(**LIES["other files"]))  # type: ignore[assignment]


HINDRANCES = {
    "unsure": unsure,
    "slow": slow,
    "failed": failed,
    "wrong_version": lying,
    "": nothing_to_say,
}


@pytest.mark.parametrize("hindrance", list(HINDRANCES))
@pytest.mark.parametrize("streamed", [False, True])
async def test_the_generalist_answers_before_a_first_byte_goes_out(
    bench: Bench, hindrance: str, streamed: bool
) -> None:
    HINDRANCES[hindrance](bench)
    async with bench.http() as client:
        body = {**ask("hi", "triage"), "stream": streamed}
        async with client.stream("POST", "/v1/chat/completions", json=body) as answer:
            served_by = answer.headers["x-shoal-served-by"]
            lines = [line async for line in answer.aiter_lines() if line]
    assert (answer.status_code, served_by) == (200, "generalist/fake-generalist")
    text = "\n".join(lines)
    assert SECRET not in text
    if streamed:
        chunks = [json.loads(line.removeprefix("data: ")) for line in lines if "[DONE]" not in line]
        assert {chunk["model"] for chunk in chunks} == {"generalist/fake-generalist"}
        said = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)
    else:
        said = json.loads(text)["choices"][0]["message"]["content"]
    assert said.strip() == "large: hi"
    [trace] = bench.record.traces
    assert trace.tags["fallback"] == (hindrance or "unsure")
    assert SECRET not in json.dumps(trace.response)


# -- a replica that serves another version than it says


@pytest.mark.parametrize("lie", list(LIES))
async def test_an_answer_that_names_another_version_is_no_answer(lie: str) -> None:
    told: list[tuple[str, str]] = []
    client = over(LyingReplica(**LIES[lie]), told)
    with pytest.raises(WrongVersion, match=r"t1@3"):
        await client.ask("t1@3", REQUEST, deadline_s=1)
    assert [key for key, _ in told] == ["t1@3"]
    client.close()


async def test_the_honest_answer_is_taken() -> None:
    told: list[tuple[str, str]] = []
    client = over(LyingReplica(version="t1@3", sha256=DIGEST), told)
    assert (await client.ask("t1@3", REQUEST, deadline_s=1)).content == SECRET
    assert told == []
    client.close()


async def test_somebody_is_told_every_few_seconds_as_long_as_it_goes_on() -> None:
    told: list[tuple[str, str]] = []
    clock = FakeClock()
    client = over(LyingReplica(**LIES["other files"]), told, clock)
    for _ in range(20):
        with pytest.raises(WrongVersion):
            await client.ask("t1@3", REQUEST, deadline_s=1)
        clock.advance(0.5)
    assert len(told) == 2
    assert told[0][1] == f"a replica answers as t1@3 from files {OTHER[:12]}, not {DIGEST[:12]}"
    client.close()


async def test_a_shadow_that_is_another_version_gives_no_evidence(bench: Bench) -> None:
    shadow = replace(NAMED, state=VersionState.SHADOW, share=0.0)
    bench.routes = (route("triage", shadow),)
    bench.specialists = over(LyingReplica(**LIES["other files"]))  # type: ignore[assignment]
    await bench.service.chat(REQUEST, LOCAL_CALLER)
    await bench.service.background.drain()
    assert bench.observer.events == []


async def test_a_named_specialist_that_is_another_version_is_an_error(bench: Bench) -> None:
    bench.routes = (route("triage", NAMED),)
    bench.specialists = over(LyingReplica(**LIES["another version"]))  # type: ignore[assignment]
    with pytest.raises(WrongVersion):
        await bench.service.chat(
            ChatRequest(body=ask("hi", "triage", model="specialist/triage")), LOCAL_CALLER
        )


class HostHandle:
    """A way to a replica in this process."""

    def __init__(self, host: SpecialistHost) -> None:
        self._host = host

    async def ask(self, key: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        return await self._host.ask(key, body)

    async def ping(self) -> Mapping[str, Any]:
        return await self._host.ping()


@pytest.fixture
async def host() -> AsyncIterator[SpecialistHost]:
    def load(folder: Path, sha256: str) -> Engine:
        return FunctionEngine(says(0.99))

    yield SpecialistHost(load)


async def loaded(host: SpecialistHost, sha256: str) -> None:
    await host.reconfigure({"versions": [{"key": "t1@3", "folder": "/models/t1@3", "sha256": sha256}]})
    for _ in range(200):
        if (await host.report())["sha256"] == {"t1@3": sha256}:
            return
        await asyncio.sleep(0.01)
    raise TimeoutError(await host.report())


async def test_a_replica_says_from_which_files_it_answers(host: SpecialistHost) -> None:
    client = over(HostHandle(host))
    await loaded(host, DIGEST)
    assert (await client.ask("t1@3", REQUEST, deadline_s=1)).content == SECRET
    await loaded(host, OTHER)
    with pytest.raises(WrongVersion):
        await client.ask("t1@3", REQUEST, deadline_s=1)
    client.close()


# -- rollback


class Turned(FunctionSpecialists):
    """Answers once it is let go; the router's snapshot may have changed by then."""

    def __init__(self) -> None:
        super().__init__({"t1@3": says(0.99), "t1@2": says(0.99)})
        self.asked_now = asyncio.Event()
        self.go = asyncio.Event()

    async def ask(self, version_key: str, request: ChatRequest, *, deadline_s: float) -> SpecialistAnswer:
        self.asked_now.set()
        await self.go.wait()
        return await super().ask(version_key, request, deadline_s=deadline_s)


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_call_under_way_is_not_answered_by_a_version_that_was_taken_back_meanwhile(
    bench: Bench, streamed: bool
) -> None:
    bench.specialists = specialists = Turned()
    async with bench.http() as client:
        body = {**ask("hi", "triage"), "stream": streamed}
        asking = asyncio.create_task(client.post("/v1/chat/completions", json=body))
        await specialists.asked_now.wait()
        bench.epoch, bench.routes = 8, (route("triage", replace(SERVING, key="t1@2", number=2)),)
        specialists.go.set()
        answer = await asking
    assert answer.headers["x-shoal-served-by"] == "generalist/fake-generalist"
    assert SECRET not in answer.text
    assert bench.record.traces[0].tags["fallback"] == "withdrawn"


async def test_an_epoch_that_leaves_the_version_leaves_its_answer(bench: Bench) -> None:
    bench.specialists = specialists = Turned()
    asking = asyncio.create_task(bench.service.chat(REQUEST, LOCAL_CALLER))
    await specialists.asked_now.wait()
    bench.epoch = 8
    specialists.go.set()
    assert (await asking).served_by == "specialist/triage@3"


async def test_a_version_put_back_into_shadow_answers_no_client(bench: Bench) -> None:
    bench.specialists = specialists = Turned()
    asking = asyncio.create_task(bench.service.chat(REQUEST, LOCAL_CALLER))
    await specialists.asked_now.wait()
    bench.epoch, bench.routes = 8, (route("triage", replace(SERVING, state=VersionState.SHADOW)),)
    specialists.go.set()
    assert (await asking).served_by == "generalist/fake-generalist"


async def test_a_client_that_named_the_version_is_told_that_it_was_taken_back(bench: Bench) -> None:
    bench.specialists = specialists = Turned()
    named = ChatRequest(body=ask("hi", "triage", model="specialist/triage"))
    asking = asyncio.create_task(bench.service.chat(named, LOCAL_CALLER))
    await specialists.asked_now.wait()
    bench.epoch, bench.routes = 8, (route("triage", SHADOW),)
    specialists.go.set()
    with pytest.raises(NoPerformer, match="taken back while it was asked"):
        await asking


async def test_calls_that_come_after_the_epoch_never_reach_the_version(bench: Bench) -> None:
    bench.specialists.functions = {"t1@3": says(0.99), "t1@2": says(0.99)}
    answers = []
    for number in range(20):
        if number == 10:
            bench.epoch, bench.routes = 8, (route("triage", replace(SERVING, key="t1@2", number=2)),)
        answers.append((await bench.service.chat(REQUEST, LOCAL_CALLER)).served_by)
    assert answers == ["specialist/triage@3"] * 10 + ["specialist/triage@2"] * 10
