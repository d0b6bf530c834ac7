from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from running_site import MODEL, Site

from shoal.agents.registry.records import VersionState
from shoal.errors import Conflict, SiteError
from shoal.home import Home
from shoal.serve.proto.shoal.v1 import shoal_pb2 as pb
from shoal.serve.proto.shoal.v1 import shoal_pb2_grpc as pb_grpc
from shoal.serve.site import start_site
from shoal.serve.site_status import site_status

pytestmark = pytest.mark.cluster


def test_the_site_answers_with_a_specialist_where_it_may_and_with_the_generalist_otherwise(
    site: Site,
) -> None:
    answer = site.ask("Hello, I have a question about my invoice.")
    assert answer.json()["choices"][0]["message"]["content"] == "billing"
    assert answer.headers["X-Shoal-Served-By"] == f"specialist/{site.task.name}@{site.version.number}"
    named = site.ask("Hello, I have a question about my invoice.", model=MODEL)
    assert named.headers["X-Shoal-Served-By"].startswith("specialist/")
    other = httpx.post(
        f"{site.url}/v1/chat/completions",
        json={"model": "auto", "messages": [{"role": "user", "content": "Tell me a joke."}]},
    )
    assert other.headers["X-Shoal-Served-By"] == f"generalist/{MODEL}"


def test_grpc_gives_the_same_answer_and_says_that_it_is_healthy(site: Site) -> None:
    with grpc.insecure_channel(site.grpc) as channel:
        health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
        assert health.status == health_pb2.HealthCheckResponse.SERVING
        system, user = site_messages("There is a problem: tracking number since yesterday.")
        said = pb_grpc.ShoalStub(channel).Chat(
            pb.ChatRequest(model="auto", messages=[system, user], temperature=0), timeout=10
        )
    assert said.served_by.startswith("specialist/")


def site_messages(text: str) -> list[Any]:
    import tickets

    return [pb.Message(role=m["role"], content=m["content"]) for m in tickets.body(text)["messages"]]


def test_nothing_of_the_site_can_be_reached_from_another_machine(site: Site) -> None:
    found = site_status(site.home, site.config)
    assert found["up"] is True
    assert found["site"]["answer"] == "ready"
    assert found["listeners"]
    assert found["exposed"] == []


def test_ray_lets_nobody_in_without_the_sites_token(site: Site) -> None:
    code = (
        "import ray\n"
        f"ray.init(address={site.started.record.address!r}, log_to_driver=False, configure_logging=False)\n"
        "print('in')"
    )

    def enter(token: str) -> str:
        environment = {
            **os.environ,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": token,
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
            "RAY_gcs_rpc_server_connect_timeout_s": "2",
        }
        environment.pop("RAY_AUTH_TOKEN_PATH", None)
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=90
        )
        return done.stdout.strip()

    assert enter("0" * 64) == ""
    assert enter(site.home.ray_token.read_text()) == "in"
    assert site.home.ray_token.stat().st_mode & 0o777 == 0o600


def test_starting_again_says_that_it_is_up_and_other_settings_are_a_conflict(site: Site) -> None:
    again = start_site(site.home, site.config)
    assert again.already
    assert again.record.id == site.started.record.id
    other = site.config.model_copy(update={"generalist": None})
    with pytest.raises(Conflict, match="shoal down"):
        start_site(site.home, other)


def test_a_second_site_on_the_same_port_is_refused_before_anything_starts(site: Site, tmp_path: Any) -> None:
    began = time.monotonic()
    with pytest.raises(SiteError, match=str(site.config.serve.port)):
        start_site(Home(tmp_path / "other"), site.config)
    assert time.monotonic() - began < 2
    assert site.served_by()


def test_a_pause_and_a_promotion_by_another_process_take_effect_within_two_seconds(site: Site) -> None:
    site.registry.set_state(site.version.key, VersionState.PAUSED, reason="test")
    site.wait_until(lambda: not site.served_by_specialist(), within_s=2)
    site.registry.set_state(site.version.key, VersionState.SERVING, reason="test")
    site.wait_until(site.served_by_specialist, within_s=5)


def test_a_rollback_takes_effect_within_a_second_because_the_old_version_is_still_loaded(site: Site) -> None:
    import tickets

    _, newer = tickets.install(site.home, state=VersionState.SHADOW)
    site.wait_until(lambda: newer.key in router(site)["loaded"], within_s=15)
    site.registry.set_state(newer.key, VersionState.SERVING, reason="test")
    site.registry.set_state(site.version.key, VersionState.RETIRED, reason="test")
    site.wait_until(lambda: site.served_by().endswith(f"@{newer.number}"), within_s=2)
    site.registry.set_state(site.version.key, VersionState.SERVING, reason="test")
    site.registry.set_state(newer.key, VersionState.PAUSED, reason="test")
    taken = site.wait_until(lambda: site.served_by().endswith(f"@{site.version.number}"), within_s=2)
    assert taken < 1.5


