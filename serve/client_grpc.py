"""The clients' way over gRPC. Reading is shared; a sync and an async sender stand over it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import grpc

from shoal.errors import ConfigError
from shoal.serve import status
from shoal.serve.answers import ChatAnswer, ChatPiece
from shoal.serve.grpc_codec import chunk_from_pb, message_to_pb, request_to_pb, response_from_pb
from shoal.serve.grpc_plans import event_from_pb, run_from_pb
from shoal.serve.proto.shoal.v1 import shoal_pb2 as pb
from shoal.serve.proto.shoal.v1 import shoal_pb2_grpc as pb_grpc

_OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


def _channel(module: Any, target: str, *, secure: bool, ca: Path | None) -> Any:
    """A channel of `grpc` or `grpc.aio`."""
    if not secure:
        return module.insecure_channel(target, options=_OPTIONS)
    try:
        roots = None if ca is None else ca.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"The certificate {ca} cannot be read: {error.strerror}.", remedy="Name a PEM file.", param="ca"
        ) from None
    return module.secure_channel(target, grpc.ssl_channel_credentials(roots), options=_OPTIONS)


def _metadata(key: str | None) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {key}"),) if key else ()


def _raise(error: Any) -> NoReturn:
    """The site's error out of an RpcError, which is also a Call."""
    trailing = {key: value for key, value in error.trailing_metadata() or ()}
    code = trailing.get("x-shoal-error")
    details = error.details() or ""
    try:
        body: object = json.loads(trailing.get("x-shoal-error-bin", b"null"))
    except ValueError:
        body = None
    raise status.rebuild(body or details, code=code, grpc=error.code().name) from error


def _answer(response: pb.ChatResponse) -> ChatAnswer:
    return ChatAnswer.from_completion(
        response_from_pb(response),
        served_by=response.served_by,
        trace_id=response.trace_id,
        node=response.node,
        tier=response.tier,
        cost=response.cost_usd if response.HasField("cost_usd") else None,
    )


def _piece(chunk: pb.ChatChunk) -> ChatPiece:
    return ChatPiece.from_chunk(chunk_from_pb(chunk), served_by=chunk.served_by, trace_id=chunk.trace_id)


def _request(body: Mapping[str, Any], beside: Mapping[str, str]) -> pb.ChatRequest:
    return request_to_pb(body, privacy=beside.get("privacy", ""), conversation=beside.get("conversation", ""))


def _feedback(body: Mapping[str, Any]) -> pb.FeedbackRequest:
    request = pb.FeedbackRequest(trace_id=body["trace_id"], comment=body.get("comment", ""))
    if body.get("score") is not None:
        request.score = body["score"]
    if body.get("correction") is not None:
        request.correction.CopyFrom(message_to_pb(body["correction"]))
    return request


def _run_request(body: Mapping[str, Any]) -> pb.RunPlanRequest:
    request = pb.RunPlanRequest(
        name=body["name"],
        input_json=json.dumps(body["input"], ensure_ascii=False),
        privacy=body.get("privacy", ""),
    )
    if "plan" in body:
        request.plan_json = json.dumps(body["plan"], ensure_ascii=False)
    return request


_RUN_CALLS = {
    "get": ("GetRun", pb.GetRunRequest),
    "cancel": ("CancelRun", pb.CancelRunRequest),
    "resume": ("ResumeRun", pb.ResumeRunRequest),
}


