"""The host of plans, asked while it starts: a run that is only not yet driven again must not look as if it had ended."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from shoal.agents.plans.plan import parse_plan
from shoal.agents.plans.runs import RunRow
from shoal.agents.plans.store import SqlRuns
from shoal.agents.registry.database import Database
from shoal.agents.registry.keys import SqlKeys
from shoal.agents.registry.records import OutputKind, TaskId
from shoal.agents.routing.snapshot import Route, Snapshot
from shoal.config import Config
from shoal.home import Home
from shoal.serve.plan_host import PlanHost

PLAN = parse_plan(
    {"name": "p", "steps": [{"id": "a", "use": "auto", "input": "$input.q", "retries": 0}], "result": "$a"},
    source="t",
)


async def test_a_host_that_starts_again_goes_on_with_a_run_before_it_says_that_it_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(self: SqlRuns) -> list[str]:
        time.sleep(0.5)
        return real(self)

    real = SqlRuns.running
    monkeypatch.setattr(SqlRuns, "running", slow)
    home = Home(tmp_path)
    row = RunRow(id="r", plan=PLAN, input={"q": "x"}, label="public", caller="local", created_at=1.0)
    SqlRuns(Database(home.database)).create(row)
    host = PlanHost(home, Config())
    seen: list[dict[str, Any]] = []
    while not seen or seen[-1]["type"] != "run_failed":
        after = seen[-1]["seq"] if seen else 0
        said = (await host.answer("events", {"run_id": "r", "after": after, "wait_s": 5.0}))["ok"]
        assert said["events"] or not said["ended"], "told that the run ended, without its end"
        seen += said["events"]
    assert (await host.answer("get", {"run_id": "r"}))["ok"]["status"] == "failed"


async def test_a_start_that_is_asked_twice_at_once_starts_one_run(tmp_path: Path) -> None:
    host = PlanHost(Home(tmp_path), Config())
    asked = {"run_id": "r", "name": "p", "input": {"q": "x"}, "privacy": "public", "caller": "local"}
    said = await asyncio.gather(*(host.answer("start", {**asked, "plan": PLAN.to_dict()}) for _ in range(4)))
    assert said == [{"ok": "r"}] * 4


async def test_a_caller_sees_and_changes_its_own_runs_only(tmp_path: Path) -> None:
    host = PlanHost(Home(tmp_path), Config())
    for run_id, caller in (("r1", "key-a"), ("r2", "key-b")):
        asked = {"run_id": run_id, "name": "p", "input": {"q": "x"}, "privacy": "public", "caller": caller}
        assert await host.answer("start", {**asked, "plan": PLAN.to_dict()}) == {"ok": run_id}
    for what, more in (("get", {}), ("cancel", {}), ("resume", {}), ("events", {"after": 0, "wait_s": 0.1})):
        said = await host.answer(what, {"run_id": "r1", "owner": "key-b", **more})
        assert said["error"]["code"] == "not_found", what
        assert "ok" in await host.answer(what, {"run_id": "r1", "owner": "key-a", **more})
    listed = {
        owner: [run["id"] for run in (await host.answer("runs", {"limit": 9, "owner": owner}))["ok"]]
        for owner in ("key-a", "key-b", "")
    }
    assert listed == {"key-a": ["r1"], "key-b": ["r2"], "": ["r2", "r1"]}


async def test_a_snapshot_that_comes_while_the_host_starts_is_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(self: SqlRuns) -> list[str]:
        time.sleep(0.5)
        return []

    monkeypatch.setattr(SqlRuns, "running", slow)
    host = PlanHost(Home(tmp_path), Config())
    time.sleep(0.2)
    route = Route(task_id=TaskId("t"), name="sort", output_kind=OutputKind.LABEL, match={}, performers=())
    snapshot = Snapshot(epoch=7, routes=(route,))
    host.take({"snapshot": snapshot.to_dict(), "where": {}, "places": {}, "token": "t"})
    assert (await host.answer("names", {}))["ok"]  # it has started
    await asyncio.sleep(0.05)
    router = host._site.follower.router
    assert router is not None and router.snapshot.epoch == 7


async def test_a_run_stops_spending_when_its_key_is_revoked(tmp_path: Path) -> None:
    home = Home(tmp_path)
    keys = SqlKeys(Database(home.database))
    record, _ = keys.create("k", ("plans",))
    keys.revoke(record.id)
    host = PlanHost(home, Config())
    asked = {"run_id": "r", "name": "p", "input": {"q": "x"}, "privacy": "public", "caller": record.id}
    await host.answer("start", {**asked, "plan": PLAN.to_dict()})
    view = {"status": "running"}
    while view["status"] == "running":
        view = (await host.answer("get", {"run_id": "r"}))["ok"]
        await asyncio.sleep(0.02)
    assert view["error"]["code"] == "invalid_api_key"


async def test_a_snapshot_that_names_an_application_which_is_not_deployed_yet_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a restart the last placement is known before anything is deployed."""
    asked = []

    def handle(name: str, app_name: str) -> Any:
        asked.append(app_name)
        raise KeyError(f"Deployment(name={name!r}, app={app_name!r}) does not exist")

    monkeypatch.setattr("shoal.serve.deployer.serve.get_deployment_handle", handle)
    where = {"t@1": "shoal-host-head"}
    monkeypatch.setattr(
        "shoal.serve.plan_host.first_snapshot", lambda *_: (Snapshot(epoch=1, routes=()), where, {})
    )
    host = PlanHost(Home(tmp_path), Config())
    assert (await host.answer("names", {}))["ok"]
    assert asked, "it is looked for"
    host.close()


async def test_a_plan_that_uses_a_tool_which_is_not_here_is_refused_before_it_costs_anything(
    tmp_path: Path,
) -> None:
    plan = {**PLAN.to_dict(), "steps": [{"id": "a", "use": "tool/look", "input": {}}]}
    asked = {"run_id": "r", "name": "p", "input": {}, "privacy": "public", "caller": "local", "plan": plan}
    said = await PlanHost(Home(tmp_path), Config()).answer("start", asked)
    assert said["error"]["param"] == "steps.0.use" and "tool/look" in said["error"]["message"]
