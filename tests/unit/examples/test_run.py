from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
import yaml

from shoal.config import GeneralistConfig, load_config
from shoal.examples.sales_report import rounds, run
from shoal.examples.sales_report.agent import sales_report
from shoal.examples.sales_report.scoring import Part
from shoal.home import Home

SCALE = rounds.Scale(seed=7, log_questions=60, unseen_questions=21)
GENERALIST = GeneralistConfig(base_url="http://127.0.0.1:1/v1", model="big", outputs_may_train=True)


def test_taken_ports_are_avoided() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert not run._is_free(taken.getsockname()[1])
    http, grpc = run.choose_ports()
    assert http != grpc and run._is_free(http) and run._is_free(grpc)


def test_the_configuration_kept_in_the_home_is_the_one_that_was_used(tmp_path: Path) -> None:
    home = Home(tmp_path).create()
    config = run.demo_config(home, GENERALIST, SCALE)
    run.write_config(home, config)
    assert load_config(home.config) == config
    assert [path.name for path in config.plans] == ["sales-report.yaml"] and "sales_figures" in config.tools
    assert yaml.safe_load(home.config.read_text())["generalist"]["outputs_may_train"] is True


def test_the_stand_in_runs_only_as_long_as_it_is_needed() -> None:
    with run.stand_in(rounds.Scale(seed=1, latency_ms=1)) as generalist:
        assert (generalist.model, generalist.price_in, generalist.price_out) == (
            "stand-in-generalist",
            2.5,
            10,
        )
        assert run.ask_of_itself(generalist) == {"stand_in": True, "stated_latency_ms": 1.0}
        other = generalist.model_copy(update={"model": "big"})
        assert run.ask_of_itself(other) == {"stand_in": False}
    assert run.ask_of_itself(generalist) == {"stand_in": False}
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{generalist.base_url}/models")


def test_the_stand_in_ends_when_the_demo_is_killed_outright() -> None:
    code = (
        "import time\nfrom shoal.examples.sales_report import rounds, run\n"
        "with run.stand_in(rounds.Scale()) as g:\n    print(g.base_url, flush=True)\n    time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    base_url = process.stdout.readline().strip()
    assert httpx.get(f"{base_url}/models").status_code == 200
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            httpx.get(f"{base_url}/models")
        except httpx.HTTPError:
            return
        time.sleep(0.1)
    pytest.fail("the stand-in still answers")


async def test_the_generalists_own_plans_and_analyses_are_asked_past_the_site() -> None:
    class Silent:
        def say(self, text: str) -> None: ...

        def bar(self, text: str, total: int) -> object:
            return contextlib.nullcontext(lambda: None)

        def wait(self, text: str) -> object:
            return contextlib.nullcontext(lambda told: None)

    question = "Show me the main sales trends by region for last year."
    record = {
        "growth": 30,
        "price_effect": 1,
        "online": 20,
        "stores": 9,
        "partners": 0,
        "returns_rate": 1,
        "stock_out_days": 0,
    }
    parts = [
        Part(step="plan", given=question, said=None, performer="specialist/p@1"),
        Part(step="analyse", given=record, said=None, performer="specialist/a@1"),
        Part(step="write", given=record, said="x", performer="specialist/w@1"),
    ]
    with run.stand_in(rounds.Scale(seed=1, latency_ms=1)) as generalist:
        found = await rounds.ask_directly(generalist, parts, 2, Silent())  # type: ignore[arg-type]
    assert set(found) == {parts[0].key, parts[1].key}
    assert found[parts[1].key]["driver"] == "online sales"
    assert found[parts[0].key]["steps"][0]["input"]["period"] == "last year"


def test_the_unseen_questions_are_not_in_the_log() -> None:
    log = rounds.log_questions(SCALE)
    unseen = rounds.unseen_questions(SCALE, log)
    assert (len(log), len(unseen)) == (60, 21)
    assert not {q.text for q in log} & {q.text for q in unseen}


def test_the_agents_plan_can_be_read() -> None:
    plan = sales_report()
    assert (plan.name, plan.skills["write"].tier, plan.tools) == ("sales-report", "edge", ("sales_figures",))
