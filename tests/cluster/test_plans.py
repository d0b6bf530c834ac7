"""The sales-report pipeline on a running site: the same result and the same step events over HTTP, gRPC and the Python client."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import httpx
import pytest
from running_site import Site

from shoal import Client

pytestmark = pytest.mark.cluster

QUESTION = (
    "Analyze last quarter's sales data and highlight key trends by region. In German, and keep it casual."
)
#: what differs between two runs of the same plan
_OWN = ("run_id", "at")


def events_of(client: Client) -> list[dict[str, Any]]:
    return list(client.plans.run("sales-report", {"question": QUESTION}))


def comparable(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in event.items() if name not in _OWN} for event in events]


def test_http_grpc_and_the_client_give_the_same_result_and_the_same_step_events(site: Site) -> None:
    with Client(site.url) as client:
        over_http = events_of(client)
    with Client(f"grpc://{site.grpc}") as client:
        over_grpc = events_of(client)
        run = client.plans.get(over_grpc[0]["run_id"])
    body = {"model": "agent/sales-report", "messages": [{"role": "user", "content": QUESTION}]}
    as_model = httpx.post(f"{site.url}/v1/chat/completions", json=body, timeout=60)
    as_model.raise_for_status()
    run_id = as_model.headers["X-Shoal-Run-Id"]
    told = httpx.get(f"{site.url}/v1/runs/{run_id}/events", timeout=60).text
    lines = [line.removeprefix("data: ") for line in told.splitlines() if line.startswith("data: {")]
    as_model_events = [json.loads(line) for line in lines]
    assert comparable(over_http) == comparable(over_grpc) == comparable(as_model_events)
    output = over_http[-1]["output"]
    assert run["output"] == output
    assert as_model.json()["choices"][0]["message"]["content"] == "\n".join(output)
    assert as_model.headers["X-Shoal-Served-By"] == "agent/sales-report"
    assert len(output) == 8 and all("%" in sentence for sentence in output)
    steps = [event["step"] for event in over_http if event["type"] == "step_done"]
    assert steps == ["plan.data", "plan.insight", "plan.text", "plan"]


def test_openais_sdk_runs_the_agent_streamed(site: Site) -> None:
    from openai import OpenAI

    sdk = OpenAI(base_url=f"{site.url}/v1", api_key="unused", max_retries=0)
    messages: Any = [{"role": "user", "content": QUESTION}]
    whole = sdk.chat.completions.create(model="agent/sales-report", messages=messages)
    chunks = list(sdk.chat.completions.create(model="agent/sales-report", messages=messages, stream=True))
    said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert said == whole.choices[0].message.content
    assert "agent/sales-report" in {model.id for model in sdk.models.list()}


def test_local_only_data_is_kept_from_the_generalist_and_the_step_says_why(site: Site) -> None:
    with Client(site.url) as client:
        events = list(client.plans.run("sales-report", {"question": QUESTION}, privacy="local-only"))
    failed = next(event for event in events if event["type"] == "step_failed")
    assert failed["error"]["code"] == "privacy_violation"
    assert "local-only" in failed["error"]["message"]
    assert events[-1]["type"] == "run_failed"


def test_a_local_only_step_runs_on_a_node_that_may_see_it(site: Site) -> None:
    figures = {"period": "last quarter", "by": "region", "top": 1}
    steps = [{"id": "a", "use": "tool/sales_figures", "input": figures, "tier": "cloud"}]
    plan = {"name": "private", "steps": steps, "result": "$a.records.0.name"}
    with Client(site.url) as client:
        private = list(client.plans.run("private", {}, plan=plan, privacy="local-only"))
        free = list(client.plans.run("private", {}, plan=plan))
    done = [next(e for e in events if e["type"] == "step_done") for events in (private, free)]
    assert done[0]["tier"] in ("edge", "local")
    assert (done[1]["node"], done[1]["tier"]) == ("cloud-1", "cloud")
    assert private[-1]["output"] == free[-1]["output"]


def test_a_run_can_be_drawn_and_listed_from_the_command_line(site: Site) -> None:
    with Client(site.url) as client:
        run_id = next(iter(client.plans.run("sales-report", {"question": QUESTION})))["run_id"]
        for _ in client.plans.events(run_id):
            pass
    for arguments in (["show", run_id], ["show", "sales-report"], ["ls"]):
        done = subprocess.run(
            [sys.executable, "-m", "shoal", "plans", *arguments, "--home", str(site.home.root)],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        assert max(map(len, done.stdout.splitlines())) <= 80, done.stdout
        assert "sales-report" in done.stdout
