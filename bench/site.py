"""A running site beside its own learning: how much slower a call is while a language model is trained on the last core.

Needs no data of others: the demo makes the log, and its stand-in answers for the large model. Load is closed: each client has one call under
way. The learner is stopped and let go on by turns of a few seconds, so that whatever else the machine does falls on both alike.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml
from _bench import Bench, main

from shoal.config import load_config
from shoal.examples.sales_report.agent import sales_report
from shoal.examples.sales_report.rounds import Scale
from shoal.examples.sales_report.run import DATABASE, stand_in
from shoal.examples.sales_report.tools import sales_figures
from shoal.home import Home
from shoal.serve.site import start_site, stop_site

SECONDS = 15.0
SLICE_S = 2.5
CLIENTS = (1, 4)
COMMAND = "make bench-site"


def bodies(database: Path) -> list[dict[str, Any]]:
    """Calls of the demo's analyst, each a record of its own."""
    system = sales_report().skills["analyse"].system
    records = [
        record
        for period in ("2025-Q1", "2025-Q2", "2025-Q3")
        for by in ("region", "product")
        for record in sales_figures({"period": period, "by": by, "top": 10}, {"database": str(database)})[
            "records"
        ]
    ]
    return [
        {
            "model": "auto",
            "temperature": 0,
            "messages": [
                {"role": "system", "content": system},
                {"role": "user", "content": json.dumps(record)},
            ],
        }
        for record in records
    ]


async def latencies(url: str, asked: list[dict[str, Any]], clients: int, seconds: float) -> list[float]:
    """Milliseconds of the calls that specialists answered."""
    found: list[float] = []
    ends = time.monotonic() + seconds

    async def client(number: int) -> None:
        async with httpx.AsyncClient(base_url=url, timeout=30) as http:
            at = number
            while time.monotonic() < ends:
                at += 1
                started = time.perf_counter()
                answer = await http.post("/v1/chat/completions", json=asked[at % len(asked)])
                if answer.headers.get("X-Shoal-Served-By", "").startswith("specialist/"):
                    found.append(1000 * (time.perf_counter() - started))

    await asyncio.gather(*(client(number) for number in range(clients)))
    return found


def training(url: str) -> bool:
    running = httpx.get(f"{url}/v1/learning", timeout=10).json().get("running")
    return bool(running) and "micro_lm" in str(running.get("text"))


def run(bench: Bench) -> None:
    seconds = 5.0 if bench.arguments.quick else SECONDS
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as folder, stand_in(Scale()) as generalist:
        home = Home(Path(folder) / "home")
        subprocess.run([sys.executable, "-m", "shoal", "demo", "--home", str(home.root)], check=False)
        data = yaml.safe_load(home.config.read_text(encoding="utf-8"))
        # another seed, so that all is learnt anew
        data |= {
            "generalist": generalist.model_dump(exclude_defaults=True),
            "learning": {"seed": 1, "min_calls": 80},
        }
        home.config.write_text(yaml.safe_dump(data), encoding="utf-8")
        started = start_site(home, load_config(home.config), nodes={"edge": 1, "local": 1})
        url, asked = started.record.url, bodies(home.root / DATABASE)
        try:
            asyncio.run(latencies(url, asked, 1, 3))  # warm
            measure(bench, url, asked, seconds)
        finally:
            stop_site(home)


def learner() -> psutil.Process:
    """The process that learns."""
    return next(
        p for p in psutil.process_iter() if any("shoal.serve.learn_job" in word for word in _words(p))
    )


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def measure(bench: Bench, url: str, asked: list[dict[str, Any]], seconds: float) -> None:
    httpx.post(f"{url}/v1/learning", json={}, timeout=30).raise_for_status()
    deadline = time.monotonic() + 240
    while not training(url):
        if time.monotonic() > deadline:
            bench.skip([f"p50_while_learning_{n}" for n in CLIENTS], "no language model was trained in time")
            return
        time.sleep(0.3)
    process = learner()
    bench.say(f"the learner has nice {process.nice()} and core {process.cpu_affinity()}")
    idle: dict[int, list[float]] = {n: [] for n in CLIENTS}
    busy: dict[int, list[float]] = {n: [] for n in CLIENTS}
    for _ in range(max(2, int(seconds / SLICE_S))):
        for n in CLIENTS:
            process.suspend()
            idle[n] += asyncio.run(latencies(url, asked, n, SLICE_S))
            process.resume()
            time.sleep(0.3)
            busy[n] += asyncio.run(latencies(url, asked, n, SLICE_S))
    if not training(url):
        bench.say("training ended before the measurement did: the figures flatter")
    for n in CLIENTS:
        bench.figure(f"idle_p50_{n}", statistics.median(idle[n]), f"ms, {n} at once", command=COMMAND)
        bench.figure(f"learning_p50_{n}", statistics.median(busy[n]), f"ms, {n} at once", command=COMMAND)
        ratio = statistics.median(busy[n]) / statistics.median(idle[n])
        bench.figure(f"p50_while_learning_{n}", ratio, "times idle", at_most=1.3, command=COMMAND)


if __name__ == "__main__":
    main("site", __doc__ or "", run)
