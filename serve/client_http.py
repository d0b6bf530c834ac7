"""The clients' way over HTTP. Reading is shared; a sync and an async sender stand over it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import quote

import httpx

from shoal.errors import DeadlineExceeded, SiteError
from shoal.serve import status
from shoal.serve.answers import ChatAnswer, ChatPiece
from shoal.serve.sse import SseParser

_CHAT = "/v1/chat/completions"
#: a step may take long, and no event comes meanwhile
_FOLLOW = httpx.Timeout(30.0, read=None)


def _headers(key: str | None, beside: Mapping[str, str]) -> dict[str, str]:
    headers = {f"X-Shoal-{name.title()}": value for name, value in beside.items()}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    return headers


def _object(response: httpx.Response) -> dict[str, Any]:
    try:
        value = response.json()
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise SiteError(
            f"{response.url} answered with {response.text[:80]!r}, which is no JSON object.",
            remedy="Is this the URL of a Shoal site?",
        )
    return value


def _check(response: httpx.Response) -> None:
    """Raise the site's error. The response must have been read."""
    if response.is_success:
        return
    try:
        body: object = response.json()
    except ValueError:
        body = response.text[:500]
    after = response.headers.get("Retry-After", "")
    raise status.rebuild(
        body,
        code=response.headers.get("X-Shoal-Error"),
        http=response.status_code,
        retry_after_s=float(after) if after.isdecimal() else None,
    )


def _answer(response: httpx.Response) -> ChatAnswer:
    _check(response)
    headers = response.headers
    cost = headers.get("X-Shoal-Cost-Usd")
    return ChatAnswer.from_completion(
        _object(response),
        served_by=headers.get("X-Shoal-Served-By", ""),
        trace_id=headers.get("X-Shoal-Trace-Id", ""),
        node=headers.get("X-Shoal-Node", ""),
        tier=headers.get("X-Shoal-Tier", ""),
        cost=None if cost is None else float(cost),
    )


class _Pieces:
    """Events of a stream into pieces."""

    def __init__(self, response: httpx.Response) -> None:
        self._parser = SseParser()
        self._served_by = response.headers.get("X-Shoal-Served-By", "")
        self._trace_id = response.headers.get("X-Shoal-Trace-Id", "")
        #: `[DONE]` has come: the answer is whole
        self.done = False

    def feed(self, data: bytes) -> Iterator[ChatPiece]:
        for event in self._parser.feed(data):
            if event == "[DONE]":
                self.done = True
                return
            chunk = json.loads(event)
            if chunk.get("error"):
                raise status.rebuild(chunk, code=chunk["error"].get("code"))
            yield ChatPiece.from_chunk(chunk, served_by=self._served_by, trace_id=self._trace_id)

    def end(self) -> None:
        if not self.done:
            raise SiteError("The site's stream broke off.", remedy="Try again.")


class _Events:
    """Server-sent events of a run into plain data."""

    def __init__(self) -> None:
        self._parser = SseParser()
        self.done = False

    def feed(self, data: bytes) -> Iterator[dict[str, Any]]:
        for event in self._parser.feed(data):
            if event == "[DONE]":
                self.done = True
                return
            found = json.loads(event)
            if "type" not in found:
                raise status.rebuild(found, code=(found.get("error") or {}).get("code"))
            yield found

    def end(self) -> None:
        if not self.done:
            raise SiteError(
                "The stream of the run's events broke off; the run goes on.",
                remedy="Follow it: client.plans.events(run_id, after=seq).",
            )


_RUN_CALLS = {"get": ("GET", ""), "cancel": ("DELETE", ""), "resume": ("POST", "/resume")}


def _run_call(run_id: str, verb: str) -> tuple[str, str]:
    method, end = _RUN_CALLS[verb]
    return method, f"/v1/runs/{quote(run_id, safe='')}{end}"


