"""The gRPC way in: `shoal.v1.Shoal`, health and reflection, on grpc.aio inside the gateway. A thin sibling of `http_api`.

Owns the reading of messages, metadata and status codes. Everything else is the chat service's.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import unquote

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from shoal.agents.traces.chat import ChatRequest, parse_chat_request
from shoal.config import TlsConfig
from shoal.errors import ConfigError, ShoalError, SiteError
from shoal.serve.auth import Authenticator
from shoal.serve.call import CallContext, Caller, Scope, Served, read_context, read_label
from shoal.serve.feedback import read_feedback
from shoal.serve.grpc_codec import chunk_to_pb, message_from_pb, request_from_pb, response_to_pb
from shoal.serve.grpc_plans import event_to_pb, load_object, run_to_pb
from shoal.serve.jsontext import read_json, write_json
from shoal.serve.ports import LISTED_RUNS
from shoal.serve.proto.shoal.v1 import shoal_pb2 as pb
from shoal.serve.proto.shoal.v1 import shoal_pb2_grpc as pb_grpc
from shoal.serve.service import ChatService
from shoal.serve.status import error_object, internal_error, status_of
from shoal.serve.stream import StreamHead

log = logging.getLogger("shoal.serve")

SERVICE = "shoal.v1.Shoal"
MAX_BODY_BYTES = 8 << 20
#: how long calls under way may take when the server stops
_GRACE_S = 5.0


async def start_grpc(
    service: ChatService,
    auth: Authenticator,
    host: str,
    port: int,
    tls: TlsConfig | None = None,
    *,
    max_body_bytes: int = MAX_BODY_BYTES,
) -> GrpcServer:
    """Start a server in the running event loop. Port 0 takes a free one.

    SO_REUSEPORT is on, so that a replica that comes back can bind while the dead one's socket still closes. For the same
    reason a second site on the same port is not noticed here: whoever starts a site checks the port before.

    Raises:
        SiteError: the address cannot be bound.
        ConfigError: the certificate or key cannot be read.
    """
    server = grpc.aio.server(
        options=[
            ("grpc.so_reuseport", 1),
            ("grpc.max_receive_message_length", max_body_bytes),
            ("grpc.max_send_message_length", -1),
        ]
    )
    pb_grpc.add_ShoalServicer_to_server(_Servicer(service, auth), server)  # type: ignore[no-untyped-call]
    health_pb2_grpc.add_HealthServicer_to_server(_Health(service), server)
    reflection.enable_server_reflection((SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        if tls is None:
            bound = server.add_insecure_port(address)
        else:
            bound = server.add_secure_port(address, _credentials(tls))
    except RuntimeError as error:
        raise SiteError(
            f"gRPC cannot listen on {address}: {error}.", remedy="Name another with --grpc-port."
        ) from None
    await server.start()
    return GrpcServer(server, bound)


class GrpcServer:
    """A running server. `port` is the one that it really listens on."""

    def __init__(self, server: Any, port: int) -> None:
        self._server = server
        self.port = port

    async def stop(self, grace_s: float = _GRACE_S) -> None:
        """Take no more calls, and wait `grace_s` seconds for those under way."""
        await self._server.stop(grace_s)


def _credentials(tls: TlsConfig) -> Any:
    def read(path: Path, name: str) -> bytes:
        try:
            return path.read_bytes()
        except OSError as error:
            raise ConfigError(
                f"`tls.{name}`: {path} cannot be read: {error.strerror}.",
                remedy="Name a PEM file.",
                param=f"tls.{name}",
            ) from None

    pair = (read(tls.private_key, "private_key"), read(tls.certificate, "certificate"))
    return grpc.ssl_server_credentials([pair])


class _Health(health.aio.HealthServicer):  # type: ignore[misc]
    """Health as the service sees it at the moment of the question."""

    def __init__(self, service: ChatService) -> None:
        super().__init__()
        self._service = service

    async def _refresh(self) -> None:
        ready = not self._service.unready()
        answers = health_pb2.HealthCheckResponse
        for name in ("", SERVICE):
            await self.set(name, answers.SERVING if ready else answers.NOT_SERVING)

    async def Check(self, request: Any, context: Any) -> Any:
        await self._refresh()
        return await super().Check(request, context)

    async def Watch(self, request: Any, context: Any) -> None:
        await self._refresh()
        await super().Watch(request, context)


class _Servicer(pb_grpc.ShoalServicer):
    def __init__(self, service: ChatService, auth: Authenticator) -> None:
        self._service = service
        self._auth = auth

    async def Chat(self, request: pb.ChatRequest, context: Any) -> pb.ChatResponse:
        try:
            chat, caller, beside = await self._read(request, context)
            served = await self._service.chat(chat, caller, beside)
            await context.send_initial_metadata(_metadata(served))
            return response_to_pb(
                served.completion,
                served_by=served.served_by,
                trace_id=served.trace_id,
                node=served.node,
                tier=served.tier,
                cost_usd=served.cost_usd,
            )
        except Exception as error:  # noqa: BLE001
            await _abort(context, error)

    async def ChatStream(self, request: pb.ChatRequest, context: Any) -> AsyncIterator[pb.ChatChunk]:
        stream = None
        try:
            chat, caller, beside = await self._read(request, context, stream=True)
            stream = await self._service.stream(chat, caller, beside)
            head = stream.head
            await context.send_initial_metadata(_metadata(head))
            async for chunk in stream:
                yield chunk_to_pb(
                    chunk, served_by=head.served_by, trace_id=head.trace_id, node=head.node, tier=head.tier
                )
        except Exception as error:  # noqa: BLE001
            await _abort(context, error)
        finally:
            if stream is not None:
                await stream.aclose()

    async def Feedback(self, request: pb.FeedbackRequest, context: Any) -> pb.FeedbackResponse:
        try:
            caller, _ = await self._let_in(context, "feedback")
            body: dict[str, Any] = {"trace_id": request.trace_id, "comment": request.comment}
            if request.HasField("score"):
                body["score"] = request.score
            if request.HasField("correction"):
                body["correction"] = message_from_pb(request.correction, "correction", read_json)
            await self._service.feedback(read_feedback(body), caller)
            return pb.FeedbackResponse(trace_id=request.trace_id, accepted=True)
        except Exception as error:  # noqa: BLE001
            await _abort(context, error)

    async def ListModels(self, request: pb.ListModelsRequest, context: Any) -> pb.ListModelsResponse:
        try:
            await self._let_in(context, "chat")
            models = await self._service.models()
            return pb.ListModelsResponse(
                models=[pb.Model(id=m["id"], owned_by=m["owned_by"]) for m in models]
            )
        except Exception as error:  # noqa: BLE001
            await _abort(context, error)

    async def RunPlan(self, request: pb.RunPlanRequest, context: Any) -> AsyncIterator[pb.StepEvent]:
        try:
            caller, metadata = await self._let_in(context, "plans")
            run_id = request.run_id
            if not run_id:
                label = read_label(request.privacy or metadata.get("x-shoal-privacy"), "privacy")
                run_id = await self._service.run_plan(
                    request.name,
                    load_object(request.input_json or "{}", "input_json", read_json),
                    caller,
                    privacy=label,
                    plan=load_object(request.plan_json, "plan_json", read_json)
                    if request.HasField("plan_json")
                    else None,
                )
            else:
                await self._service.plans.get(run_id, owner=caller.runs_of)  # raises NotFound
            await context.send_initial_metadata((("x-shoal-run-id", run_id),))
            owner = caller.runs_of
            async for event in self._service.plans.events(run_id, after=request.after, owner=owner):
                yield event_to_pb(event)
        except Exception as error:  # noqa: BLE001
            await _abort(context, error)

    async def GetRun(self, request: pb.GetRunRequest, context: Any) -> pb.Run:
        try:
            caller, _ = await self._let_in(context, "plans")
            return run_to_pb(await self._service.plans.get(request.run_id, owner=caller.runs_of))
        except Exception as error:  # noqa: BLE001
            await _abort(context, error)

    async def CancelRun(self, request: pb.CancelRunRequest, context: Any) -> pb.Run:
        try:
            caller, _ = await self._let_in(context, "plans")
            return run_to_pb(await self._service.plans.cancel(request.run_id, owner=caller.runs_of))
        except Exception as error:  # noqa: BLE001
            await _abort(context, error)

    async def ResumeRun(self, request: pb.ResumeRunRequest, context: Any) -> pb.Run:
        try:
            caller, _ = await self._let_in(context, "plans")
            return run_to_pb(await self._service.plans.resume(request.run_id, owner=caller.runs_of))
        except Exception as error:  # noqa: BLE001
            await _abort(context, error)

    async def ListRuns(self, request: pb.ListRunsRequest, context: Any) -> pb.ListRunsResponse:
        try:
            caller, _ = await self._let_in(context, "plans")
            found = await self._service.plans.runs(LISTED_RUNS, owner=caller.runs_of)
            return pb.ListRunsResponse(runs=[run_to_pb(run) for run in found])
        except Exception as error:  # noqa: BLE001
            await _abort(context, error)

    async def _let_in(self, context: Any, scope: Scope) -> tuple[Caller, dict[str, str]]:
        metadata = {key: value for key, value in context.invocation_metadata() if isinstance(value, str)}
        caller = await self._auth.authenticate(
            metadata.get("authorization"), peer=peer_address(context.peer()), scope=scope
        )
        return caller, metadata

    async def _read(
        self, request: pb.ChatRequest, context: Any, *, stream: bool = False
    ) -> tuple[ChatRequest, Caller, CallContext]:
        caller, metadata = await self._let_in(context, "chat")
        # a field of the message wins over metadata
        if request.privacy:
            metadata["x-shoal-privacy"] = request.privacy
        if request.conversation:
            metadata["x-shoal-conversation"] = request.conversation
        body = request_from_pb(request, read_json)
        if stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        else:
            body.pop("stream", None)
        return parse_chat_request(body), caller, read_context(metadata.get)


def peer_address(peer: str) -> str | None:
    """The address in gRPC's name of a peer: `ipv4:127.0.0.1:5000`, `ipv6:%5B::1%5D:5000`; None for others."""
    kind, _, rest = unquote(peer).partition(":")
    if kind == "ipv4":
        return rest.rpartition(":")[0]
    if kind == "ipv6":
        return rest.rpartition("]")[0].removeprefix("[")
    return None


def _metadata(of: Served | StreamHead) -> tuple[tuple[str, str], ...]:
    values = {"trace-id": of.trace_id, "served-by": of.served_by, "node": of.node, "tier": of.tier}
    if of.run_id:
        values["run-id"] = of.run_id
    return tuple(
        (f"x-shoal-{name}", "".join(c if " " <= c <= "~" else "?" for c in value))
        for name, value in values.items()
    )


async def _abort(context: Any, error: Exception) -> NoReturn:
    """End the call with the error's row of the table."""
    if isinstance(error, grpc.aio.AbortError | asyncio.CancelledError):
        raise error
    if not isinstance(error, ShoalError):
        log.error("a fault over a gRPC call", exc_info=error)
        error = internal_error()
    await context.abort(
        grpc.StatusCode[status_of(error).grpc],
        str(error),
        (
            ("x-shoal-error", error.code),
            ("x-shoal-error-bin", write_json({"error": error_object(error)})),
        ),
    )
    raise error  # abort has raised; this tells the type checker
