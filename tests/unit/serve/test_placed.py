"""Where things run, as the serving room sees it: privacy of calls by place, tools by label, nodes and placement for people."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest

from shoal.agents.plans.tools import tool
from shoal.agents.ports import SpecialistAnswer
from shoal.agents.traces.chat import ChatRequest
from shoal.config import parse_config
from shoal.errors import ConfigError, PrivacyViolation, SiteError, SpecialistUnavailable, UsageError
from shoal.nodes.telemetry import Gpu, Gpus, GpuState
from shoal.serve.call import LOCAL_CALLER, CallContext
from shoal.serve.nodes_status import gpu_text, nodes_table, read_placement
from shoal.serve.plan_host import read_plans, read_tools
from shoal.serve.plan_performer import OwnTool, ServicePerformer
from shoal.serve.ports import Place
from shoal.serve.ray_local import LocalRay, SitePorts, node_job
from shoal.serve.ray_tools import host_name, selectors
from shoal.serve.site import checked_nodes
from shoal.serve.tool_host import AT_ONCE, ToolHost

PRIVATE = CallContext(privacy="local-only")


def request(model: str = "auto") -> ChatRequest:
    messages = [{"role": "system", "content": "[triage] Do it."}, {"role": "user", "content": "a"}]
    return ChatRequest(body={"model": model, "messages": messages})


@pytest.mark.parametrize(("tier", "served"), [("edge", True), ("local", True), ("cloud", False), ("", False)])
async def test_a_specialist_gets_local_only_data_only_where_that_may_be(
    bench: Any, tier: str, served: bool
) -> None:
    bench.specialists.place = Place(node="n", tier=tier)
    if served:
        assert (await bench.service.chat(request(), LOCAL_CALLER, PRIVATE)).served_by == "specialist/triage@3"
        return
    with pytest.raises(PrivacyViolation):
        await bench.service.chat(request(), LOCAL_CALLER, PRIVATE)
    with pytest.raises(PrivacyViolation, match=r"placement\.tier"):
        await bench.service.chat(request("specialist/triage"), LOCAL_CALLER, PRIVATE)
    assert bench.specialists.asked == []
    assert (await bench.service.chat(request(), LOCAL_CALLER)).served_by == "specialist/triage@3"


async def test_an_answer_says_where_it_was_made(bench: Any) -> None:
    bench.specialists.functions["t1@3"] = lambda r: SpecialistAnswer(
        content="x", confidence=0.9, node="edge-1", tier="edge"
    )
    served = await bench.service.chat(request(), LOCAL_CALLER)
    assert (served.node, served.tier) == ("edge-1", "edge")
    other = await bench.service.chat(request("generalist"), LOCAL_CALLER)
    assert (other.node, other.tier) == ("node-a", "local")


def test_a_tier_is_a_wish_and_privacy_is_none() -> None:
    assert selectors("", keep_local=False) == ({}, [])
    assert selectors("edge", keep_local=False) == ({"shoal-tier": "edge"}, [{}])
    assert selectors("edge", keep_local=True) == ({"shoal-tier": "edge"}, [{"shoal-tier": "in(edge,local)"}])
    assert (
        selectors("cloud", keep_local=True)
        == selectors("", keep_local=True)
        == ({"shoal-tier": "in(edge,local)"}, [])
    )
    names = {host_name(tier, keep_local=private) for tier in ("", "edge") for private in (True, False)}
    assert len(names) == 4


async def test_what_a_tool_raises_comes_back_as_text() -> None:
    host = ToolHost(Place(node="n", tier="edge"))
    path = "shoal.examples.sales_report.tools:sales_figures"
    said = await host.call(path, {"database": "/none"}, {"period": "2025-Q1", "by": "region"})
    assert "no sales database" in said["error"] and said["tier"] == "edge"
    assert "no tool" in (await host.call("shoal.errors:none", {}, {}))["error"]


def test_configured_tools_and_plans_are_checked_with_their_path(tmp_path: Path) -> None:
    wrong = parse_config({"tools": {"x": {"python": "shoal.errors:ShoalError"}}}, source="t")
    with pytest.raises(ConfigError, match=r"tools\.x\.python"):
        read_tools(wrong)
    (tmp_path / "p.yaml").write_text("name: p\nsteps: []\nresult: 1\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"p\.yaml"):
        read_plans(parse_config({"plans": [str(tmp_path / "p.yaml")]}, source="t"))
    with pytest.raises(ConfigError, match="cannot be read"):
        read_plans(parse_config({"plans": [str(tmp_path / "none.yaml")]}, source="t"))


def test_the_counts_of_nodes_include_this_machine() -> None:
    ports = SitePorts(gcs=1, metrics=2, statistics=3, fallback=4, dashboard=5, agent=6, client=7)
    common: dict[str, Any] = {"site_id": "x", "folder": Path("/f"), "token_path": Path("/t"), "ports": ports}
    ray = LocalRay(
        **common, num_cpus=2, memory_mb=100, tier="local", nodes={"cloud": 1, "edge": 2, "local": 1}
    )
    assert [(n.name, n.tier) for n in ray.further_nodes()] == [
        ("cloud-1", "cloud"),
        ("edge-1", "edge"),
        ("edge-2", "edge"),
    ]
    job = node_job(ray, ray.further_nodes()[1], (7, 8, 9))
    assert job["node_ip_address"] == "127.0.0.1"
    assert job["labels"] == {"shoal-tier": "edge", "shoal-node": "edge-1", "shoal-simulated": "1"}
    assert LocalRay(**common, num_cpus=2, memory_mb=100, tier="local").further_nodes() == []


@pytest.mark.parametrize("nodes", [{"space": 1}, {"edge": 9}, {"edge": -1}])
def test_counts_that_make_no_sense_are_refused(nodes: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="cloud, edge, local"):
        checked_nodes(nodes, joins=False)
    with pytest.raises(UsageError, match="--address"):
        checked_nodes({"edge": 1}, joins=True)


def test_gpus_are_told_and_their_absence_is_named() -> None:
    gpu = Gpu(
        index=0,
        name="H100",
        memory_total_mb=81920,
        memory_free_mb=40960,
        utilisation=0.5,
        power_watts=300.0,
        temperature_celsius=40.0,
    )
    assert gpu_text(Gpus(state=GpuState.PRESENT, devices=(gpu,))) == "H100 50% 300 W, 40 of 80 GB free"
    assert gpu_text(Gpus(state=GpuState.NO_DRIVER)) == "no driver"
    assert gpu_text(Gpus(state=GpuState.NO_DEVICE)) == "no device"
    assert gpu_text(None) == "no telemetry yet"


def test_without_a_placement_actor_the_command_says_so(tmp_path: Path) -> None:
    with pytest.raises(SiteError, match="shoal up"):
        read_placement(tmp_path / "none.json")
    nothing = {"nodes": [], "decision": {"assignments": {}, "unplaced": {}}, "at": 1.0}
    (tmp_path / "placement.json").write_text(json.dumps(nothing), encoding="utf-8")
    assert nodes_table(read_placement(tmp_path / "placement.json")) == []


async def test_a_specialist_that_is_away_for_data_that_nobody_else_may_see_is_worth_another_try(
    bench: Any,
) -> None:
    def away(asked: ChatRequest) -> SpecialistAnswer:
        raise SpecialistUnavailable("it is restarted")

    bench.specialists.functions["t1@3"] = away
    bench.specialists.place = Place(node="n", tier="edge")
    with pytest.raises(SpecialistUnavailable, match="nobody else may"):
        await bench.service.chat(request(), LOCAL_CALLER, PRIVATE)
    assert (await bench.service.chat(request(), LOCAL_CALLER)).served_by.startswith("generalist/")


@pytest.mark.parametrize(("tier", "good"), [("edge", True), ("local", True), ("cloud", False), ("", False)])
async def test_what_a_tool_says_of_local_only_data_is_taken_from_edge_and_local_nodes_only(
    bench: Any, tier: str, good: bool
) -> None:
    class Somewhere:
        async def call(self, own: OwnTool, arguments: Any, **more: Any) -> tuple[Any, Place]:
            return "x", Place(node="n", tier=tier)

    made = tool(description="stays", reach="node")(lambda arguments, options: "x")
    own = OwnTool(path="m:t", tool=made, options={}, tier="")
    performer = ServicePerformer(bench.service, {"t": own}, Somewhere(), dict)
    if good:
        assert (await performer.call_tool("t", {}, privacy="local-only", tier="", deadline_s=1)).tier == tier
        return
    with pytest.raises(PrivacyViolation):
        await performer.call_tool("t", {}, privacy="local-only", tier="", deadline_s=1)


async def test_tools_that_hang_leave_room_for_others() -> None:
    host = ToolHost(Place(node="n", tier="edge"))
    path = "tests.unit.serve.test_placed:hang"
    hung = [asyncio.create_task(host.call(path, {"s": 1.5}, {})) for _ in range(AT_ONCE - 1)]
    await asyncio.sleep(0.1)
    started = time.monotonic()
    assert (await host.call(path, {"s": 0.0}, {}))["output"] == "slept"
    assert time.monotonic() - started < 1
    await asyncio.gather(*hung)


@tool(description="takes its time")
def hang(arguments: dict[str, Any], options: dict[str, Any]) -> Any:
    time.sleep(options["s"])
    return "slept"
