"""The Python client, over HTTP or gRPC. Light: loads neither Ray nor torch, nor any room of the site's but this one.

    client = Client("http://127.0.0.1:8700")                      # or grpc://127.0.0.1:8701
    answer = client.chat([{"role": "user", "content": "..."}])    # .text .served_by .trace_id ...
    client.feedback(answer.trace_id, score=1)
    for event in client.plans.run("sales-report", {"question": "..."}): ...

Errors are those of `shoal.errors`, as they were raised in the site.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol, Self, TypeAlias
from urllib.parse import urlsplit

from shoal.errors import ConfigError
from shoal.serve.answers import ChatAnswer, ChatPiece, Usage

__all__ = ["AsyncClient", "ChatAnswer", "ChatPiece", "Client", "Usage"]

DEFAULT_URL = "http://127.0.0.1:8700"
DEFAULT_TIMEOUT_S = 120.0
#: read where no `api_key` is given
KEY_VARIABLE = "SHOAL_API_KEY"


RunVerb: TypeAlias = Literal["get", "cancel", "resume"]


class Transport(Protocol):
    """A way to a site."""

    def chat(self, body: Mapping[str, Any], beside: Mapping[str, str]) -> ChatAnswer: ...
    def stream(self, body: Mapping[str, Any], beside: Mapping[str, str]) -> Iterator[ChatPiece]: ...
    def feedback(self, body: Mapping[str, Any]) -> None: ...
    def models(self) -> list[str]: ...
    def run_events(self, body: Mapping[str, Any]) -> Iterator[dict[str, Any]]: ...
    def follow(self, run_id: str, after: int) -> Iterator[dict[str, Any]]: ...
    def run(self, run_id: str, verb: RunVerb) -> dict[str, Any]: ...
    def runs(self) -> list[dict[str, Any]]: ...
    def close(self) -> None: ...


class AsyncTransport(Protocol):
    """A way to a site, on asyncio."""

    async def chat(self, body: Mapping[str, Any], beside: Mapping[str, str]) -> ChatAnswer: ...
    def stream(self, body: Mapping[str, Any], beside: Mapping[str, str]) -> AsyncIterator[ChatPiece]: ...
    async def feedback(self, body: Mapping[str, Any]) -> None: ...
    async def models(self) -> list[str]: ...
    def run_events(self, body: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]: ...
    def follow(self, run_id: str, after: int) -> AsyncIterator[dict[str, Any]]: ...
    async def run(self, run_id: str, verb: RunVerb) -> dict[str, Any]: ...
    async def runs(self) -> list[dict[str, Any]]: ...
    async def close(self) -> None: ...


def _scheme(url: str) -> tuple[str, str]:
    """(scheme, host:port) of a site's URL. Raises ConfigError."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https", "grpc", "grpcs") or not parts.netloc:
        raise ConfigError(
            f"A site's URL must begin with http://, https://, grpc:// or grpcs:// and name a host, got {url!r}.",
            remedy=f"For example {DEFAULT_URL}.",
            param="url",
        )
    if parts.scheme.startswith("grpc") and parts.port is None:
        return parts.scheme, f"{parts.netloc}:8701"
    return parts.scheme, parts.netloc


def _body(messages: Sequence[Mapping[str, Any]], model: str, params: Mapping[str, Any]) -> dict[str, Any]:
    return {**params, "model": model, "messages": [dict(message) for message in messages]}


def _beside(privacy: str | None, conversation: str | None) -> dict[str, str]:
    given = {"privacy": privacy, "conversation": conversation}
    return {name: value for name, value in given.items() if value is not None}


def _feedback(
    trace_id: str, score: float | None, correction: str | Mapping[str, Any] | None, comment: str
) -> dict[str, Any]:
    body: dict[str, Any] = {"trace_id": trace_id}
    if score is not None:
        body["score"] = score
    if isinstance(correction, str):
        body["correction"] = {"role": "assistant", "content": correction}
    elif correction is not None:
        body["correction"] = dict(correction)
    if comment:
        body["comment"] = comment
    return body


def _run_body(
    name: str, given: Mapping[str, Any] | None, plan: Mapping[str, Any] | None, privacy: str | None
) -> dict[str, Any]:
    body: dict[str, Any] = {"name": name, "input": dict(given or {})}
    if plan is not None:
        body["plan"] = dict(plan)
    if privacy is not None:
        body["privacy"] = privacy
    return body


class Plans:
    """Runs of plans, blocking: `client.plans`. A run or event is plain data, as over HTTP."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def run(
        self,
        name: str,
        input: Mapping[str, Any] | None = None,
        *,
        plan: Mapping[str, Any] | None = None,
        privacy: str | None = None,
    ) -> Iterator[dict[str, Any]]:
        """Start a run and give its events as they happen, until it ends. Each has `type`, `run_id` and `seq`.

        The run goes on when the iterator is closed; `cancel` ends it. The last event, `run_done`, has the `output`; a run that
        fails ends with `run_failed` and its `error`, and raises nothing.

        Args:
            plan: a plan as plain data, to be run as it is; then `name` only names it.
        """
        return self._transport.run_events(_run_body(name, input, plan, privacy))

    def events(self, run_id: str, *, after: int = 0) -> Iterator[dict[str, Any]]:
        """The events of a run with a greater `seq` than `after`, until it ends."""
        return self._transport.follow(run_id, after)

    def get(self, run_id: str) -> dict[str, Any]:
        """How a run stands: `status`, `steps`, and `output` or `error` at its end."""
        return self._transport.run(run_id, "get")

    def cancel(self, run_id: str) -> dict[str, Any]:
        """End a run."""
        return self._transport.run(run_id, "cancel")

    def resume(self, run_id: str) -> dict[str, Any]:
        """Go on with a run that failed or was cancelled; what is done is not done again."""
        return self._transport.run(run_id, "resume")

    def list(self) -> list[dict[str, Any]]:
        """The newest runs."""
        return self._transport.runs()


class AsyncPlans:
    """As `Plans`, on asyncio."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    def run(
        self,
        name: str,
        input: Mapping[str, Any] | None = None,
        *,
        plan: Mapping[str, Any] | None = None,
        privacy: str | None = None,
    ) -> AsyncIterator[dict[str, Any]]:
        """As `Plans.run`."""
        return self._transport.run_events(_run_body(name, input, plan, privacy))

    def events(self, run_id: str, *, after: int = 0) -> AsyncIterator[dict[str, Any]]:
        """As `Plans.events`."""
        return self._transport.follow(run_id, after)

    async def get(self, run_id: str) -> dict[str, Any]:
        """As `Plans.get`."""
        return await self._transport.run(run_id, "get")

    async def cancel(self, run_id: str) -> dict[str, Any]:
        """As `Plans.cancel`."""
        return await self._transport.run(run_id, "cancel")

    async def resume(self, run_id: str) -> dict[str, Any]:
        """As `Plans.resume`."""
        return await self._transport.run(run_id, "resume")

    async def list(self) -> list[dict[str, Any]]:
        """As `Plans.list`."""
        return await self._transport.runs()


