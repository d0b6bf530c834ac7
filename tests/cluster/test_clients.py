"""What an agent's own clients get from a running site: OpenAI's SDK unchanged, and a stub generated from the published proto."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tickets
from openai import OpenAI
from running_site import MODEL, Site

from shoal import Client

pytestmark = pytest.mark.cluster

BILLING = "Hello, I have a question about my invoice."
UNKNOWN: list[Any] = [{"role": "user", "content": "Tell me a joke."}]


@pytest.fixture
def sdk(site: Site) -> OpenAI:
    return OpenAI(base_url=f"{site.url}/v1", api_key="unused", max_retries=0)


@pytest.mark.parametrize("model", ["auto", MODEL])
def test_openais_sdk_gets_a_specialists_answer_and_sees_who_answered(
    site: Site, sdk: OpenAI, model: str
) -> None:
    body: Any = {**tickets.body(BILLING), "model": model}
    raw = sdk.chat.completions.with_raw_response.create(**body)
    completion = raw.parse()
    served_by = f"specialist/{site.task.name}@{site.version.number}"
    assert completion.choices[0].message.content == "billing"
    assert completion.model == served_by
    assert raw.headers["X-Shoal-Served-By"] == served_by
    assert raw.headers["X-Shoal-Trace-Id"]


def test_openais_sdk_gets_the_same_answer_streamed(site: Site, sdk: OpenAI) -> None:
    body: Any = {**tickets.body(BILLING), "stream": True}
    chunks = list(sdk.chat.completions.create(**body))
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "billing"
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert {c.model for c in chunks} == {f"specialist/{site.task.name}@{site.version.number}"}


def test_openais_sdk_streams_the_generalists_answer_where_no_specialist_may(site: Site, sdk: OpenAI) -> None:
    whole = sdk.chat.completions.create(model="auto", messages=UNKNOWN)
    chunks = list(sdk.chat.completions.create(model="auto", messages=UNKNOWN, stream=True))
    said = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert said == whole.choices[0].message.content
    assert {c.model for c in chunks} == {f"generalist/{MODEL}"}


def test_the_sdk_lists_the_models(site: Site, sdk: OpenAI) -> None:
    names = {model.id for model in sdk.models.list()}
    assert {"auto", "generalist", MODEL, f"specialist/{site.task.name}"} <= names


def test_a_stub_generated_from_the_published_proto_gets_plain_and_streamed_answers(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Path(__file__).parents[2] / "serve" / "proto"
    # under another package, so that it cannot meet the code that ships
    source = (root / "shoal" / "v1" / "shoal.proto").read_text(encoding="utf-8")
    (tmp_path / "published.proto").write_text(source, encoding="utf-8")
    script = (
        "import sys\n"
        "from grpc_tools import protoc\n"
        f"sys.exit(protoc.main(['protoc', '-I{tmp_path}', '--python_out={tmp_path}', '--grpc_python_out={tmp_path}', "
        f"'{tmp_path}/published.proto']))\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
    monkeypatch.syspath_prepend(str(tmp_path))
    client = tmp_path / "client.py"
    messages = tickets.body(BILLING)["messages"]
    client.write_text(
        "import json, sys, grpc\n"
        "import published_pb2 as pb, published_pb2_grpc as stubs\n"
        f"messages = [pb.Message(role=m['role'], content=m['content']) for m in {messages!r}]\n"
        f"with grpc.insecure_channel({site.grpc!r}) as channel:\n"
        "    stub = stubs.ShoalStub(channel)\n"
        f"    request = pb.ChatRequest(model={MODEL!r}, messages=messages, temperature=0)\n"
        "    whole = stub.Chat(request, timeout=10)\n"
        "    pieces = list(stub.ChatStream(request, timeout=10))\n"
        "    said = ''.join(c.delta.content for piece in pieces for c in piece.choices)\n"
        "    who = {piece.served_by for piece in pieces if piece.served_by}\n"
        "    print(json.dumps([whole.choices[0].message.content, whole.served_by, said, sorted(who)]))\n",
        encoding="utf-8",
    )
    import json

    done = subprocess.run(
        [sys.executable, str(client)], capture_output=True, text=True, check=True, timeout=60
    )
    served_by = f"specialist/{site.task.name}@{site.version.number}"
    assert json.loads(done.stdout) == ["billing", served_by, "billing", [served_by]]


@pytest.mark.parametrize("way", ["http", "grpc"])
def test_shoals_own_client_gets_the_same_both_ways(site: Site, way: str) -> None:
    url = site.url if way == "http" else f"grpc://{site.grpc}"
    with Client(url) as client:
        body = tickets.body(BILLING)
        answer = client.chat(body["messages"], temperature=0)
        assert (answer.text, answer.served_by) == (
            "billing",
            f"specialist/{site.task.name}@{site.version.number}",
        )
        client.feedback(answer.trace_id, score=1)
    assert any(kept["trace_id"] == answer.trace_id for kept in site.registry.feedback())
