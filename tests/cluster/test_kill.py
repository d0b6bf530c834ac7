"""kill -9 under load: no acknowledged trace is lost, somebody answers soon, specialists come back, errors are clean."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from dataclasses import dataclass

import httpx
import pytest
from load import Got, Load
from running_site import Site

from shoal import AsyncClient
from shoal.agents.plans.store import SqlRuns
from shoal.serve.site_status import site_status

pytestmark = pytest.mark.cluster

QUESTION = {"question": "Analyze last quarter's sales data and highlight key trends by region."}

_BEFORE_S = 2.0
_SPECIALISTS_WITHIN_S = 15.0


@dataclass(frozen=True)
class Outcome:
    """What clients saw of a kill; times in seconds after it."""

    got: list[Got]
    killed_at: float

    @property
    def after(self) -> list[Got]:
        return [g for g in self.got if g.until >= self.killed_at]

    @property
    def next_answer_s(self) -> float:
        """When the first call that was sent after the kill was answered."""
        return min(g.until for g in self.got if g.ok and g.at >= self.killed_at) - self.killed_at

    @property
    def specialist_s(self) -> float:
        """When a specialist answered a call that was sent after the kill."""
        answers = [g for g in self.got if g.ok and g.at >= self.killed_at and is_specialist(g)]
        return min(g.until for g in answers) - self.killed_at

    @property
    def longest_s(self) -> float:
        return max(g.until - g.at for g in self.after)

    def line(self, what: str) -> str:
        bad = sum(not g.ok for g in self.got)
        return (
            f"{what}: next answer {self.next_answer_s:.2f} s, specialist {self.specialist_s:.2f} s, "
            f"longest call {self.longest_s:.2f} s, {bad} of {len(self.got)} calls failed"
        )


def is_specialist(got: Got) -> bool:
    return got.served_by.startswith("specialist/")


async def kill(site: Site, name: str) -> Outcome:
    """Kill the process under load, and keep calling until a new one of the name has answered again, or time is up."""
    await asyncio.to_thread(site.wait_until, site.served_by_specialist, within_s=20)
    async with Load(site.url) as load:
        await asyncio.sleep(_BEFORE_S)
        old = site.pid(name)
        killed_at = time.monotonic()
        os.kill(old, signal.SIGKILL)
        while time.monotonic() - killed_at < _SPECIALISTS_WITHIN_S:
            await asyncio.sleep(0.25)
            if await asyncio.to_thread(_is_back, site, name, old, load, killed_at):
                break
        await asyncio.sleep(1)
    return Outcome(got=load.got, killed_at=killed_at)


def _is_back(site: Site, name: str, old: int, load: Load, killed_at: float) -> bool:
    try:
        new = site.pid(name)
    except StopIteration:
        return False
    # a call that was sent well after the kill: what was already under way when it came does not count
    answered = any(is_specialist(g) and g.at > killed_at + 0.5 for g in load.got)
    return new != old and answered


def check_clean(outcome: Outcome) -> None:
    """Every failure is a broken connection or an error of OpenAI's shape."""
    for got in outcome.got:
        if got.ok or got.status == 0:
            continue
        assert got.status in (500, 502, 503, 504), got
        assert json.loads(got.body)["error"]["message"], got


def check_nothing_lost(site: Site, outcome: Outcome) -> None:
    kept = site.kept_traces()
    acknowledged = {g.trace_id for g in outcome.got if g.ok}
    assert acknowledged
    assert acknowledged - kept == set()


async def test_the_death_of_a_specialist_replica_costs_no_answer(site: Site) -> None:
    outcome = await kill(site, "shoal-host-head:")
    print(outcome.line("specialist replica"))
    check_nothing_lost(site, outcome)
    check_clean(outcome)
    assert outcome.next_answer_s < 2
    assert all(g.ok for g in outcome.got)
    assert outcome.longest_s < 3
    assert outcome.specialist_s < _SPECIALISTS_WITHIN_S


async def test_the_death_of_the_router_actor_is_not_noticed_by_any_call(site: Site) -> None:
    outcome = await kill(site, "RouterActor")
    print(outcome.line("router actor"))
    check_nothing_lost(site, outcome)
    assert all(g.ok for g in outcome.got)
    assert outcome.next_answer_s < 2
    assert outcome.specialist_s < 2