class GrpcTransport:
    """Blocking."""

    def __init__(
        self, target: str, key: str | None, timeout_s: float, *, secure: bool = False, ca: Path | None = None
    ) -> None:
        self._channel = _channel(grpc, target, secure=secure, ca=ca)
        self._stub: Any = pb_grpc.ShoalStub(self._channel)  # type: ignore[no-untyped-call]
        self._with = {"timeout": timeout_s, "metadata": _metadata(key)}

    def chat(self, body: Mapping[str, Any], beside: Mapping[str, str]) -> ChatAnswer:
        try:
            return _answer(self._stub.Chat(_request(body, beside), **self._with))
        except grpc.RpcError as error:
            _raise(error)

    def stream(self, body: Mapping[str, Any], beside: Mapping[str, str]) -> Iterator[ChatPiece]:
        chunks = self._stub.ChatStream(_request(body, beside), **self._with)
        try:
            for chunk in chunks:
                yield _piece(chunk)
        except grpc.RpcError as error:
            _raise(error)
        finally:
            chunks.cancel()

    def feedback(self, body: Mapping[str, Any]) -> None:
        try:
            self._stub.Feedback(_feedback(body), **self._with)
        except grpc.RpcError as error:
            _raise(error)

    def models(self) -> list[str]:
        try:
            return [model.id for model in self._stub.ListModels(pb.ListModelsRequest(), **self._with).models]
        except grpc.RpcError as error:
            _raise(error)

    def run_events(self, body: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        return self._events(_run_request(body))

    def follow(self, run_id: str, after: int) -> Iterator[dict[str, Any]]:
        return self._events(pb.RunPlanRequest(run_id=run_id, after=after))

    def _events(self, request: pb.RunPlanRequest) -> Iterator[dict[str, Any]]:
        # a step may take long: no deadline
        events = self._stub.RunPlan(request, metadata=self._with["metadata"])
        try:
            for event in events:
                yield event_from_pb(event)
        except grpc.RpcError as error:
            _raise(error)
        finally:
            events.cancel()

    def run(self, run_id: str, verb: str) -> dict[str, Any]:
        name, message = _RUN_CALLS[verb]
        try:
            return run_from_pb(getattr(self._stub, name)(message(run_id=run_id), **self._with))
        except grpc.RpcError as error:
            _raise(error)

    def runs(self) -> list[dict[str, Any]]:
        try:
            found = self._stub.ListRuns(pb.ListRunsRequest(), **self._with)
        except grpc.RpcError as error:
            _raise(error)
        return [run_from_pb(run) for run in found.runs]

    def close(self) -> None:
        self._channel.close()


class AsyncGrpcTransport:
    """As `GrpcTransport`, on asyncio."""

    def __init__(
        self, target: str, key: str | None, timeout_s: float, *, secure: bool = False, ca: Path | None = None
    ) -> None:
        self._channel = _channel(grpc.aio, target, secure=secure, ca=ca)
        self._stub: Any = pb_grpc.ShoalStub(self._channel)  # type: ignore[no-untyped-call]
        self._with = {"timeout": timeout_s, "metadata": _metadata(key)}

    async def chat(self, body: Mapping[str, Any], beside: Mapping[str, str]) -> ChatAnswer:
        try:
            return _answer(await self._stub.Chat(_request(body, beside), **self._with))
        except grpc.RpcError as error:
            _raise(error)

    async def stream(self, body: Mapping[str, Any], beside: Mapping[str, str]) -> AsyncIterator[ChatPiece]:
        chunks = self._stub.ChatStream(_request(body, beside), **self._with)
        try:
            async for chunk in chunks:
                yield _piece(chunk)
        except grpc.RpcError as error:
            _raise(error)
        finally:
            chunks.cancel()

    async def feedback(self, body: Mapping[str, Any]) -> None:
        try:
            await self._stub.Feedback(_feedback(body), **self._with)
        except grpc.RpcError as error:
            _raise(error)

    async def models(self) -> list[str]:
        try:
            answer = await self._stub.ListModels(pb.ListModelsRequest(), **self._with)
        except grpc.RpcError as error:
            _raise(error)
        return [model.id for model in answer.models]

    def run_events(self, body: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
        return self._events(_run_request(body))

    def follow(self, run_id: str, after: int) -> AsyncIterator[dict[str, Any]]:
        return self._events(pb.RunPlanRequest(run_id=run_id, after=after))

    async def _events(self, request: pb.RunPlanRequest) -> AsyncIterator[dict[str, Any]]:
        # a step may take long: no deadline
        events = self._stub.RunPlan(request, metadata=self._with["metadata"])
        try:
            async for event in events:
                yield event_from_pb(event)
        except grpc.RpcError as error:
            _raise(error)
        finally:
            events.cancel()

    async def run(self, run_id: str, verb: str) -> dict[str, Any]:
        name, message = _RUN_CALLS[verb]
        try:
            return run_from_pb(await getattr(self._stub, name)(message(run_id=run_id), **self._with))
        except grpc.RpcError as error:
            _raise(error)

    async def runs(self) -> list[dict[str, Any]]:
        try:
            found = await self._stub.ListRuns(pb.ListRunsRequest(), **self._with)
        except grpc.RpcError as error:
            _raise(error)
        return [run_from_pb(run) for run in found.runs]

    async def close(self) -> None:
        await self._channel.close()
