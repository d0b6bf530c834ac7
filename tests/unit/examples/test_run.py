from __future__ import annotations

import asyncio
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
from shoal.errors import GeneralistUnavailable
from shoal.examples.sales_report import calls, run
from shoal.examples.sales_report.prompts import ANALYSE, CALL_SITES, WRITE
from shoal.examples.sales_report.records import record_key
from shoal.examples.sales_report.scoring import Row
from shoal.home import Home

SCALE = calls.Scale(seed=7, log_calls=60, unseen_calls=21)
GENERALIST = GeneralistConfig(base_url="http://127.0.0.1:1/v1", model="big", outputs_may_train=True)


def test_the_log_mixes_both_call_sites_and_no_unseen_call_is_in_it() -> None:
    log = calls.log_calls(SCALE)
    unseen = calls.unseen_calls(SCALE, log)
    assert [sum(c.call_site == site for c in log) for site in CALL_SITES] == [60, 60]
    assert len({c.call_site for c in log[:12]}) == 2 and not any(c.novel for c in log)
    for site in CALL_SITES:
        mine = [c for c in unseen if c.call_site == site]
        assert (len(mine), sum(c.novel for c in mine)) == (21, 10)
        seen = {record_key(c.record) for c in log if c.call_site == site}
        assert not seen & {record_key(c.record) for c in mine}
    assert calls.log_calls(SCALE) == log and calls.unseen_calls(SCALE, log) == unseen


def test_novel_calls_have_only_names_that_the_log_never_had() -> None:
    log = calls.log_calls(calls.Scale(seed=1, log_calls=400))
    names = {
        str(c.record[field]) for c in log for field in ("region", "product", "driver") if field in c.record
    }
    for call in calls.unseen_calls(SCALE, log):
        fields = ("region", "driver") if call.call_site == WRITE else ("region", "product")
        assert call.novel == (not names & {call.record[field] for field in fields}), call


def test_taken_ports_are_avoided() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert not run._is_free(taken.getsockname()[1])
    http, grpc = run.choose_ports()
    assert http != grpc and run._is_free(http) and run._is_free(grpc)


def test_the_configuration_kept_in_the_home_is_the_one_that_was_used(tmp_path: Path) -> None:
    home = Home(tmp_path).create()
    config = run.demo_config(GENERALIST, SCALE)
    run.write_config(home, config)
    assert load_config(home.config) == config
    assert yaml.safe_load(home.config.read_text())["generalist"]["outputs_may_train"] is True


async def test_calls_run_at_once_up_to_the_limit_and_a_failure_is_a_row() -> None:
    made = calls.log_calls(SCALE)[:30]
    under_way = most = 0

    async def ask(call: calls.Called) -> Row:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.002)
        under_way -= 1
        if call is made[3]:
            raise GeneralistUnavailable("gone.")
        return Row(call_site=call.call_site, record=call.record, answer="x", served_by="generalist/big")

    steps: list[int] = []
    rows = await calls.ask_all(made, ask, 4, lambda: steps.append(1))
    assert most == 4 and len(steps) == 30
    assert [row.record for row in rows] == [call.record for call in made]
    assert (rows[3].answer, rows[3].error) == (None, "gone.")
    assert all(row.latency_ms >= 1 for row in rows)


def test_the_stand_in_runs_only_as_long_as_it_is_needed() -> None:
    with run.stand_in(calls.Scale(seed=1, latency_ms=1)) as generalist:
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
        "import time\nfrom shoal.examples.sales_report import calls, run\n"
        "with run.stand_in(calls.Scale()) as g:\n    print(g.base_url, flush=True)\n    time.sleep(60)\n"
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


async def test_the_generalists_own_answers_are_asked_past_the_site() -> None:
    class Silent:
        def say(self, text: str) -> None: ...

        def bar(self, text: str, total: int) -> object:
            import contextlib

            return contextlib.nullcontext(lambda: None)

        def wait(self, text: str) -> object:
            raise NotImplementedError

    made = calls.log_calls(SCALE)[:6]
    with run.stand_in(calls.Scale(seed=1, latency_ms=1)) as generalist:
        rows = await calls.ask_directly(generalist, made, 2, Silent())  # type: ignore[arg-type]
    assert all(row.answer and not row.by_specialist and row.prompt_tokens > 10 for row in rows)
    assert {row.call_site for row in rows} <= {ANALYSE, WRITE}
