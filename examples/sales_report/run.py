"""The demo's story, start to end: questions to an agent, learning, specialists that do its steps, and what came of it.

Owns the order of events, the stand-in's process and the site. Questions are put by `rounds.py`, figures made by `scoring.py`; what is said
meanwhile and how learning is run are handed in. Cleans up after itself however it ends.
"""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import httpx
import yaml

from shoal.agents.curation.recognition import recognition_of
from shoal.agents.feedback.governance import promote_version
from shoal.agents.registry.records import Version, VersionState
from shoal.agents.registry.store import SqlRegistry
from shoal.agents.tasks.finder import find_tasks
from shoal.agents.traces.compactor import compact
from shoal.agents.traces.store import ParquetTraceStore
from shoal.config import Config, ContractOverride, GeneralistConfig, parse_config
from shoal.errors import SiteError
from shoal.examples.sales_report.agent import site_settings
from shoal.examples.sales_report.database import build_database
from shoal.examples.sales_report.rounds import (
    Scale,
    Teller,
    ask_agent,
    ask_directly,
    log_questions,
    unseen_questions,
)
from shoal.examples.sales_report.scoring import parts_of, summary
from shoal.home import Home
from shoal.nodes.site_key import load_or_create_key
from shoal.serve.client import AsyncClient
from shoal.serve.nodes_status import read_placement
from shoal.serve.report_evidence import read_reason
from shoal.serve.site import start_site, stop_site

_STANDIN_START_S = 30.0
_LOAD_TIMEOUT_S = 90.0
_POLL_S = 0.2
#: the sales database, in the demo's data folder
DATABASE = "sales.db"
#: simulated on this machine, which is the local one
NODES = {"cloud": 1, "edge": 1, "local": 1}
#: at most so many of the planner's answers may be wrong
PLANNING_ALPHA = 0.1
_ASK_TIMEOUT_S = 5.0

#: runs learning on a data folder as `shoal learn` does; returns its report
Learn = Callable[[Home, Config], Mapping[str, Any]]


def demo_config(home: Home, generalist: GeneralistConfig, scale: Scale) -> Config:
    """The demo's configuration; ports are the usual ones where they are free."""
    http, grpc = choose_ports()
    data = {
        "generalist": generalist.model_dump(exclude_defaults=True),
        "learning": {"seed": scale.seed, "min_calls": max(20, int(0.8 * scale.log_questions))},
        "serve": {"port": http, "grpc_port": grpc},
        **site_settings(home.root / DATABASE),
    }
    return parse_config(data, source="the demo's configuration")


def with_planning_contract(home: Home, config: Config) -> tuple[Config, str]:
    """The configuration with a contract of its own for the planning task, and that task's name.

    A hundred plans cannot prove that at most 5% are wrong: it takes 59 calibration calls, all right, and thirty are left for it.
    """
    store = ParquetTraceStore(home, recognisers=recognition_of(config.privacy))
    compact(home, load_or_create_key(home.key), store)
    traces = list(store.scan())
    found = find_tasks(traces, known=(), seed=config.learning.seed, now=time.time())
    names = {task.id: task.name for task in found.tasks}
    counts: Counter[str] = Counter()
    for trace in traces:
        task_id = found.assignment.get(trace.id)
        if trace.tags.get("step") == "plan" and task_id is not None:
            counts[names[task_id]] += 1
    if not counts:
        return config, ""
    [(name, _)] = counts.most_common(1)
    contract = config.contract.model_copy(update={"tasks": {name: ContractOverride(alpha=PLANNING_ALPHA)}})
    return config.model_copy(update={"contract": contract}), name


def choose_ports() -> tuple[int, int]:
    """8700 and 8701, or two others where one of them is taken."""
    if all(map(_is_free, (8700, 8701))):
        return 8700, 8701
    with socket.socket() as first, socket.socket() as second:
        first.bind(("127.0.0.1", 0))
        second.bind(("127.0.0.1", 0))
        return int(first.getsockname()[1]), int(second.getsockname()[1])


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


