"""OpenAI's own SDK, unchanged, against the application on a loopback port."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import openai
import pytest
import uvicorn

from shoal.agents.fakes import FunctionGeneralist
from shoal.errors import GeneralistRefused
from shoal.serve.client import AsyncClient, Client

from .conftest import Bench, ask


@pytest.fixture
async def url(bench: Bench) -> AsyncIterator[str]:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(bench.app(), log_level="warning", lifespan="off"))
        running = asyncio.create_task(server.serve(sockets=[listening]))
        while not server.started:
            await asyncio.sleep(0.005)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        server.should_exit = True
        await running


@pytest.fixture
async def sdk(url: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0) as client:
        yield client


async def test_a_plain_answer_says_who_gave_it(sdk: openai.AsyncOpenAI) -> None:
    raw = await sdk.chat.completions.with_raw_response.create(**ask("hello", "triage"))
    completion = raw.parse()
    assert completion.choices[0].message.content == "small: hello"
    assert completion.model == raw.headers["x-shoal-served-by"] == "specialist/triage@3"
    assert completion.usage is not None and completion.usage.total_tokens > 0
    assert completion.id == f"chatcmpl-{raw.headers['x-shoal-trace-id']}"


@pytest.mark.parametrize(
    ("mark", "text", "who"),
    [
        ("triage", "small: one two", "specialist/triage@3"),
        ("", "large: one two", "generalist/fake-generalist"),
    ],
)
async def test_a_streamed_answer_says_who_gives_it(
    sdk: openai.AsyncOpenAI, mark: str, text: str, who: str
) -> None:
    stream = await sdk.chat.completions.create(
        **ask("one two", mark), stream=True, stream_options={"include_usage": True}
    )
    assert stream.response.headers["x-shoal-served-by"] == who
    chunks = [chunk async for chunk in stream]
    assert {chunk.model for chunk in chunks} == {who}
    said = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert said.strip() == text
    assert chunks[-1].usage is not None and chunks[-1].usage.completion_tokens > 0
    assert chunks[-2].choices[0].finish_reason == "stop"


async def test_the_models_can_be_listed(sdk: openai.AsyncOpenAI) -> None:
    listed = [model.id async for model in sdk.models.list()]
    assert listed[0] == "auto"
    assert (await sdk.models.retrieve("specialist/triage")).id == "specialist/triage"


async def test_errors_are_the_sdks_own(sdk: openai.AsyncOpenAI, bench: Bench) -> None:
    with pytest.raises(openai.NotFoundError):
        await sdk.chat.completions.create(**ask("a", model="nothing"))
    with pytest.raises(openai.BadRequestError) as bad:
        await sdk.chat.completions.create(**ask("a", temperature=9))
    assert (bad.value.param, bad.value.code) == ("temperature", "invalid_request")
    assert isinstance(bench.generalist, FunctionGeneralist)
    bench.generalist.error = refused = GeneralistRefused("Too long.")
    refused.upstream_code = "context_length_exceeded"
    with pytest.raises(openai.BadRequestError) as caught:
        await sdk.chat.completions.create(**ask("a"))
    assert caught.value.code == "context_length_exceeded"


async def test_our_own_clients_do_the_same_over_the_same_port(url: str) -> None:
    async with AsyncClient(url) as client:
        pieces = [p async for p in client.chat_stream(ask("a b", "triage")["messages"])]
    assert "".join(p.text for p in pieces) == "small: a b"

    def blocking() -> tuple[str, str, list[str]]:
        with Client(url) as client:
            answer = client.chat(ask("x", "triage")["messages"], temperature=0)
            client.feedback(answer.trace_id, score=1)
            streamed = "".join(p.text for p in client.chat_stream(ask("y", "triage")["messages"]))
            return answer.text, streamed, client.models()

    assert await asyncio.to_thread(blocking) == (
        "small: x",
        "small: y",
        ["auto", "generalist", "fake-generalist", "specialist/triage", "agent/report"],
    )
