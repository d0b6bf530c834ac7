from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from shoal.serve.grpc_codec import chunk_from_pb, chunk_to_pb, request_from_pb, request_to_pb
from shoal.serve.proto import generate

from .conftest import Bench, ask

#: run as a program of its own: it knows nothing of Shoal but the published file
STRANGER = """
import sys
sys.path.insert(0, sys.argv[1])
import grpc, shoal_pb2 as pb, shoal_pb2_grpc as pb_grpc
with grpc.insecure_channel(sys.argv[2]) as channel:
    stub = pb_grpc.ShoalStub(channel)
    request = pb.ChatRequest(messages=[
        pb.Message(role="system", content="[triage] Do it."), pb.Message(role="user", content="hello")])
    answer = stub.Chat(request)
    chunks = list(stub.ChatStream(request))
    print(answer.served_by, answer.choices[0].message.content)
    print(chunks[0].served_by, "".join(c.delta.content for chunk in chunks for c in chunk.choices))
assert "shoal" not in sys.modules
"""


def test_the_generated_code_is_that_of_the_proto_file(tmp_path: Path) -> None:
    for made in generate.generate(tmp_path):
        kept = generate.HERE / made.relative_to(tmp_path)
        assert kept.read_text(encoding="utf-8") == made.read_text(encoding="utf-8"), "run: make proto"


async def test_a_stub_made_from_the_published_file_gets_the_same(bench: Bench, tmp_path: Path) -> None:
    import asyncio

    folder = generate.HERE / "shoal/v1"
    subprocess.run(
        [
            *(sys.executable, "-m", "grpc_tools.protoc", f"-I{folder}"),
            *(f"--python_out={tmp_path}", f"--grpc_python_out={tmp_path}", "shoal.proto"),
        ],
        check=True,
    )
    server = await bench.grpc()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-c", STRANGER, str(tmp_path), f"127.0.0.1:{server.port}"),
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    await server.stop(0)
    assert process.returncode == 0
    assert out.decode().splitlines() == ["specialist/triage@3 small: hello"] * 2


@pytest.mark.parametrize(
    "body",
    [
        ask("é"),
        ask("a", stop=["x", "y"], seed=-(2**62), logprobs=False, temperature=0, metadata={"a": "b"}),
        ask("a", metadata={"a": 1}),
        ask("a", tools=[{"z": 1, "a": {"b": [1, 2.5, None]}}], tool_choice={"type": "function"}),
    ],
)
def test_a_request_comes_through_unchanged(body: dict[str, object]) -> None:
    back = request_from_pb(request_to_pb(body))
    assert back == body
    assert str(back["messages"]) == str(body["messages"])


def test_a_chunk_comes_through_unchanged() -> None:
    piece = {"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": ""}}
    more = {"index": 0, "function": {"arguments": "{}"}}
    for delta in ({"role": "assistant", "content": ""}, {"tool_calls": [piece]}, {"tool_calls": [more]}, {}):
        chunk = {
            "id": "x",
            "object": "chat.completion.chunk",
            "created": 3,
            "model": "m",
            "system_fingerprint": "fp",
            "choices": [{"index": 1, "delta": delta, "finish_reason": None, "logprobs": {"content": []}}],
        }
        there = chunk_to_pb(chunk, served_by="m", trace_id="t", node="n", tier="local")
        assert chunk_from_pb(there) == chunk
