from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, MutableMapping
from typing import Any

import pytest

from shoal.agents.fakes import FunctionGeneralist
from shoal.agents.traces.chat import ChatRequest, Delta
from shoal.errors import GeneralistRefused, GeneralistUnavailable, RateLimited
from shoal.serve.fakes import ListRecord

from .conftest import Bench, ask, route
from .test_auth import Keys, record

CHAT = "/v1/chat/completions"


async def test_headers_say_who_answered_and_where(bench: Bench) -> None:
    async with bench.http() as http:
        response = await http.post(CHAT, json=ask("hello", "triage"))
    assert response.status_code == 200
    found = {k: v for k, v in response.headers.items() if k.startswith("x-")}
    assert found == {
        "x-shoal-trace-id": "trace-1",
        "x-shoal-served-by": "specialist/triage@3",
        "x-shoal-node": "node-a",
        "x-shoal-tier": "local",
        "x-shoal-cost-usd": "0.00000000",
        "x-request-id": "trace-1",
    }
    assert response.json()["id"] == "chatcmpl-trace-1"


async def test_a_models_name_that_no_header_can_hold_does_no_harm(bench: Bench) -> None:
    bench.generalist = FunctionGeneralist(lambda r: "ok", model="größe\r\nX-Evil: 1")
    async with bench.http() as http:
        response = await http.post(CHAT, json=ask("hello"))
    assert response.headers["x-shoal-served-by"] == "generalist/gr??e??X-Evil: 1"
    assert response.json()["model"] == "generalist/größe\r\nX-Evil: 1"


async def test_a_stream_is_server_sent_events_ended_by_done(bench: Bench) -> None:
    async with bench.http() as http:
        response = await http.post(CHAT, json=ask("a b", "triage", stream=True))
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["x-shoal-served-by"] == "specialist/triage@3"
    assert "content-length" not in response.headers
    *events, done, rest = response.text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    parsed = [json.loads(event.removeprefix("data: ")) for event in events]
    assert {chunk["object"] for chunk in parsed} == {"chat.completion.chunk"}
    assert {chunk["id"] for chunk in parsed} == {"chatcmpl-trace-1"}
    assert "".join(c["choices"][0]["delta"].get("content") or "" for c in parsed) == "small: a b"


async def test_a_stream_that_breaks_off_ends_with_an_error_and_not_with_done(bench: Bench) -> None:
    class Breaking(FunctionGeneralist):
        async def stream(self, request: ChatRequest, *, deadline_s: float) -> AsyncIterator[Delta]:
            yield Delta(content="half")
            raise GeneralistUnavailable("It broke off.")

    bench.generalist = Breaking(lambda r: "")
    async with bench.http() as http:
        response = await http.post(CHAT, json=ask("a", stream=True))
    last = json.loads(response.text.rstrip().rpartition("data: ")[2])
    assert last["error"]["code"] == "generalist_unavailable"
    assert "[DONE]" not in response.text


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b'"x"', b'{"messages": NaN}', b"\xff", b'{"model": "auto"}', b"[" * 5000],
    ids=lambda c: repr(c[:18]),
)
async def test_a_bad_body_is_a_400_in_openais_shape(bench: Bench, content: bytes) -> None:
    async with bench.http() as http:
        for path in (CHAT, "/v1/feedback"):
            response = await http.post(path, content=content)
            error = response.json()["error"]
            assert (response.status_code, error["type"]) == (400, "invalid_request_error")
            assert set(error) == {"message", "type", "param", "code"}


async def test_a_body_that_is_too_large_is_refused_announced_or_not(bench: Bench) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b"x" * 100

    async with bench.http(max_body_bytes=1000) as http:
        for content in (b"x" * 1001, pieces()):
            response = await http.post(CHAT, content=content)
            assert response.status_code == 413
            assert response.json()["error"]["code"] == "request_too_large"


async def test_a_refusal_of_the_generalists_keeps_its_status_and_code(bench: Bench) -> None:
    error = GeneralistRefused("Too long.")
    error.status, error.upstream_code = 422, "context_length_exceeded"
    bench.generalist = FunctionGeneralist(lambda r: "", error=error)
    async with bench.http() as http:
        response = await http.post(CHAT, json=ask("a", stream=True))
    assert (response.status_code, response.json()["error"]["code"]) == (422, "context_length_exceeded")
    assert response.headers["x-shoal-error"] == "generalist_refused"


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/nowhere", 404), ("GET", CHAT, 405)])
async def test_unknown_paths_and_methods_have_openais_shape(
    bench: Bench, method: str, path: str, status: int
) -> None:
    async with bench.http() as http:
        response = await http.request(method, path)
    assert response.status_code == status
    assert response.json()["error"]["message"]


async def test_models_can_be_listed_and_looked_at(bench: Bench) -> None:
    async with bench.http() as http:
        listed = (await http.get("/v1/models")).json()
        one = await http.get("/v1/models/specialist/triage")
        none = await http.get("/v1/models/nothing")
    assert listed["object"] == "list"
    assert one.json() in listed["data"]
    assert none.status_code == 404


