"""The HTTP way in: OpenAI's chat completions, models, feedback, health, metrics. A thin sibling of `grpc_api`.

Owns the reading of requests, headers and statuses. Everything else is the chat service's. The path of a call is kept lean:
no response models, no dependencies to resolve, one JSON text each way.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from shoal.agents.traces.chat import parse_chat_request
from shoal.errors import (
    InvalidRequest,
    NotFound,
    RateLimited,
    RequestTooLarge,
    ShoalError,
    Unauthenticated,
    UsageError,
)
from shoal.serve import metrics, openapi
from shoal.serve.auth import Authenticator
from shoal.serve.call import Caller, Served, read_context
from shoal.serve.call import Scope as KeyScope
from shoal.serve.feedback import read_feedback
from shoal.serve.http_learning import LearningControl, LearningRoutes
from shoal.serve.http_plans import PlanRoutes
from shoal.serve.http_versions import VersionHistory, VersionRoutes
from shoal.serve.jsontext import read_json, write_json
from shoal.serve.service import ChatService
from shoal.serve.status import error_object, internal_error, status_of
from shoal.serve.stream import ServedStream, StreamHead

log = logging.getLogger("shoal.serve")

MAX_BODY_BYTES = 8 << 20


#: has placement decided anew, and says how it stands then
Apply = Callable[[], Awaitable[Mapping[str, Any]]]


async def _nothing_to_place() -> Mapping[str, Any]:
    raise NotFound("There is no placement actor here.", remedy="Ask a site's gateway.")


def build_app(
    service: ChatService,
    auth: Authenticator,
    *,
    max_body_bytes: int = MAX_BODY_BYTES,
    apply: Apply = _nothing_to_place,
    learning: LearningControl | None = None,
    history: VersionHistory | None = None,
) -> FastAPI:
    """The ASGI application of one gateway replica. Make it in the process that serves it."""
    app = FastAPI(
        title="Shoal",
        version="1",
        summary="OpenAI-compatible way in to a shoal of specialists and the generalist behind them.",
        docs_url=None,
        redoc_url=None,
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    api = _Api(service, auth, max_body_bytes, apply)
    plans = PlanRoutes(service, api.let_in, api.json)
    app.add_api_route("/v1/chat/completions", api.chat, methods=["POST"], openapi_extra=openapi.CHAT)
    app.add_api_route("/v1/models", api.models, methods=["GET"])
    app.add_api_route("/v1/models/{name:path}", api.model, methods=["GET"])
    app.add_api_route("/v1/feedback", api.feedback, methods=["POST"], openapi_extra=openapi.FEEDBACK)
    plans.add_to(app)
    if learning is not None:
        LearningRoutes(learning, api.let_in, api.json).add_to(app)
    if history is not None:
        VersionRoutes(history, api.let_in).add_to(app)
    app.add_api_route("/v1/placement/apply", api.apply_placement, methods=["POST"])
    app.add_api_route("/healthz", api.healthz, methods=["GET"])
    app.add_api_route("/readyz", api.readyz, methods=["GET"])
    app.add_api_route("/metrics", api.metrics, methods=["GET"])
    app.add_exception_handler(ShoalError, _shoal_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _unexpected)
    return app


class _Api:
    def __init__(self, service: ChatService, auth: Authenticator, max_body_bytes: int, apply: Apply) -> None:
        self._apply = apply
        self._service = service
        self._auth = auth
        self._max_body_bytes = max_body_bytes

    async def chat(self, request: Request) -> Response:
        """Answer a chat request, whole or streamed."""
        caller = await self.let_in(request, "chat")
        context = read_context(request.headers.get)
        chat = parse_chat_request(await self.json(request))
        if chat.stream:
            return SseResponse(await self._service.stream(chat, caller, context))
        served = await self._service.chat(chat, caller, context)
        return Response(
            write_json(served.completion), headers=_headers(served), media_type="application/json"
        )

    async def models(self, request: Request) -> Response:
        """What `model` may be, right now."""
        await self.let_in(request, "chat")
        return JSONResponse({"object": "list", "data": await self._service.models()})

    async def model(self, request: Request) -> Response:
        """One model."""
        await self.let_in(request, "chat")
        return JSONResponse(await self._service.model(request.path_params["name"]))

    async def feedback(self, request: Request) -> Response:
        """Take a verdict on an answer."""
        caller = await self.let_in(request, "feedback")
        said = read_feedback(await self.json(request))
        await self._service.feedback(said, caller)
        return JSONResponse({"trace_id": said.trace_id, "accepted": True})

    async def apply_placement(self, request: Request) -> Response:
        """Have placement decided anew; takes the scope `admin`."""
        await self.let_in(request, "admin")
        return Response(write_json(await self._apply()), media_type="application/json")

    async def healthz(self) -> Response:
        """The process lives."""
        return JSONResponse({"status": "ok"})

    async def readyz(self) -> Response:
        """The gateway may get calls; 503 with the reasons where it may not."""
        if reasons := self._service.unready():
            return JSONResponse({"status": "not ready", "reasons": reasons}, status_code=503)
        return JSONResponse({"status": "ready"})

    async def metrics(self, request: Request) -> Response:
        """Prometheus' text format, of this replica."""
        await self.let_in(request, "chat")
        # beside the loop: some of it is read from the database
        page = await asyncio.to_thread(self._service.metrics.render)
        return Response(page, media_type=metrics.CONTENT_TYPE)

    async def let_in(self, request: Request, scope: KeyScope) -> Caller:
        client, headers = request.client, request.headers
        return await self._auth.authenticate(
            headers.get("authorization"),
            peer=None if client is None else client.host,
            scope=scope,
            origin=headers.get("origin"),
        )

    async def json(self, request: Request) -> Any:
        data = await self._body(request)
        try:
            return read_json(data)
        except ValueError as error:
            raise InvalidRequest(
                f"The request body is not valid JSON: {error}.", remedy="Send a JSON object in UTF-8."
            ) from None

    async def _body(self, request: Request) -> bytes:
        limit = self._max_body_bytes
        announced = request.headers.get("content-length", "")
        size = int(announced) if announced.isdecimal() else 0
        body = bytearray()
        if size <= limit:
            async for piece in request.stream():
                body += piece
                if len(body) > limit:
                    size = len(body)
                    break
        if size > limit:
            raise RequestTooLarge(
                f"A request body may have {limit} bytes, got {size} or more.",
                remedy="Send less, or raise `serve.max_body_bytes`.",
            )
        return bytes(body)


