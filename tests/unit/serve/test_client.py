from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable

import httpx
import pytest

import shoal
from shoal.errors import ConfigError, DeadlineExceeded, RateLimited, ShoalError, SiteError, Unauthenticated
from shoal.serve.client import AsyncClient, Client
from shoal.serve.client_http import HttpTransport

from .conftest import Bench, ask

ME = [{"role": "user", "content": "hello"}]


def over(handler: Callable[[httpx.Request], httpx.Response], key: str | None = None) -> Client:
    url = "http://site.test"
    return Client(url, transport=HttpTransport(url, key, 1.0, transport=httpx.MockTransport(handler)))


@pytest.mark.parametrize("url", ["127.0.0.1:8700", "ftp://x", "http://", "", "grpc:/x"])
def test_a_url_of_another_kind_is_refused(url: str) -> None:
    for kind in (Client, AsyncClient):
        with pytest.raises(ConfigError, match="http://"):
            kind(url)


def test_a_key_goes_along_as_a_bearer() -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        assert request.headers["Authorization"] == "Bearer sk-shoal-x"
        assert request.headers["X-Shoal-Privacy"] == "public"
        return httpx.Response(200, json={"choices": [{"message": {"content": "ok"}}]})

    assert over(handler, "sk-shoal-x").chat(ME, privacy="public").text == "ok"


@pytest.mark.parametrize(
    ("response", "kind"),
    [
        (httpx.Response(401, json={"error": {"message": "who?"}}), Unauthenticated),
        (httpx.Response(429, headers={"Retry-After": "7"}, text="slow down"), RateLimited),
        (httpx.Response(502, text="<html>bad gateway</html>"), SiteError),
        (httpx.Response(200, text="<html>a login page</html>"), SiteError),
    ],
)
def test_answers_of_something_that_is_no_site_are_clear_errors(
    response: httpx.Response, kind: type[ShoalError]
) -> None:
    with pytest.raises(kind) as caught:
        over(lambda request: response).chat(ME)
    if isinstance(caught.value, RateLimited):
        assert caught.value.retry_after_s == 7


def test_nobody_there_and_nobody_in_time_are_told_apart() -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    def sleep(request: httpx.Request) -> httpx.Response:
        raise httpx.ReadTimeout("slow")

    with pytest.raises(SiteError, match="shoal up"):
        over(refuse).chat(ME)
    with pytest.raises(DeadlineExceeded):
        list(over(sleep).chat_stream(ME))


def test_a_stream_without_its_end_is_an_error() -> None:
    text = 'data: {"choices": [{"delta": {"content": "half"}}]}\n\n'
    pieces = []
    with pytest.raises(SiteError, match="broke off"):
        for piece in over(lambda request: httpx.Response(200, text=text)).chat_stream(ME):
            pieces.append(piece.text)
    assert pieces == ["half"]


def test_nobody_behind_a_grpc_url_is_a_site_error() -> None:
    with Client("grpc://127.0.0.1:1", timeout=5) as client, pytest.raises(SiteError):
        client.chat(ME)


async def test_the_blocking_grpc_client_does_what_the_other_does(bench: Bench) -> None:
    server = await bench.grpc()

    def blocking() -> tuple[str, str, list[str]]:
        with Client(f"grpc://127.0.0.1:{server.port}") as client:
            answer = client.chat(ask("x", "triage")["messages"], temperature=0)
            client.feedback(answer.trace_id, score=1, correction={"role": "assistant", "content": "y"})
            streamed = "".join(p.text for p in client.chat_stream(ask("y", "triage")["messages"]))
            return answer.text, streamed, client.models()

    text, streamed, models = await asyncio.to_thread(blocking)
    await server.stop(0)
    assert (text, streamed, models[0]) == ("small: x", "small: y", "auto")
    assert len(bench.observer.events) == 1


def test_the_package_has_a_face() -> None:
    assert shoal.Client is Client
    assert shoal.ShoalError is ShoalError
    assert "AsyncClient" in dir(shoal)
    with pytest.raises(AttributeError):
        shoal.nothing  # noqa: B018


@pytest.mark.parametrize(
    "use",
    [
        "import shoal",
        "from shoal import Client, AsyncClient; Client('http://127.0.0.1:1').close()",
        "from shoal import Client; Client('grpc://127.0.0.1:1').close()",
    ],
)
def test_the_client_is_light(use: str) -> None:
    heavy = ["ray", "torch", "transformers", "fastapi", "aiohttp", "sqlalchemy", "numpy"]
    rooms = ["shoal.agents", "shoal.cluster", "shoal.nodes", "shoal.config"]
    code = f"import sys; {use}; print([m for m in {heavy + rooms} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