class Client:
    """Talks to a site, blocking. Use it from one thread at a time, and close it, or use it as a context manager.

    Args:
        url: `http://`, `https://`, `grpc://` or `grpcs://` with host and port.
        api_key: `sk-shoal-...`; else the environment variable SHOAL_API_KEY, else none.
        timeout: seconds that a call may take.
        ca: a PEM file with the certificates to trust, where the system does not know them.
        transport: another way to the site than the URL's, for tests.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        api_key: str | None = None,
        *,
        timeout: float = DEFAULT_TIMEOUT_S,
        ca: Path | None = None,
        transport: Transport | None = None,
    ) -> None:
        scheme, target = _scheme(url)
        key = api_key or os.environ.get(KEY_VARIABLE)
        self._transport: Transport
        if transport is not None:
            self._transport = transport
        elif scheme.startswith("grpc"):
            from shoal.serve.client_grpc import GrpcTransport

            self._transport = GrpcTransport(target, key, timeout, secure=scheme == "grpcs", ca=ca)
        else:
            from shoal.serve.client_http import HttpTransport

            self._transport = HttpTransport(url, key, timeout, ca)
        self.plans = Plans(self._transport)

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        model: str = "auto",
        *,
        privacy: str | None = None,
        conversation: str | None = None,
        **params: Any,
    ) -> ChatAnswer:
        """Ask for a whole answer. `params` are OpenAI's (tools, temperature, response_format, ...)."""
        return self._transport.chat(_body(messages, model, params), _beside(privacy, conversation))

    def chat_stream(
        self,
        messages: Sequence[Mapping[str, Any]],
        model: str = "auto",
        *,
        privacy: str | None = None,
        conversation: str | None = None,
        **params: Any,
    ) -> Iterator[ChatPiece]:
        """Ask for an answer piece by piece. Closing the iterator breaks the call off."""
        return self._transport.stream(_body(messages, model, params), _beside(privacy, conversation))

    def feedback(
        self,
        trace_id: str,
        *,
        score: float | None = None,
        correction: str | Mapping[str, Any] | None = None,
        comment: str = "",
    ) -> None:
        """Say how good an answer was: `score` in [-1, 1]; `correction` is the text or message that it should have been."""
        self._transport.feedback(_feedback(trace_id, score, correction, comment))

    def models(self) -> list[str]:
        """What `model` may be, right now."""
        return self._transport.models()

    def close(self) -> None:
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncClient:
    """As `Client`, on asyncio; for use within one event loop."""

    def __init__(
        self,
        url: str = DEFAULT_URL,
        api_key: str | None = None,
        *,
        timeout: float = DEFAULT_TIMEOUT_S,
        ca: Path | None = None,
        transport: AsyncTransport | None = None,
    ) -> None:
        scheme, target = _scheme(url)
        key = api_key or os.environ.get(KEY_VARIABLE)
        self._transport: AsyncTransport
        if transport is not None:
            self._transport = transport
        elif scheme.startswith("grpc"):
            from shoal.serve.client_grpc import AsyncGrpcTransport

            self._transport = AsyncGrpcTransport(target, key, timeout, secure=scheme == "grpcs", ca=ca)
        else:
            from shoal.serve.client_http import AsyncHttpTransport

            self._transport = AsyncHttpTransport(url, key, timeout, ca)
        self.plans = AsyncPlans(self._transport)

    async def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        model: str = "auto",
        *,
        privacy: str | None = None,
        conversation: str | None = None,
        **params: Any,
    ) -> ChatAnswer:
        """As `Client.chat`."""
        return await self._transport.chat(_body(messages, model, params), _beside(privacy, conversation))

    def chat_stream(
        self,
        messages: Sequence[Mapping[str, Any]],
        model: str = "auto",
        *,
        privacy: str | None = None,
        conversation: str | None = None,
        **params: Any,
    ) -> AsyncIterator[ChatPiece]:
        """As `Client.chat_stream`."""
        return self._transport.stream(_body(messages, model, params), _beside(privacy, conversation))

    async def feedback(
        self,
        trace_id: str,
        *,
        score: float | None = None,
        correction: str | Mapping[str, Any] | None = None,
        comment: str = "",
    ) -> None:
        """As `Client.feedback`."""
        await self._transport.feedback(_feedback(trace_id, score, correction, comment))

    async def models(self) -> list[str]:
        """As `Client.models`."""
        return await self._transport.models()

    async def close(self) -> None:
        await self._transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