class SseResponse(Response):
    """A served stream as server-sent events. Watches for the client to go away, and then closes the stream at once."""

    media_type = "text/event-stream"

    def __init__(self, stream: ServedStream) -> None:
        super().__init__(
            headers={**_headers(stream.head), "Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        )
        del self.headers["content-length"]
        self._stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sending = asyncio.ensure_future(self._send(send))
        watching = asyncio.ensure_future(_disconnected(receive))
        try:
            await asyncio.wait((sending, watching), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (sending, watching):
                task.cancel()
            results = await asyncio.gather(sending, watching, return_exceptions=True)
            await self._stream.aclose()
        for result in results:
            # an OSError means that the client is gone, which is what the stream was closed for
            if isinstance(result, Exception) and not isinstance(result, OSError | ClientDisconnect):
                raise result

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for event in self._events():
            await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _events(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._stream:
                yield b"data: " + write_json(chunk) + b"\n\n"
        except ShoalError as error:
            yield b"data: " + write_json({"error": error_object(error)}) + b"\n\n"
            return
        yield b"data: [DONE]\n\n"


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _headers(of: Served | StreamHead) -> dict[str, str]:
    headers = {
        "X-Shoal-Trace-Id": of.trace_id,
        "X-Shoal-Served-By": _header_text(of.served_by),
        "X-Shoal-Node": _header_text(of.node),
        "X-Shoal-Tier": _header_text(of.tier),
        "X-Request-Id": of.trace_id,
    }
    if of.run_id:
        headers["X-Shoal-Run-Id"] = of.run_id
    if isinstance(of, Served) and of.cost_usd is not None:
        headers["X-Shoal-Cost-Usd"] = f"{of.cost_usd:.8f}"
    return headers


def _header_text(text: str) -> str:
    """A header takes printable ASCII only; a model's name may be anything."""
    return "".join(c if " " <= c <= "~" else "?" for c in text)


def error_response(error: ShoalError) -> Response:
    """An error in OpenAI's shape. `X-Shoal-Error` has our own code, also where the body keeps the generalist's."""
    headers = {"X-Shoal-Error": error.code}
    if isinstance(error, RateLimited):
        headers["Retry-After"] = str(max(1, round(error.retry_after_s)))
    if isinstance(error, Unauthenticated):
        headers["WWW-Authenticate"] = "Bearer"
    return Response(
        write_json({"error": error_object(error)}),
        status_code=status_of(error).http,
        headers=headers,
        media_type="application/json",
    )


async def _shoal_error(request: Request, error: Exception) -> Response:
    return error_response(error if isinstance(error, ShoalError) else internal_error())


async def _http_error(request: Request, error: Exception) -> Response:
    """What the web framework refuses by itself: unknown paths and methods."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    if status == 404:
        return error_response(
            NotFound(f"There is nothing at {request.url.path}.", remedy="See /openapi.json.", param="path")
        )
    response = error_response(
        UsageError(f"{request.method} {request.url.path} is refused.", remedy="See /openapi.json.")
    )
    response.status_code = status
    return response


async def _unexpected(request: Request, error: Exception) -> Response:
    log.error("a fault over %s %s", request.method, request.url.path, exc_info=error)
    return error_response(internal_error())