async def test_the_gateway_is_back_within_ten_seconds_of_its_death_and_errors_are_clean(site: Site) -> None:
    outcome = await kill(site, "shoal-gateway:")
    print(outcome.line("gateway replica"))
    check_nothing_lost(site, outcome)
    check_clean(outcome)
    assert outcome.next_answer_s < 10
    assert outcome.specialist_s < _SPECIALISTS_WITHIN_S


async def test_a_router_that_was_killed_still_takes_changes_once_it_is_back(site: Site) -> None:
    from shoal.agents.registry.records import VersionState

    os.kill(site.pid("RouterActor"), signal.SIGKILL)
    site.registry.set_state(site.version.key, VersionState.PAUSED, reason="test")
    await asyncio.to_thread(site.wait_until, lambda: not site.served_by_specialist(), within_s=15)
    site.registry.set_state(site.version.key, VersionState.SERVING, reason="test")
    await asyncio.to_thread(site.wait_until, site.served_by_specialist, within_s=15)


@pytest.mark.parametrize(
    "name", ["PlacementActor", "FeedbackActor", "NodeMonitor", "ToolHost", "ServeController", "haproxy"]
)
async def test_the_death_of_what_no_call_waits_for_is_hardly_noticed(site: Site, name: str) -> None:
    """HAProxy stands on the way of calls: those that come before it is back break off, or get a clean 503."""
    if name == "ToolHost":
        run = httpx.post(
            f"{site.url}/v1/plans/sales-report/runs", json={"input": QUESTION, "stream": True}, timeout=60
        )
        run.raise_for_status()
    outcome = await kill(site, name)
    print(outcome.line(name))
    check_nothing_lost(site, outcome)
    check_clean(outcome)
    # HAProxy is the way to the gateway: without it the gateway is down
    assert outcome.next_answer_s < (10 if name == "haproxy" else 2)
    assert outcome.specialist_s < 30
    if name != "haproxy":
        assert all(g.ok for g in outcome.got)
    back = await asyncio.to_thread(site.wait_until, lambda: whole(site), within_s=30)
    print(f"{name}: all there again after {back:.1f} s")


def whole(site: Site) -> bool:
    """Every actor says how it is, every node has telemetry, and what should be loaded is."""
    found = site_status(site.home, site.config)
    nodes = found["nodes"]
    return (
        found["router"] is not None
        and not found["router"]["trouble"]
        and set(found["router"]["wanted"]) <= set(found["router"]["loaded"])
        and found["placement"] is not None
        and found["placement"]["age_s"] < 3
        and all(node["busy"] is not None for node in nodes if node["alive"])
        and len([node for node in nodes if node["alive"]]) >= 3
        and found["feedback"] is not None
    )


async def test_a_run_whose_router_is_killed_goes_on_and_does_nothing_twice_that_was_kept(site: Site) -> None:
    store = SqlRuns(site.registry.database)
    slow = {
        "name": "slow",
        "steps": [
            {
                "id": "a",
                "use": "generalist",
                "system": "Sort slowly.",
                "each": "$input.texts",
                "input": "$item",
            },
            {"id": "b", "use": "auto", "system": "Say.", "input": {"all": "$a"}},
        ],
        "result": {"a": "$a", "b": "$b"},
    }
    texts = ["my invoice", "the parcel", "a crash"] * 40
    async with AsyncClient(site.url) as client:
        run_id = ""
        seen = []
        killed: dict[int, str] = {}
        async for event in client.plans.run("slow", {"texts": texts}, plan=slow):
            seen.append(event)
            run_id = event["run_id"]
            if event["type"] == "step_started" and event["step"] == "a":
                killed = await asyncio.to_thread(_thirty_parts, store, run_id)
                os.kill(site.pid("RouterActor"), signal.SIGKILL)
        run = await client.plans.get(run_id)
    assert run["status"] == "done", run["error"]
    assert run["output"]["a"] == ["billing", "shipping", "technical"] * 40
    after = {part.part: part.performed.trace_id for part in store.load(run_id).parts if part.step == "a"}
    assert len(killed) >= 30
    assert {part: after[part] for part in killed} == killed, "a part that was kept was done again"
    assert [e["seq"] for e in seen] == list(range(1, len(seen) + 1)), "an event came twice, or never"
    assert [e["type"] for e in seen].count("step_done") == 2


def _thirty_parts(store: SqlRuns, run_id: str) -> dict[int, str]:
    """Wait until thirty parts of a run are kept; the trace of each."""
    for _ in range(400):
        kept = {part.part: part.performed.trace_id for part in store.load(run_id).parts}
        if len(kept) >= 30:
            return kept
        time.sleep(0.05)
    raise TimeoutError(run_id)