@contextmanager
def stand_in(scale: Scale) -> Iterator[GeneralistConfig]:
    """The stand-in in a process of its own. It ends with the `with` block, and also where this process is killed."""
    command = [sys.executable, "-m", "shoal.examples.sales_report.standin", "--with-stdin"]
    command += ["--seed", str(scale.seed), "--latency-ms", str(scale.latency_ms)]
    # a session of its own, so that Ctrl-C does not take it away while calls are still under way
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    watchdog = threading.Timer(_STANDIN_START_S, process.kill)
    watchdog.start()
    try:
        line = process.stdout.readline() if process.stdout is not None else ""
        watchdog.cancel()
        if not line:
            raise SiteError(
                f"The stand-in did not start (exit code {process.wait()}).",
                remedy="Run it by hand to see why: python -m shoal.examples.sales_report.standin",
            )
        base_url = str(json.loads(line)["base_url"])
        model = httpx.get(f"{base_url}/models").json()["data"][0]
        stated = model["stated_price_usd_per_million_tokens"]
        yield GeneralistConfig(
            base_url=base_url,
            model=str(model["id"]),
            price_in=float(stated["in"]),
            price_out=float(stated["out"]),
            outputs_may_train=True,
        )
    finally:
        watchdog.cancel()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def run_demo(
    home: Home,
    generalist: GeneralistConfig,
    *,
    scale: Scale,
    teller: Teller,
    learn: Learn,
) -> dict[str, Any]:
    """Run the whole story on an empty data folder; the site is stopped when it returns or raises.

    Returns:
        the demo's figures, ready for JSON; `broken_promises` names what did not come out as promised.

    Raises:
        ShoalError: a part of it could not be done at all.
    """
    began = time.monotonic()
    seconds: dict[str, float] = {}
    home.create()
    config = demo_config(home, generalist, scale)
    write_config(home, config)
    says_of_itself = ask_of_itself(generalist)

    @contextmanager
    def timed(name: str) -> Iterator[None]:
        start = time.monotonic()
        yield
        seconds[name] = round(time.monotonic() - start, 1)

    with timed("database"), teller.wait("making a sales database"):
        sales = build_database(home.root / DATABASE, seed=scale.seed)
    try:
        with timed("site"), teller.wait("starting a site of three nodes") as told:
            record = start_site(home, config, nodes=NODES, on_step=told).record
        teller.say(
            f"{sales:,} sales lie in a database. The site answers on {record.url}/v1; its nodes {', '.join(record.nodes)} are "
            "simulated on this machine. At first the generalist writes every plan, analysis and sentence."
        )
        log = log_questions(scale)
        timeout_s = generalist.timeout_s
        with timed("log"):
            first = ask_agent(
                record.url, log, scale.log_concurrency, teller, "questions of the log", timeout_s
            )
        with timed("learn"):
            config, planning = with_planning_contract(home, config)
            write_config(home, config)
            if planning:
                teller.say(
                    f"A hundred plans cannot prove that at most 5% are wrong, so the contract of {planning} is {PLANNING_ALPHA:.0%}."
                )
            if learn(home, config).get("interrupted"):
                raise KeyboardInterrupt
        with timed("rollout"), teller.wait("loading the specialists") as told:
            promoted = _promote(home)
            asyncio.run(_wait_loaded(home, record.url, promoted, told))
        names = ", ".join(name for name, _ in promoted) or "none"
        teller.say(f"Specialists that passed their gate and serve now: {names}.")
        unseen = unseen_questions(scale, log)
        with timed("unseen"):
            second = ask_agent(
                record.url, unseen, scale.unseen_concurrency, teller, "unseen questions", timeout_s
            )
        with timed("reference"):
            asked = [part for run in second for part in parts_of(run)]
            references = asyncio.run(ask_directly(generalist, asked, scale.log_concurrency, teller))
        placement = _placement(home)
    finally:
        with timed("stop"), _undisturbed(), teller.wait("stopping the site"):
            stop_site(home)
    seconds["total"] = round(time.monotonic() - began, 1)
    priced = generalist.price_in or generalist.price_out
    stated = {"in": generalist.price_in, "out": generalist.price_out} if priced else None
    return summary(
        generalist={
            "model": generalist.model,
            "base_url": generalist.base_url,
            "stated_price_usd_per_million_tokens": stated,
            **says_of_itself,
        },
        first=first,
        second=second,
        references=references,
        concurrency=(scale.log_concurrency, scale.unseen_concurrency),
        specialists=[_specialist(name, version) for name, version in promoted],
        placement=placement,
        seconds=seconds,
    )


