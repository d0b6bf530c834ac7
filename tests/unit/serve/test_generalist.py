from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer, unused_port

from shoal.agents.traces.chat import ChatRequest, Delta
from shoal.errors import DeadlineExceeded, GeneralistRefused, GeneralistUnavailable
from shoal.serve.generalist import OpenAIGeneralist, is_loopback

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
COMPLETION: dict[str, Any] = {
    "id": "u-1",
    "object": "chat.completion",
    "created": 5,
    "model": "big-2025",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4},
}


def request(**more: Any) -> ChatRequest:
    return ChatRequest(body={"model": "auto", "messages": [{"role": "user", "content": "é"}], **more})


@asynccontextmanager
async def endpoint(handler: Handler, **options: Any) -> AsyncIterator[tuple[OpenAIGeneralist, list[Any]]]:
    """A generalist over a server on loopback, and the (headers, body) of what reached it."""
    seen: list[Any] = []

    async def spy(received: web.Request) -> web.StreamResponse:
        seen.append((received.headers, await received.json()))
        return await handler(received)

    app = web.Application()
    app.router.add_post("/v1/chat/completions", spy)
    async with TestServer(app) as server:
        url = f"http://127.0.0.1:{server.port}/v1/"
        generalist = OpenAIGeneralist(url, "big", "k-1", first_wait_s=0.001, **options)
        try:
            yield generalist, seen
        finally:
            await generalist.close()


def answering(*statuses: int, body: Any = None) -> Handler:
    left = list(statuses)

    async def handler(received: web.Request) -> web.StreamResponse:
        status = left.pop(0) if left else 200
        if status == 200:
            return web.json_response(COMPLETION)
        return web.json_response(body or {"error": {"message": f"sorry {status}"}}, status=status)

    return handler


