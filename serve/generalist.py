"""The large model behind Shoal, over HTTP: any OpenAI-compatible endpoint (a cloud API, vLLM, llama.cpp, another Shoal).

Owns the connection pool, retries and the reading of what comes back. Knows nothing of routing, traces or Ray.

What goes upstream is the client's body, field by field, with these exceptions:
  * `model` is the generalist's own name;
  * `metadata` goes along only with `"store": true`. OpenAI refuses it otherwise ("only allowed when 'store' is enabled"),
    vLLM and llama.cpp ignore it, LiteLLM keeps it for its own logs; and here it carries the conversation's id, which is ours;
  * a stream is asked for its token counts (`stream_options.include_usage`), unless the endpoint has refused that once.
Headers of the client's (`X-Shoal-*`, its key) never go along.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt
from tenacity.wait import wait_base, wait_exponential, wait_random

from shoal.agents.traces.chat import Answer, ChatRequest, Delta, Usage
from shoal.errors import (
    DeadlineExceeded,
    GeneralistRefused,
    GeneralistUnavailable,
    InvalidRequest,
    ShoalError,
)
from shoal.serve.collect import chunk_of_completion
from shoal.serve.jsontext import read_json, write_json
from shoal.serve.sse import SseParser

#: HTTP statuses worth another attempt
_TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504, 529})
#: statuses that say the site's own key is wrong: not of the client's making
_OUR_KEY = frozenset({401, 403, 407})
_CONNECT_S = 10.0
_LONGEST_WAIT_S = 10.0


class _TryAgain(Exception):
    """An attempt failed in a way that another may not; `error` is what the caller gets if none is left."""

    def __init__(self, error: ShoalError, wait_s: float = 0.0) -> None:
        super().__init__(str(error))
        self.error = error
        self.wait_s = wait_s


class _Wait(wait_base):
    """Exponential with jitter, but at least as long as the endpoint asked for."""

    def __init__(self, first_s: float) -> None:
        self._grow = wait_exponential(multiplier=first_s, max=_LONGEST_WAIT_S) + wait_random(0, first_s)

    def __call__(self, retry_state: RetryCallState) -> float:
        outcome = retry_state.outcome
        error = outcome.exception() if outcome is not None else None
        asked = error.wait_s if isinstance(error, _TryAgain) else 0.0
        return max(float(self._grow(retry_state)), min(asked, _LONGEST_WAIT_S))


def is_loopback(url: str) -> bool:
    """Whether a URL's host is this very machine, by name or address; what a name resolves to is not looked up."""
    host = urlsplit(url).hostname or ""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class OpenAIGeneralist:
    """A generalist behind an OpenAI-compatible URL.

    Args:
        base_url: as OpenAI's SDK takes it, usually ending in `/v1`.
        timeout_s: the longest that any one call may take, whatever its deadline.
        attempts: how often a call is tried in all, before its first byte.
        first_wait_s: before the second attempt; doubled for each further one.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        api_key: str | None = None,
        timeout_s: float = 120.0,
        *,
        attempts: int = 3,
        first_wait_s: float = 0.25,
        connections: int = 512,
    ) -> None:
        self._url = base_url.rstrip("/") + "/chat/completions"
        self._base_url = base_url
        self._model = model
        self._api_key = api_key
        self._timeout_s = timeout_s
        self._attempts = attempts
        self._wait = _Wait(first_wait_s)
        self._connections = connections
        #: made by the first call, because it belongs to the event loop that runs then
        self._session: aiohttp.ClientSession | None = None
        #: False once the endpoint has refused `stream_options`
        self._takes_stream_options = True

    @property
    def model(self) -> str:
        return self._model

    @property
    def local(self) -> bool:
        """It runs on this machine, so that `local-only` data may go to it."""
        return is_loopback(self._base_url)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def chat(self, request: ChatRequest, *, deadline_s: float) -> Answer:
        """Ask for a whole answer.

        Raises:
            GeneralistUnavailable: no connection, a 5xx, an answer that is no completion, or the site's key is refused.
            GeneralistRefused: any other 4xx; `status` is the endpoint's.
            DeadlineExceeded: no answer in time, all attempts together.
        """
        body = self._body(request, stream=False)
        limit = min(deadline_s, self._timeout_s)
        try:
            async with asyncio.timeout(limit):
                response = await self._send(body)
                async with response:
                    text = await self._read(response)
        except TimeoutError:
            raise self._too_slow(limit) from None
        return self._answer(text)

    async def stream(self, request: ChatRequest, *, deadline_s: float) -> AsyncIterator[Delta]:
        """Ask for an answer piece by piece. Close the iterator to break the call off upstream.

        `deadline_s` bounds the wait for the first piece, and again for each further one: a long answer may take longer.
        Raises as `chat`; after the first piece nothing is tried again.
        """
        limit = min(deadline_s, self._timeout_s)
        try:
            async with asyncio.timeout(limit):
                response = await self._send_stream(request)
        except TimeoutError:
            raise self._too_slow(limit) from None
        try:
            if "text/event-stream" not in response.headers.get("Content-Type", "text/event-stream"):
                text = await self._read(response)
                answer = self._answer(text)
                yield Delta(
                    content=answer.content,
                    finish_reason=answer.finish_reason,
                    usage=answer.usage,
                    chunk=chunk_of_completion(answer.original or {}),
                )
                return
            async for delta in self._deltas(response, limit):
                yield delta
        finally:
            response.close()

    # -- requests ----------------------------------------------------------------------------------------------------

    def _body(self, request: ChatRequest, *, stream: bool) -> dict[str, Any]:
        body = {**request.body, "model": self._model}
        if not body.get("store"):
            body.pop("metadata", None)
        if stream:
            body["stream"] = True
            if self._takes_stream_options:
                body["stream_options"] = {**(body.get("stream_options") or {}), "include_usage": True}
        else:
            body.pop("stream", None)
            body.pop("stream_options", None)
        return body

    def _pool(self) -> aiohttp.ClientSession:
        if self._session is None or self._session.closed:
            headers = {"Content-Type": "application/json", "User-Agent": "shoal"}
            if self._api_key:
                headers["Authorization"] = f"Bearer {self._api_key}"
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self._connections, ttl_dns_cache=60),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S),
                headers=headers,
                # a company's proxy stands between here and the outside, never between here and this machine
                trust_env=not self.local,
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session

    async def _send_stream(self, request: ChatRequest) -> aiohttp.ClientResponse:
        """As `_send`; without `stream_options` where the endpoint does not know them and the client did not ask."""
        try:
            return await self._send(self._body(request, stream=True))
        except GeneralistRefused as error:
            if not self._takes_stream_options or "stream_options" not in error.message:
                raise
            if "stream_options" in request.body:
                raise
            self._takes_stream_options = False
            return await self._send(self._body(request, stream=True))

    async def _send(self, body: Mapping[str, Any]) -> aiohttp.ClientResponse:
        """Send until there is a 2xx, whose body is not read yet, or no attempt is left."""
        data = write_json(body)
        try:
            # nearly every call needs one attempt only, and the machinery for more costs it 0.1 ms (seen)
            return await self._attempt(data)
        except _TryAgain as failed:
            told = [failed]
        retrying = AsyncRetrying(
            stop=stop_after_attempt(self._attempts),
            wait=self._wait,
            retry=retry_if_exception_type(_TryAgain),
            reraise=True,
        )
        try:
            return await retrying(self._attempt_again, told, data)
        except _TryAgain as last:
            raise last.error from None

    async def _attempt_again(self, told: list[_TryAgain], data: bytes) -> aiohttp.ClientResponse:
        """The first time the failure that there was already, so that it is counted and waited for."""
        if told:
            raise told.pop()
        return await self._attempt(data)

    async def _attempt(self, data: bytes) -> aiohttp.ClientResponse:
        try:
            response = await self._pool().post(self._url, data=data, allow_redirects=False)
        except aiohttp.InvalidURL as error:
            raise self._unavailable(f"{error} is no URL") from None
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _TryAgain(self._unavailable(str(error) or type(error).__name__)) from error
        if 200 <= response.status < 300:
            return response
        async with response:
            text = await self._read(response)
        refusal = self._refusal(response.status, text)
        if response.status in _TRANSIENT:
            raise _TryAgain(refusal, _retry_after_s(response.headers.get("Retry-After")))
        raise refusal

    # -- what comes back ---------------------------------------------------------------------------------------------

    async def _read(self, response: aiohttp.ClientResponse) -> str:
        try:
            return (await response.read()).decode("utf-8", "replace")
        except aiohttp.ClientError as error:
            raise self._unavailable(f"its answer broke off ({error})") from error

    def _answer(self, text: str) -> Answer:
        completion = _json_object(text)
        if completion is None:
            raise self._unavailable(f"its answer is no JSON object but {text[:80]!r}")
        if "error" in completion:
            raise self._error_inside(completion)
        try:
            return Answer.from_openai(completion, model=self._model)
        except (InvalidRequest, ValueError, TypeError, AttributeError) as error:
            raise self._unavailable(f"its answer is no chat completion ({error})") from None

    async def _deltas(self, response: aiohttp.ClientResponse, limit: float) -> AsyncIterator[Delta]:
        parser = SseParser()
        ended = False
        finished: dict[int, bool] = {}
        while not ended:
            try:
                async with asyncio.timeout(limit):
                    piece = await response.content.readany()
            except TimeoutError:
                raise self._too_slow(limit) from None
            except aiohttp.ClientError as error:
                raise self._unavailable(f"its stream broke off ({error})") from error
            events = list(parser.feed(piece)) if piece else list(parser.close())
            ended = not piece
            for event in events:
                if event.strip() == "[DONE]":
                    return
                delta = self._delta(event)
                for choice in (delta.chunk or {}).get("choices") or ():
                    index = int(choice.get("index") or 0)
                    finished[index] = finished.get(index, False) or choice.get("finish_reason") is not None
                yield delta
        if not finished or not all(finished.values()):
            raise self._unavailable("its stream ended before the answer did")

    def _delta(self, event: str) -> Delta:
        chunk = _json_object(event)
        if chunk is None:
            raise self._unavailable(f"it streamed {event[:80]!r}, which is no JSON object")
        if chunk.get("error"):
            raise self._error_inside(chunk)
        try:
            choices: list[dict[str, Any]] = chunk.get("choices") or [{}]
            first = choices[0]
            return Delta(
                content=(first.get("delta") or {}).get("content"),
                finish_reason=first.get("finish_reason"),
                usage=Usage.from_openai(chunk["usage"]) if chunk.get("usage") else None,
                chunk=chunk,
            )
        except (AttributeError, TypeError, ValueError) as error:
            raise self._unavailable(f"it streamed something that is no chat chunk ({error})") from None

    # -- errors ------------------------------------------------------------------------------------------------------

    def _unavailable(self, what: str) -> GeneralistUnavailable:
        return GeneralistUnavailable(
            f"The generalist {self._model} at {self._base_url} does not answer as it should: {what}.",
            remedy="Check `generalist.base_url`, and that the endpoint is up.",
        )

    def _too_slow(self, limit: float) -> DeadlineExceeded:
        return DeadlineExceeded(
            f"The generalist {self._model} did not answer within {limit:g} s.",
            remedy="Raise `generalist.timeout_s` or `serve.deadline_s`, or ask for less.",
        )

    def _refusal(self, status: int, text: str) -> ShoalError:
        found = _error_object(_json_object(text))
        message = str(found.get("message") or text[:500].strip() or f"HTTP {status}")
        if status in _OUR_KEY:
            return GeneralistUnavailable(
                f"The generalist {self._model} refuses the site's key (HTTP {status}): {message}",
                remedy="Check the key that `generalist.api_key_env` names.",
            )
        if status == 408 or not 400 <= status < 500:
            return self._unavailable(f"HTTP {status}, {message}")
        refused = GeneralistRefused(
            message,
            remedy="Does `generalist.base_url` end in /v1?" if status == 404 and not found else "",
            param=None if found.get("param") is None else str(found["param"]),
        )
        refused.status = status
        refused.upstream_code = "" if found.get("code") is None else str(found["code"])
        return refused

    def _error_inside(self, body: Mapping[str, Any]) -> ShoalError:
        """An error that came with a 2xx, as some endpoints send them, in a stream or instead of a completion."""
        found = _error_object(body)
        status = found.get("code")
        if isinstance(status, int) and 400 <= status < 600:
            return self._refusal(status, json.dumps({"error": {**found, "code": None}}))
        return self._unavailable(str(found.get("message") or body.get("error")))


def _json_object(text: str) -> dict[str, Any] | None:
    try:
        value = read_json(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _error_object(body: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """The error in a body, in OpenAI's shape (`{"error": {...}}`) or in those of older servers (flat, or `detail`)."""
    if body is None:
        return {}
    inner = body.get("error")
    if isinstance(inner, Mapping):
        return inner
    message = inner if isinstance(inner, str) else body.get("message") or body.get("detail")
    return (
        {} if message is None else {"message": message if isinstance(message, str) else json.dumps(message)}
    )


def _retry_after_s(header: str | None) -> float:
    """Seconds, as nearly all model endpoints send them; the date form is not read."""
    try:
        return max(0.0, float(header or 0))
    except ValueError:
        return 0.0
