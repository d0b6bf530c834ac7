from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from shoal.agents.fakes import FunctionGeneralist
from shoal.agents.traces.chat import ChatRequest, Delta
from shoal.config import TlsConfig
from shoal.errors import ConfigError, RequestTooLarge, Unauthenticated
from shoal.serve.client import AsyncClient
from shoal.serve.grpc_api import peer_address
from shoal.serve.proto.shoal.v1 import shoal_pb2 as pb
from shoal.serve.proto.shoal.v1 import shoal_pb2_grpc as pb_grpc

from .conftest import Bench, ask
from .test_auth import Keys, record
from .tls import self_signed

USER = pb.Message(role="user", content="hello")
SYSTEM = pb.Message(role="system", content="[triage] Do it.")


@pytest.fixture
async def channel(bench: Bench) -> AsyncIterator[Any]:
    server = await bench.grpc()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as made:
        yield made
    await server.stop(0)


async def test_health_follows_readiness(bench: Bench, channel: Any) -> None:
    stub: Any = health_pb2_grpc.HealthStub(channel)
    answers = health_pb2.HealthCheckResponse
    for ready, expected in ((False, answers.NOT_SERVING), (True, answers.SERVING)):
        bench.ready = ready
        for name in ("", "shoal.v1.Shoal"):
            assert (await stub.Check(health_pb2.HealthCheckRequest(service=name))).status == expected


async def test_reflection_lists_the_service(channel: Any) -> None:
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
    asked = [reflection_pb2.ServerReflectionRequest(list_services="")]
    [answer] = [answer async for answer in stub.ServerReflectionInfo(iter(asked))]
    names = {service.name for service in answer.list_services_response.service}
    assert {"shoal.v1.Shoal", "grpc.health.v1.Health"} <= names


async def test_a_plain_stub_sees_who_answered(channel: Any) -> None:
    stub: Any = pb_grpc.ShoalStub(channel)  # type: ignore[no-untyped-call]
    call = stub.Chat(pb.ChatRequest(messages=[SYSTEM, USER]))
    response = await call
    assert response.served_by == response.model == "specialist/triage@3"
    assert response.choices[0].message.content == "small: hello"
    assert response.HasField("cost_usd")
    metadata = dict(await call.initial_metadata())
    assert metadata["x-shoal-served-by"] == "specialist/triage@3"
    assert metadata["x-shoal-trace-id"] == response.trace_id
    chunks = [chunk async for chunk in stub.ChatStream(pb.ChatRequest(messages=[SYSTEM, USER]))]
    text = "".join(choice.delta.content for chunk in chunks for choice in chunk.choices)
    assert text == "small: hello"
    assert {chunk.served_by for chunk in chunks} == {"specialist/triage@3"}
    assert chunks[-1].HasField("usage")


async def test_context_may_come_as_metadata_and_fields_win(bench: Bench, channel: Any) -> None:
    stub: Any = pb_grpc.ShoalStub(channel)  # type: ignore[no-untyped-call]
    parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    metadata = (("x-shoal-privacy", "public"), ("x-shoal-conversation", "c1"), ("traceparent", parent))
    await stub.Chat(pb.ChatRequest(messages=[USER]), metadata=metadata)
    await stub.Chat(pb.ChatRequest(messages=[USER], privacy="internal", conversation="c2"), metadata=metadata)
    seen = [(t.privacy, t.conversation_id, t.tags["traceparent"]) for t in bench.record.traces]
    assert seen == [("public", "c1", parent), ("internal", "c2", parent)]


async def test_errors_carry_their_code_beside_the_status(bench: Bench, channel: Any) -> None:
    stub: Any = pb_grpc.ShoalStub(channel)  # type: ignore[no-untyped-call]
    for request in (pb.ChatRequest(), pb.ChatRequest(messages=[USER], tools_json=["{"])):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Chat(request)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert dict(caught.value.trailing_metadata() or ())["x-shoal-error"] == "invalid_request"


async def test_keys_travel_as_metadata(bench: Bench) -> None:
    bench.keys = Keys(record("chat"))
    server = await bench.grpc()
    url = f"grpc://127.0.0.1:{server.port}"
    async with AsyncClient(url, "sk-shoal-abc") as client:
        assert (await client.chat(ask("a")["messages"])).text == "large: a"
    async with AsyncClient(url, "sk-shoal-wrong") as client:
        with pytest.raises(Unauthenticated):
            await client.chat(ask("a")["messages"])
    await server.stop(0)


async def test_a_message_that_is_too_large_is_refused(bench: Bench) -> None:
    server = await bench.grpc(max_body_bytes=1000)
    async with AsyncClient(f"grpc://127.0.0.1:{server.port}") as client:
        with pytest.raises(RequestTooLarge):
            await client.chat(ask("x" * 2000)["messages"])
    await server.stop(0)


async def test_a_restarted_replica_can_bind_while_the_old_one_still_stands(bench: Bench) -> None:
    from shoal.serve.grpc_api import start_grpc

    first = await bench.grpc()
    second = await start_grpc(bench.service, bench.auth, "127.0.0.1", first.port)
    assert second.port == first.port
    await first.stop(0)
    async with AsyncClient(f"grpc://127.0.0.1:{second.port}") as client:
        assert (await client.chat(ask("a")["messages"])).text == "large: a"
    await second.stop(0)


async def test_a_cancelled_stream_is_broken_off_upstream(bench: Bench) -> None:
    class Endless(FunctionGeneralist):
        closed = asyncio.Event()

        async def stream(self, request: ChatRequest, *, deadline_s: float) -> AsyncIterator[Delta]:
            try:
                while True:
                    yield Delta(content="on ")
                    await asyncio.sleep(0.001)
            finally:
                self.closed.set()

    bench.generalist = generalist = Endless(lambda r: "")
    server = await bench.grpc()
    async with AsyncClient(f"grpc://127.0.0.1:{server.port}") as client:
        stream = client.chat_stream(ask("a")["messages"])
        await anext(stream)
        await stream.aclose()  # type: ignore[attr-defined]
        await asyncio.wait_for(generalist.closed.wait(), 2)
    await server.stop(0)
    assert [t.tags["incomplete"] for t in bench.record.traces] == ["client_closed"]


async def test_tls_is_spoken_where_it_is_configured(bench: Bench, tmp_path: Path) -> None:
    certificate, key = self_signed(tmp_path)
    server = await bench.grpc(tls=TlsConfig(certificate=certificate, private_key=key))
    async with AsyncClient(f"grpcs://localhost:{server.port}", ca=certificate) as client:
        assert (await client.chat(ask("a")["messages"])).text == "large: a"
    await server.stop(0)


async def test_a_certificate_that_is_not_there_is_named(bench: Bench, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing\.pem") as caught:
        await bench.grpc(tls=TlsConfig(certificate=tmp_path / "c", private_key=tmp_path / "nothing.pem"))
    assert caught.value.param == "tls.private_key"


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:127.0.0.1:5000", "127.0.0.1"),
        ("ipv6:%5B::1%5D:5000", "::1"),
        ("ipv6:[fe80::1%25eth0]:5", "fe80::1%eth0"),
        ("unix:/tmp/x", None),
        ("", None),
    ],
)
def test_a_peers_address_is_read_from_its_name(peer: str, address: str | None) -> None:
    assert peer_address(peer) == address
