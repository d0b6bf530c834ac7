from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path

from shoal.agents.fakes import FakeClock, FunctionEngine
from shoal.agents.ports import Engine, SpecialistAnswer
from shoal.agents.traces.chat import ChatRequest
from shoal.errors import CorruptModel
from shoal.serve.ports import Place
from shoal.serve.specialist_client import RemoteSpecialists
from shoal.serve.specialist_host import SpecialistHost

BODY = {"model": "auto", "messages": [{"role": "user", "content": "hi"}]}


def engine(text: str) -> Engine:
    return FunctionEngine(lambda request: SpecialistAnswer(content=text, confidence=1.0))


def config(*keys: str) -> dict[str, list[dict[str, str]]]:
    return {"versions": [{"key": key, "folder": f"/models/{key}", "sha256": "0"} for key in keys]}


class Loader:
    """Gives an engine that says its folder's name; refuses those in `corrupt`, waits for `go`."""

    def __init__(self) -> None:
        self.loaded: list[str] = []
        self.corrupt: set[str] = set()
        self.go = threading.Event()
        self.go.set()

    def __call__(self, folder: Path, sha256: str) -> Engine:
        self.go.wait(5)
        if folder.name in self.corrupt:
            raise CorruptModel(f"{folder} was altered.", remedy="Learn again.")
        self.loaded.append(folder.name)
        return engine(folder.name)


async def settled(host: SpecialistHost, count: int) -> None:
    for _ in range(200):
        report = await host.report()
        if len(report["loaded"]) + len(report["failed"]) >= count:
            return
        await asyncio.sleep(0.01)
    raise TimeoutError(report)


async def test_versions_are_loaded_and_unloaded_by_configuration_without_touching_the_others() -> None:
    load = Loader()
    host = SpecialistHost(load)
    await host.reconfigure(config("a@1", "b@1"))
    await settled(host, 2)
    assert (await host.ask("b@1", BODY))["content"] == "b@1"
    await host.reconfigure(config("b@1", "c@1"))
    await settled(host, 2)
    assert (await host.report())["loaded"] == ["b@1", "c@1"]
    assert load.loaded == ["a@1", "b@1", "c@1"]
    assert "not here" in (await host.ask("a@1", BODY))["error"]


async def test_a_corrupt_folder_is_reported_and_keeps_no_other_from_answering() -> None:
    load = Loader()
    load.corrupt = {"a@1"}
    host = SpecialistHost(load)
    await host.reconfigure(config("a@1", "b@1"))
    await settled(host, 2)
    report = await host.report()
    assert report["loaded"] == ["b@1"]
    assert report["corrupt"] == ["a@1"]
    assert "was altered" in report["failed"]["a@1"]
    assert (await host.ask("b@1", BODY))["content"] == "b@1"
    assert "was altered" in (await host.ask("a@1", BODY))["error"]


async def test_calls_are_answered_while_another_version_is_being_loaded() -> None:
    load = Loader()
    host = SpecialistHost(load)
    await host.reconfigure(config("a@1"))
    await settled(host, 1)
    load.go.clear()
    await host.reconfigure(config("a@1", "b@1"))
    assert (await host.ask("a@1", BODY))["content"] == "a@1"
    assert "being loaded" in (await host.ask("b@1", BODY))["error"]
    load.go.set()
    await settled(host, 2)
    assert (await host.ask("b@1", BODY))["content"] == "b@1"


async def test_an_engine_that_fails_over_a_request_is_an_error_of_that_call_only() -> None:
    class Moody:
        def answer(self, requests: Sequence[ChatRequest]) -> list[SpecialistAnswer]:
            if requests[0].last_user_text == "bad":
                raise ValueError("no")
            return [SpecialistAnswer(content="ok", confidence=1.0) for _ in requests]

    host = SpecialistHost(lambda folder, sha256: Moody())
    await host.reconfigure(config("a@1"))
    await settled(host, 1)
    bad = {"model": "auto", "messages": [{"role": "user", "content": "bad"}]}
    assert "ValueError" in (await host.ask("a@1", bad))["error"]
    assert (await host.ask("a@1", BODY))["content"] == "ok"


async def test_what_an_answer_took_crosses_to_whoever_asked() -> None:
    host = SpecialistHost(Loader(), place=Place(node="edge-1", tier="edge"))
    await host.reconfigure(config("a@1"))
    await settled(host, 1)
    client = RemoteSpecialists(lambda name: host, lambda: {"a@1": "app"}, FakeClock())
    try:
        said = await client.ask("a@1", ChatRequest(body=BODY), deadline_s=5)
    finally:
        client.close()
    assert said.effort is not None and said.effort.compute_ms >= 0
    assert (said.effort.on_gpu, said.effort.energy_joules, said.tier) == (False, None, "edge")