def _placement(home: Home) -> dict[str, Any] | None:
    try:
        return read_placement(home.placement_status)
    except SiteError:
        return None


def ask_of_itself(generalist: GeneralistConfig) -> dict[str, Any]:
    """`stand_in`, whether the endpoint lists the model as one, with the latency that it then states."""
    key = generalist.api_key()
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        url = f"{generalist.base_url.rstrip('/')}/models"
        models = httpx.get(url, headers=headers, timeout=_ASK_TIMEOUT_S).json()["data"]
        said = next(model for model in models if model["id"] == generalist.model)
        if said.get("stand_in") is True:
            return {"stand_in": True, "stated_latency_ms": said.get("stated_latency_ms")}
    except (httpx.HTTPError, ValueError, LookupError, TypeError, AttributeError, StopIteration):
        pass  # many endpoints list no models; whether this one answers at all, its first call will tell
    return {"stand_in": False}


def write_config(home: Home, config: Config) -> None:
    """Keep the demo's configuration where every command on this data folder finds it."""
    data = config.model_dump(mode="json", exclude_defaults=True)
    home.config.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")


@contextmanager
def _undisturbed() -> Iterator[None]:
    """A second Ctrl-C must not leave half a site behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _promote(home: Home) -> list[tuple[str, Version]]:
    """Let every version that waits in shadow serve; (task name, version) of all that serve then."""
    registry = SqlRegistry(home.database)
    try:
        for version in registry.versions():
            if version.state in (VersionState.SHADOW, VersionState.CANARY):
                promote_version(registry, version, reason="promoted by the demo")
        names = {task.id: task.name for task in registry.tasks()}
        return [(names[v.task_id], v) for v in registry.versions() if v.state is VersionState.SERVING]
    finally:
        registry.close()


async def _wait_loaded(
    home: Home, url: str, promoted: Sequence[tuple[str, Version]], told: Callable[[str], None]
) -> None:
    """Wait until the router says that all are loaded and the gateway offers them. Raises SiteError."""
    keys = {version.key for _, version in promoted}
    offers = {f"specialist/{name}" for name, _ in promoted}
    deadline = time.monotonic() + _LOAD_TIMEOUT_S
    said: dict[str, Any] = {}
    async with AsyncClient(url) as client:
        while time.monotonic() < deadline:
            said = _router_says(home)
            loaded = keys & set(said.get("loaded", ()))
            told(f"loading the specialists ({len(loaded)} of {len(keys)})")
            if loaded == keys and offers <= set(await client.models()):
                return
            if failed := said.get("failed"):
                raise SiteError(
                    f"A specialist cannot be loaded: {failed}.", remedy=f"See the logs in {home.logs}."
                )
            await asyncio.sleep(_POLL_S)
    raise SiteError(
        f"The specialists {sorted(keys)} were not loaded within {_LOAD_TIMEOUT_S:.0f} s; the router says {said}.",
        remedy=f"See the logs in {home.logs}.",
    )


def _router_says(home: Home) -> dict[str, Any]:
    try:
        said = json.loads(home.router_status.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return said if isinstance(said, dict) else {}


def _specialist(name: str, version: Version) -> dict[str, Any]:
    return {
        "specialist": f"{name}@{version.number}",
        "kind": version.kind,
        "alpha": version.alpha,
        "threshold": version.threshold,
        "reason": read_reason(version.evidence),
    }