async def test_health_needs_no_key_and_readiness_has_reasons(bench: Bench) -> None:
    bench.beyond_loopback = True
    bench.ready = False
    async with bench.http(peer="8.8.8.8") as http:
        assert (await http.get("/healthz")).status_code == 200
        response = await http.get("/readyz")
        assert (response.status_code, response.json()["reasons"]) == (503, ["no router snapshot yet"])
        bench.ready = True
        assert (await http.get("/readyz")).status_code == 200
        assert (await http.get("/metrics")).status_code == 401


async def test_the_openapi_document_names_every_path_and_what_a_chat_must_have(bench: Bench) -> None:
    async with bench.http() as http:
        document = (await http.get("/openapi.json")).json()
    assert {CHAT, "/v1/models", "/v1/feedback", "/healthz", "/readyz", "/metrics"} <= set(document["paths"])
    post = document["paths"][CHAT]["post"]
    assert post["requestBody"]["content"]["application/json"]["schema"]["required"] == ["messages"]
    assert "X-Shoal-Privacy" in [p["name"] for p in post["parameters"]]


async def test_metrics_count_who_answered(bench: Bench) -> None:
    async with bench.http() as http:
        for _ in range(3):
            await http.post(CHAT, json=ask("a", "triage"))
        await http.post(CHAT, json=ask("a", stream=True))
        await http.post(CHAT, json=ask("a", model="nothing"))
        text = (await http.get("/metrics")).text
    assert 'shoal_requests_total{performer="specialist/triage"} 3.0' in text
    assert 'shoal_requests_total{performer="generalist"} 1.0' in text
    assert 'shoal_request_seconds_count{performer="generalist"} 1.0' in text
    assert 'shoal_errors_total{code="not_found"} 1.0' in text
    assert "shoal_router_epoch 7.0" in text


async def test_a_key_over_its_rate_is_told_when_to_come_back(bench: Bench) -> None:
    bench.keys = Keys(record("chat", rate=1))
    async with bench.http(peer="8.8.8.8") as http:
        http.headers["Authorization"] = "Bearer sk-shoal-abc"
        assert (await http.get("/v1/models")).status_code == 200
        response = await http.get("/v1/models")
    assert (response.status_code, response.headers["retry-after"]) == (429, "60")
    assert response.headers["x-shoal-error"] == RateLimited.code


async def test_a_key_for_chat_only_gives_no_feedback_and_no_key_is_a_401(bench: Bench) -> None:
    bench.keys = Keys(record("chat"))
    async with bench.http() as http:
        response = await http.post(CHAT, json=ask("a"))
        assert (response.status_code, response.headers["www-authenticate"]) == (401, "Bearer")
        http.headers["Authorization"] = "Bearer sk-shoal-abc"
        assert (await http.post("/v1/feedback", json={"trace_id": "t", "score": 1})).status_code == 403


async def test_a_web_page_elsewhere_is_refused_without_a_key(bench: Bench) -> None:
    async with bench.http() as http:
        response = await http.post(CHAT, json=ask("a"), headers={"Origin": "https://evil.example"})
    assert response.status_code == 401


async def test_feedback_with_an_unknown_key_is_refused(bench: Bench) -> None:
    async with bench.http() as http:
        response = await http.post("/v1/feedback", json={"trace_id": "t", "score": 1, "stars": 5})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "stars")


async def test_a_client_that_goes_away_ends_the_stream_at_once(bench: Bench) -> None:
    class Endless(FunctionGeneralist):
        closed = False

        async def stream(self, request: ChatRequest, *, deadline_s: float) -> AsyncIterator[Delta]:
            try:
                while True:
                    yield Delta(content="on ")
                    await asyncio.sleep(0.001)
            finally:
                self.closed = True

    bench.generalist = generalist = Endless(lambda r: "")
    bench.record = ListRecord()
    body = json.dumps(ask("a", stream=True)).encode()
    left = asyncio.Event()
    waiting = [{"type": "http.request", "body": body, "more_body": False}]
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        if waiting:
            return waiting.pop()
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)
        if len(sent) == 5:
            left.set()

    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": "POST",
        "path": CHAT,
        "raw_path": CHAT.encode(),
        "root_path": "",
        "scheme": "http",
        "query_string": b"",
        "headers": [(b"host", b"x"), (b"content-type", b"application/json")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }
    await asyncio.wait_for(bench.app()(scope, receive, send), 5)
    assert generalist.closed
    assert [t.tags["incomplete"] for t in bench.record.traces] == ["client_closed"]


async def test_a_site_without_tasks_still_answers(bench: Bench) -> None:
    bench.routes = (route("empty"),)
    async with bench.http() as http:
        response = await http.post(CHAT, json=ask("a", "empty"))
    assert response.json()["model"] == "generalist/fake-generalist"
