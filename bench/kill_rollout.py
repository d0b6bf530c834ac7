"""Kill -9 in the middle of roll-outs: the feedback actor, the router actor and whoever writes the registry, on a running site.

A site of its own learns to sort tickets (`tests/cluster/tickets.py`); a stand-in answers for the large model and now and then changes its
mind, so that contracts break. A process trains versions and has the owner's say; clients call, and give feedback. With `--kills N` one of
the three is killed at a random moment (seeded), N times; Ray starts the actors again, the bench the process. Afterwards the durable history
is checked: no state skipped, no two verdicts in one epoch, no version stands elsewhere than its history says, and every comparison that the
gateway made and every feedback that it acknowledged is in the database once.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
from _bench import Bench, main
from sqlalchemy import func, select

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "cluster"))

import tickets

from shoal.agents.registry import tables as t
from shoal.agents.registry.lifecycle import history_faults
from shoal.agents.registry.records import VersionState
from shoal.agents.registry.store import SqlRegistry
from shoal.config import Config
from shoal.home import Home
from shoal.serve.processes import describe, free_ports
from shoal.serve.site import alive_processes, start_site, stop_site

SEED = 41
CLIENTS = 4
ACTORS = ("FeedbackActor", "RouterActor")
#: after a kill, until the next one
PAUSE_S = (0.5, 5.0)


def spawn(*words: str) -> subprocess.Popen[bytes]:
    """`_rollouts.py` in a process of its own."""
    return subprocess.Popen([sys.executable, str(Path(__file__).with_name("_rollouts.py")), *words])


@dataclass
class Writer:
    """The process that writes, started anew after each death."""

    home: Home
    process: subprocess.Popen[bytes] | None = None
    deaths: int = 0

    def start(self) -> None:
        self.process = spawn("writer", str(self.home.root), str(SEED + self.deaths))

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self.deaths += 1


async def load(url: str, stop: asyncio.Event) -> tuple[Counter[str], list[str]]:
    """Calls until `stop`: how many were answered and failed; ids of the traces whose feedback was acknowledged."""
    calls: Counter[str] = Counter()
    told: list[str] = []

    async def client(number: int) -> None:
        chance = random.Random(number)
        async with httpx.AsyncClient(base_url=url, timeout=30) as http:
            while not stop.is_set():
                with contextlib.suppress(httpx.HTTPError):
                    body = tickets.body(tickets.ticket(chance)[0])
                    answer = await http.post("/v1/chat/completions", json=body)
                    calls["answered" if answer.is_success else "failed"] += 1
                    if answer.is_success and chance.random() < 0.1:
                        said = {"trace_id": answer.headers["X-Shoal-Trace-Id"], "score": 1}
                        if (await http.post("/v1/feedback", json=said)).is_success:
                            told.append(said["trace_id"])
                await asyncio.sleep(0.02)

    await asyncio.gather(*(client(number) for number in range(CLIENTS)))
    return calls, told


def compared(url: str) -> int:
    """Comparisons that the gateway has made, by its own count."""
    text = httpx.get(f"{url}/metrics", timeout=10).text
    found = re.findall(
        r'^shoal_comparisons_total\{[^}]*outcome="(?:agrees|differs)"[^}]*\} (\S+)$', text, re.M
    )
    return int(sum(float(value) for value in found))


def counted(registry: SqlRegistry) -> int:
    """Comparisons that are durable."""
    with registry.database.read() as connection:
        return int(connection.execute(select(func.coalesce(func.sum(t.senders.c.counted), 0))).scalar_one())


def wait_until(is_so: Callable[[], bool], within_s: float) -> bool:
    ends = time.monotonic() + within_s
    while time.monotonic() < ends:
        with contextlib.suppress(httpx.HTTPError):
            if is_so():
                return True
        time.sleep(0.1)
    return False


# -- the measurement


async def disturb(
    bench: Bench, record: object, url: str, writer: Writer
) -> tuple[Counter[str], Counter[str], list[str]]:
    """Kill under load; (kills by victim, calls, acknowledged feedback)."""
    chance, killed, stop = random.Random(SEED), Counter[str](), asyncio.Event()
    loading = asyncio.create_task(load(url, stop))
    try:
        while killed.total() < bench.arguments.kills:
            await asyncio.sleep(chance.uniform(*PAUSE_S))
            victim = chance.choice([*ACTORS, "writer"])
            if victim == "writer":
                await asyncio.to_thread(writer.kill)
                writer.start()
            else:
                views = await asyncio.to_thread(lambda: describe(alive_processes(record)))
                pid = next((view.pid for view in views if victim in view.name), None)
                if pid is None:
                    continue  # it is on its way back from the last time
                os.kill(pid, signal.SIGKILL)
            killed[victim] += 1
            if killed.total() % 10 == 0:
                bench.say(f"{killed.total()} kills: {dict(killed)}")
        await asyncio.sleep(5)
    finally:
        stop.set()
        calls, told = await loading
    return killed, calls, told


def run(bench: Bench) -> None:
    command = f"python bench/kill_rollout.py --kills {bench.arguments.kills}"
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as folder:
        home = Home(Path(folder) / "home").create()
        _, first = tickets.install(home, state=VersionState.REJECTED)
        registry = SqlRegistry(home.database)
        ready = replace(
            first, number=first.number + 1, state=VersionState.SHADOW, alpha=0.3, delta=0.3, threshold=0.0
        )
        registry.add_version(ready)
        generalist_port, port, grpc_port = free_ports(3)
        generalist = spawn("generalist", str(generalist_port))
        config = Config.model_validate(
            {
                "generalist": {
                    "base_url": f"http://127.0.0.1:{generalist_port}/v1",
                    "model": "stand-in",
                    "outputs_may_train": True,
                },
                "serve": {"port": port, "grpc_port": grpc_port, "num_cpus": 2},
                "storage": {"min_free_mb": 1},
                "rollout": {"mode": "auto", "min_comparisons": 5, "canary_share": 0.5, "audit_share": 1.0},
                "learning": {"min_corrections": 0},
            }
        )
        writer = Writer(home)
        try:
            models = f"http://127.0.0.1:{generalist_port}/v1/models"
            wait_until(lambda: httpx.get(models, timeout=2).is_success, within_s=60)
            started = start_site(home, config)
            url = started.record.url
            writer.start()
            began = time.monotonic()
            killed, calls, told = asyncio.run(disturb(bench, started.record, url, writer))
            writer.kill()
            settled = wait_until(lambda: counted(registry) == compared(url), within_s=30)
            judge(bench, registry, command, compared(url), told, settled)
            bench.say(f"killed {dict(killed)} in {time.monotonic() - began:.0f} s; calls {dict(calls)}")
            bench.figure("kills", killed.total(), "times kill -9", command=command)
            bench.figure(
                "calls_failed", calls["failed"], f"of {calls.total()} calls", at_most=0, command=command
            )
        finally:
            if writer.process is not None and writer.process.poll() is None:
                writer.kill()
            stop_site(home)
            generalist.kill()
            registry.close()


def judge(
    bench: Bench, registry: SqlRegistry, command: str, made: int, told: list[str], settled: bool
) -> None:
    """Check the durable history."""
    events = registry.events()
    faults = history_faults(events, {v.key: v.state for v in registry.versions()})
    for fault in faults[:10]:
        bench.say(f"FAULT {fault}")
    moves = Counter(f"{e['from'] or 'new'}->{e['to'] or 'gone'} ({e['asker']})" for e in events)
    bench.say(f"{len(events)} events: {dict(moves)}")
    heard = {said["trace_id"] for said in registry.feedback()}
    bench.figure("version_events", len(events), "steps of versions", command=command)
    bench.figure("history_faults", len(faults), "steps against the rules", at_most=0, command=command)
    bench.figure("comparisons_made", made, "by the gateway's count", command=command)
    bench.figure(
        "comparisons_lost",
        abs(made - counted(registry)),
        "not counted, or counted twice",
        at_most=0,
        command=command,
    )
    bench.figure(
        "feedback_lost",
        len([trace_id for trace_id in told if trace_id not in heard]),
        f"of {len(told)} acknowledged",
        at_most=0,
        command=command,
    )
    if not settled:
        bench.say("comparisons were still on their way")


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--kills", type=int, default=50, help="how often something is killed")


if __name__ == "__main__":
    main("kill_rollout", __doc__ or "", run, _arguments)
