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