def streaming(*pieces: bytes, wait_s: float = 0.0) -> Handler:
    async def handler(received: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(received)
        for piece in pieces:
            await response.write(piece)
            await asyncio.sleep(wait_s)
        return response

    return handler


def event(content: str | None = None, finish: str | None = None, **more: Any) -> bytes:
    chunk = {"choices": [{"index": 0, "delta": {"content": content}, "finish_reason": finish}], **more}
    return b"data: " + json.dumps(chunk, ensure_ascii=False).encode() + b"\n\n"


async def read(
    generalist: OpenAIGeneralist, asked: ChatRequest | None = None, limit: float = 5
) -> list[Delta]:
    return [delta async for delta in generalist.stream(asked or request(stream=True), deadline_s=limit)]


async def test_a_body_goes_upstream_as_it_is_but_for_the_model() -> None:
    body = request(
        temperature=0.2, vendor={"a": [1]}, tools=[{"type": "function"}], seed=1, stream_options={}
    )
    async with endpoint(answering()) as (generalist, seen):
        answer = await generalist.chat(body, deadline_s=5)
    assert (answer.content, answer.model, answer.usage.prompt_tokens) == ("hi", "big", 3)
    assert answer.original == COMPLETION
    [(headers, sent)] = seen
    assert sent == {k: v for k, v in body.body.items() if k != "stream_options"} | {"model": "big"}
    assert headers["Authorization"] == "Bearer k-1"
    assert not [name for name in headers if name.lower().startswith("x-shoal")]


@pytest.mark.parametrize("store", [True, False])
async def test_metadata_goes_along_only_where_the_endpoint_stores(store: bool) -> None:
    async with endpoint(answering()) as (generalist, seen):
        await generalist.chat(request(metadata={"a": "b"}, store=store), deadline_s=5)
    assert ("metadata" in seen[0][1]) is store


@pytest.mark.parametrize("status", [429, 500, 502, 503, 529, 408])
async def test_a_passing_fault_is_tried_again(status: int) -> None:
    async with endpoint(answering(status, status)) as (generalist, seen):
        assert (await generalist.chat(request(), deadline_s=5)).content == "hi"
    assert len(seen) == 3


async def test_a_lasting_fault_is_reported_after_a_few_tries() -> None:
    async with endpoint(answering(503, 503, 503, 503)) as (generalist, seen):
        with pytest.raises(GeneralistUnavailable, match="HTTP 503, sorry 503"):
            await generalist.chat(request(), deadline_s=5)
    assert len(seen) == 3


async def test_too_many_requests_stay_a_refusal_with_its_status() -> None:
    async with endpoint(answering(429, 429, 429)) as (generalist, _):
        with pytest.raises(GeneralistRefused) as caught:
            await generalist.chat(request(), deadline_s=5)
    assert caught.value.status == 429


@pytest.mark.parametrize("stream", [False, True])
async def test_a_refusal_keeps_status_message_and_code_and_is_not_tried_again(stream: bool) -> None:
    body = {"error": {"message": "Too long.", "param": "messages", "code": "context_length_exceeded"}}
    async with endpoint(answering(422, body=body)) as (generalist, seen):
        with pytest.raises(GeneralistRefused) as caught:
            await (read(generalist) if stream else generalist.chat(request(), deadline_s=5))
    error = caught.value
    assert (error.status, str(error), error.param) == (422, "Too long.", "messages")
    assert error.upstream_code == "context_length_exceeded"
    assert len(seen) == 1


@pytest.mark.parametrize("body", [{"message": "flat"}, {"detail": "flat"}, {"error": "flat"}])
async def test_errors_in_other_shapes_are_read_too(body: Any) -> None:
    async with endpoint(answering(400, body=body)) as (generalist, _):
        with pytest.raises(GeneralistRefused, match=r"^flat$"):
            await generalist.chat(request(), deadline_s=5)


@pytest.mark.parametrize("status", [401, 403])
async def test_a_refused_key_of_the_sites_is_not_the_clients_fault(status: int) -> None:
    async with endpoint(answering(status)) as (generalist, _):
        with pytest.raises(GeneralistUnavailable, match="api_key_env"):
            await generalist.chat(request(), deadline_s=5)


async def test_nobody_listening_is_unavailable() -> None:
    generalist = OpenAIGeneralist(f"http://127.0.0.1:{unused_port()}/v1", "big", first_wait_s=0.001)
    with pytest.raises(GeneralistUnavailable, match=r"127\.0\.0\.1"):
        await generalist.chat(request(), deadline_s=5)
    with pytest.raises(GeneralistUnavailable):
        await read(generalist)
    await generalist.close()


@pytest.mark.parametrize(
    "text", ["<html>", "[]", "{}", '{"choices": []}', '{"choices": [{}]}', '{"error": {"message": "no"}}']
)
async def test_an_answer_that_is_no_completion_is_unavailable(text: str) -> None:
    async def handler(received: web.Request) -> web.StreamResponse:
        return web.Response(text=text, content_type="application/json")

    async with endpoint(handler) as (generalist, _):
        with pytest.raises(GeneralistUnavailable):
            await generalist.chat(request(), deadline_s=5)
        with pytest.raises(GeneralistUnavailable):
            await read(generalist)


async def test_a_slow_answer_ends_at_the_deadline() -> None:
    async def handler(received: web.Request) -> web.StreamResponse:
        await asyncio.sleep(5)
        return web.Response()

    async with endpoint(handler) as (generalist, _):
        with pytest.raises(DeadlineExceeded):
            await generalist.chat(request(), deadline_s=0.05)
        with pytest.raises(DeadlineExceeded):
            await read(generalist, limit=0.05)


async def test_a_redirect_is_not_followed() -> None:
    async def handler(received: web.Request) -> web.StreamResponse:
        raise web.HTTPTemporaryRedirect("http://elsewhere.example/v1/chat/completions")

    async with endpoint(handler) as (generalist, _):
        with pytest.raises(GeneralistUnavailable, match="307"):
            await generalist.chat(request(), deadline_s=5)


async def test_a_stream_is_read_piece_by_piece_wherever_it_is_cut() -> None:
    usage = {"prompt_tokens": 1, "completion_tokens": 2}
    whole = (
        b": hello\r\n\r\n"
        + event("gr\u00fc")
        + event("\U0001f600").replace(b"\n\n", b"\r\n\r\n")
        + event(None, "stop")
        + b"data: "
        + json.dumps({"choices": [], "usage": usage}).encode()
        + b"\n\ndata: [DONE]\n\n"
    )
    cuts = [whole[i : i + 7] for i in range(0, len(whole), 7)]
    async with endpoint(streaming(*cuts)) as (generalist, seen):
        deltas = await read(generalist)
    assert [d.content for d in deltas] == ["gr\u00fc", "\U0001f600", None, None]
    assert [d.finish_reason for d in deltas] == [None, None, "stop", None]
    assert deltas[-1].usage is not None and deltas[-1].usage.completion_tokens == 2
    assert seen[0][1]["stream"] is True
    assert seen[0][1]["stream_options"] == {"include_usage": True}


async def test_an_endpoint_that_knows_no_stream_options_is_asked_without() -> None:
    async def handler(received: web.Request) -> web.StreamResponse:
        if "stream_options" in await received.json():
            return web.json_response({"error": {"message": "unknown field stream_options"}}, status=400)
        return await streaming(event("a", "stop"))(received)

    async with endpoint(handler) as (generalist, seen):
        assert [d.content for d in await read(generalist)] == ["a"]
        assert [d.content for d in await read(generalist)] == ["a"]
    assert len(seen) == 3


@pytest.mark.parametrize(
    ("pieces", "message"),
    [
        ((event("a"),), "ended before"),
        ((event("a"), b"data: nonsense\n\n"), "nonsense"),
        ((event("a"), b'data: {"choices": 5}\n\n'), "no chat chunk"),
        ((event("a"), b'data: {"error": {"message": "overloaded"}}\n\n'), "overloaded"),
    ],
)
async def test_a_stream_that_breaks_off_says_so(pieces: tuple[bytes, ...], message: str) -> None:
    got = []
    async with endpoint(streaming(*pieces)) as (generalist, seen):
        with pytest.raises(GeneralistUnavailable, match=message):
            async for delta in generalist.stream(request(stream=True), deadline_s=5):
                got.append(delta.content)
    assert got == ["a"]
    assert len(seen) == 1  # nothing is tried again after the first piece


async def test_a_pause_in_a_stream_longer_than_the_deadline_ends_it() -> None:
    async with endpoint(streaming(event("a"), event("b", "stop"), wait_s=2)) as (generalist, _):
        with pytest.raises(DeadlineExceeded):
            await read(generalist, limit=0.1)


async def test_a_whole_answer_instead_of_a_stream_is_taken() -> None:
    async with endpoint(answering()) as (generalist, _):
        [delta] = await read(generalist)
    assert (delta.content, delta.finish_reason) == ("hi", "stop")


async def test_closing_the_stream_breaks_the_call_off_upstream() -> None:
    gone = asyncio.Event()

    async def handler(received: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(received)
        try:
            for _ in range(1000):
                await response.write(event("a"))
                await asyncio.sleep(0.01)
        except (ConnectionError, asyncio.CancelledError):
            gone.set()
            raise
        return response

    async with endpoint(handler) as (generalist, _):
        stream = generalist.stream(request(stream=True), deadline_s=5)
        await anext(stream)
        await stream.aclose()  # type: ignore[attr-defined]
        await asyncio.wait_for(gone.wait(), 2)


@pytest.mark.parametrize(
    ("url", "local"),
    [
        ("http://127.0.0.1:8000/v1", True),
        ("http://localhost/v1", True),
        ("http://[::1]:8/v1", True),
        ("https://api.example.com/v1", False),
        ("http://10.0.0.1/v1", False),
        ("http://localhost.example.com/v1", False),
    ],
)
def test_which_urls_are_on_this_machine(url: str, local: bool) -> None:
    assert is_loopback(url) is local
    assert OpenAIGeneralist(url, "m").local is local