def _run_start(body: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    inner = {name: value for name, value in body.items() if name != "name"}
    return f"/v1/plans/{quote(body['name'], safe='')}/runs", {**inner, "stream": True}


def _streamed(body: Mapping[str, Any]) -> dict[str, Any]:
    options = {"include_usage": True, **(body.get("stream_options") or {})}
    return {**body, "stream": True, "stream_options": options}


def _not_reached(url: str, error: httpx.HTTPError) -> NoReturn:
    if isinstance(error, httpx.TimeoutException):
        raise DeadlineExceeded(f"{url} did not answer in time.", remedy="Raise `timeout`.") from error
    raise SiteError(
        f"No site answers at {url}: {error or type(error).__name__}.", remedy="Start one: shoal up"
    ) from error


def _verify(ca: Path | None) -> Any:
    if ca is None:
        return True
    import ssl

    return ssl.create_default_context(cafile=str(ca))


class HttpTransport:
    """Blocking. `transport` replaces httpx's lowest seam, for tests."""

    def __init__(
        self,
        url: str,
        key: str | None,
        timeout_s: float,
        ca: Path | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._url = url
        self._key = key
        self._http = httpx.Client(
            base_url=url.rstrip("/"), timeout=timeout_s, verify=_verify(ca), transport=transport
        )

    def chat(self, body: Mapping[str, Any], beside: Mapping[str, str]) -> ChatAnswer:
        with self._reached():
            return _answer(self._http.post(_CHAT, json=body, headers=_headers(self._key, beside)))

    def stream(self, body: Mapping[str, Any], beside: Mapping[str, str]) -> Iterator[ChatPiece]:
        headers = _headers(self._key, beside)
        with (
            self._reached(),
            self._http.stream("POST", _CHAT, json=_streamed(body), headers=headers) as response,
        ):
            if not response.is_success:
                response.read()
                _check(response)
            pieces = _Pieces(response)
            for data in response.iter_bytes():
                yield from pieces.feed(data)
            pieces.end()

    def feedback(self, body: Mapping[str, Any]) -> None:
        with self._reached():
            _check(self._http.post("/v1/feedback", json=body, headers=_headers(self._key, {})))

    def models(self) -> list[str]:
        with self._reached():
            response = self._http.get("/v1/models", headers=_headers(self._key, {}))
            _check(response)
            return [str(model["id"]) for model in _object(response)["data"]]

    def run_events(self, body: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        path, inner = _run_start(body)
        return self._events("POST", path, inner)

    def follow(self, run_id: str, after: int) -> Iterator[dict[str, Any]]:
        return self._events("GET", f"/v1/runs/{quote(run_id, safe='')}/events?after={after}", None)

    def _events(self, method: str, path: str, body: Mapping[str, Any] | None) -> Iterator[dict[str, Any]]:
        headers = _headers(self._key, {})
        with (
            self._reached(),
            self._http.stream(method, path, json=body, headers=headers, timeout=_FOLLOW) as response,
        ):
            if not response.is_success:
                response.read()
                _check(response)
            events = _Events()
            for data in response.iter_bytes():
                yield from events.feed(data)
            events.end()

    def run(self, run_id: str, verb: str) -> dict[str, Any]:
        method, path = _run_call(run_id, verb)
        with self._reached():
            response = self._http.request(method, path, headers=_headers(self._key, {}))
            _check(response)
            return _object(response)

    def runs(self) -> list[dict[str, Any]]:
        with self._reached():
            response = self._http.get("/v1/runs", headers=_headers(self._key, {}))
            _check(response)
            return list(_object(response)["data"])

    def close(self) -> None:
        self._http.close()

    @contextmanager
    def _reached(self) -> Iterator[None]:
        try:
            yield
        except httpx.HTTPError as error:
            _not_reached(self._url, error)


class AsyncHttpTransport:
    """As `HttpTransport`, on asyncio."""

    def __init__(
        self,
        url: str,
        key: str | None,
        timeout_s: float,
        ca: Path | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._url = url
        self._key = key
        self._http = httpx.AsyncClient(
            base_url=url.rstrip("/"), timeout=timeout_s, verify=_verify(ca), transport=transport
        )

    async def chat(self, body: Mapping[str, Any], beside: Mapping[str, str]) -> ChatAnswer:
        async with self._reached():
            return _answer(await self._http.post(_CHAT, json=body, headers=_headers(self._key, beside)))

    async def stream(self, body: Mapping[str, Any], beside: Mapping[str, str]) -> AsyncIterator[ChatPiece]:
        headers = _headers(self._key, beside)
        async with (
            self._reached(),
            self._http.stream("POST", _CHAT, json=_streamed(body), headers=headers) as response,
        ):
            if not response.is_success:
                await response.aread()
                _check(response)
            pieces = _Pieces(response)
            async for data in response.aiter_bytes():
                for piece in pieces.feed(data):
                    yield piece
            pieces.end()

    async def feedback(self, body: Mapping[str, Any]) -> None:
        async with self._reached():
            _check(await self._http.post("/v1/feedback", json=body, headers=_headers(self._key, {})))

    async def models(self) -> list[str]:
        async with self._reached():
            response = await self._http.get("/v1/models", headers=_headers(self._key, {}))
            _check(response)
            return [str(model["id"]) for model in _object(response)["data"]]

    def run_events(self, body: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
        path, inner = _run_start(body)
        return self._events("POST", path, inner)

    def follow(self, run_id: str, after: int) -> AsyncIterator[dict[str, Any]]:
        return self._events("GET", f"/v1/runs/{quote(run_id, safe='')}/events?after={after}", None)

    async def _events(
        self, method: str, path: str, body: Mapping[str, Any] | None
    ) -> AsyncIterator[dict[str, Any]]:
        headers = _headers(self._key, {})
        async with (
            self._reached(),
            self._http.stream(method, path, json=body, headers=headers, timeout=_FOLLOW) as response,
        ):
            if not response.is_success:
                await response.aread()
                _check(response)
            events = _Events()
            async for data in response.aiter_bytes():
                for event in events.feed(data):
                    yield event
            events.end()

    async def run(self, run_id: str, verb: str) -> dict[str, Any]:
        method, path = _run_call(run_id, verb)
        async with self._reached():
            response = await self._http.request(method, path, headers=_headers(self._key, {}))
            _check(response)
            return _object(response)

    async def runs(self) -> list[dict[str, Any]]:
        async with self._reached():
            response = await self._http.get("/v1/runs", headers=_headers(self._key, {}))
            _check(response)
            return list(_object(response)["data"])

    async def close(self) -> None:
        await self._http.aclose()

    @asynccontextmanager
    async def _reached(self) -> AsyncIterator[None]:
        try:
            yield
        except httpx.HTTPError as error:
            _not_reached(self._url, error)