def router(site: Site) -> dict[str, Any]:
    found = site_status(site.home, site.config)["router"]
    assert found is not None
    return found


def test_a_corrupt_model_folder_is_paused_with_its_reason_and_the_others_still_answer(site: Site) -> None:
    import tickets

    _, broken = tickets.install(site.home, state=VersionState.PAUSED)
    weights = site.home.models / broken.folder / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    site.registry.set_state(broken.key, VersionState.SHADOW, reason="test")

    def state() -> VersionState:
        return next(v.state for v in site.registry.versions() if v.key == broken.key)

    site.wait_until(lambda: state() is VersionState.PAUSED, within_s=15)
    reason = next(v.reason for v in site.registry.versions() if v.key == broken.key)
    assert "weights.safetensors" in reason
    site.wait_until(site.served_by_specialist, within_s=5)


def test_a_version_that_wishes_a_tier_is_held_by_the_host_of_a_node_of_that_tier(site: Site) -> None:
    import tickets

    _, plain = tickets.install(site.home, state=VersionState.PAUSED)
    own = replace(plain, number=plain.number + 1, state=VersionState.SHADOW, needs={"tier": "edge"})
    site.registry.add_version(own)
    site.wait_until(lambda: own.key in router(site)["loaded"], within_s=30)
    found = site_status(site.home, site.config)["placement"]["assignments"][own.key]
    assert (found["node"], found["tier"], found["application"]) == ("edge-1", "edge", "shoal-host-edge-1")
    assert dict(found["rejected"])["cloud-1"].startswith("score")
    pid = site.pid("shoal-host-edge-1:")
    site.registry.set_state(own.key, VersionState.PAUSED, reason="test")
    site.wait_until(lambda: not Path(f"/proc/{pid}").exists(), within_s=20)


def test_nodes_placement_and_status_read_well_in_eighty_columns(site: Site) -> None:
    for arguments in (["nodes", "ls"], ["placement", "show"], ["placement", "plan"], ["status"]):
        done = subprocess.run(
            [sys.executable, "-m", "shoal", *arguments, "--home", str(site.home.root)],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        assert max(map(len, done.stdout.splitlines())) <= 80, done.stdout
        if arguments != ["placement", "plan"]:
            assert "simulated" in done.stdout or arguments == ["placement", "show"], done.stdout


def test_placement_is_explained_and_applied_on_demand(site: Site) -> None:
    def shoal(*arguments: str) -> Any:
        done = subprocess.run(
            [sys.executable, "-m", "shoal", "placement", *arguments, "--home", str(site.home.root), "--json"],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    [row] = [r for r in shoal("explain", site.task.name)["specialists"] if r["key"] == site.version.key]
    assert row["node"] == "head" and row["reasons"]
    assert {node for node, _ in row["rejected"]} == {"cloud-1", "edge-1"}
    assert site.version.key in shoal("apply")["decision"]["assignments"]
    site.wait_until(site.served_by_specialist, within_s=20)


def test_every_answer_is_in_the_traces_and_becomes_readable(site: Site) -> None:
    trace_id = site.ask("My colleague reported: bug. What now?").headers["X-Shoal-Trace-Id"]
    assert trace_id in site.kept_traces()
    from shoal.agents.traces.store import ParquetTraceStore
    from shoal.agents.traces.trace import TraceId

    store = ParquetTraceStore(site.home)
    site.wait_until(lambda: store.get(TraceId(trace_id)) is not None, within_s=25)


def test_feedback_is_kept(site: Site) -> None:
    trace_id = site.ask("My colleague reported: bug. What now?").headers["X-Shoal-Trace-Id"]
    said = httpx.post(f"{site.url}/v1/feedback", json={"trace_id": trace_id, "score": -1})
    assert said.status_code < 300
    assert [f["score"] for f in site.registry.feedback(trace_id)] == [-1]


def test_the_status_command_exits_with_0_and_prints_one_json_object(site: Site) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "shoal", "status", "--home", str(site.home.root), "--json"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["up"] is True


def test_a_site_of_three_simulated_nodes_takes_less_than_three_gigabytes(
    site: Site,
) -> None:
    found = site_status(site.home, site.config)
    assert sum(process["memory_mb"] for process in found["processes"]) < 3072
