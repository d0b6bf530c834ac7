"""The demo's story, start to end: a log of calls, learning, specialists that answer, and what came of it.

Owns the order of events, the stand-in's process and the calls. What is said meanwhile and how learning is run are handed in; all
figures come from `scoring.py`. Cleans up after itself however it ends.
"""

from __future__ import annotations

import asyncio
import json
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

import httpx
import yaml

from shoal.agents.feedback.governance import promote_version
from shoal.agents.registry.records import Version, VersionState
from shoal.agents.registry.store import SqlRegistry
from shoal.config import Config, GeneralistConfig, parse_config
from shoal.errors import GeneralistUnavailable, ShoalError, SiteError
from shoal.examples.sales_report.prompts import ANALYSE, CALL_SITES, messages_for
from shoal.examples.sales_report.records import Record, figure_records, sentence_records
from shoal.examples.sales_report.scoring import Price, Row, summary
from shoal.home import Home
from shoal.serve.client import AsyncClient
from shoal.serve.report_evidence import read_reason
from shoal.serve.site import start_site, stop_site

_STANDIN_START_S = 30.0
_LOAD_TIMEOUT_S = 90.0
_POLL_S = 0.2

#: runs learning on a data folder as `shoal learn` does; returns its report
Learn = Callable[[Home, Config], Mapping[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How large the demo is. Calls are per call-site; `latency_ms` is the stand-in's."""

    seed: int = 0
    log_calls: int = 750
    unseen_calls: int = 150
    log_concurrency: int = 16
    unseen_concurrency: int = 4
    latency_ms: float = 120.0


class Teller(Protocol):
    """Tells people how the story goes."""

    def say(self, text: str) -> None: ...

    def bar(self, text: str, total: int) -> AbstractContextManager[Callable[[], None]]:
        """Shows progress; what it yields is called after each step."""
        ...

    def wait(self, text: str) -> AbstractContextManager[Callable[[str], None]]:
        """Shows that something is under way; what it yields is told what."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Called:
    """A call of the demo before it is made."""

    call_site: str
    record: Record
    novel: bool = False

    @property
    def messages(self) -> list[dict[str, Any]]:
        return messages_for(self.call_site, self.record)


def log_calls(scale: Scale) -> list[Called]:
    """The first round: both call-sites, mixed."""
    calls = [
        Called(call_site=site, record=record)
        for site in CALL_SITES
        for record in _records(site, scale.log_calls, seed=scale.seed)
    ]
    random.Random(scale.seed).shuffle(calls)
    return calls


def unseen_calls(scale: Scale, log: Sequence[Called]) -> list[Called]:
    """The second round: none of it in the log, and half of it with names that the log never had."""
    calls = []
    for site in CALL_SITES:
        seen = [call.record for call in log if call.call_site == site]
        half = scale.unseen_calls // 2
        for novel, count in ((False, scale.unseen_calls - half), (True, half)):
            records = _records(site, count, seed=scale.seed + 1, novel=novel, exclude=seen)
            calls += [Called(call_site=site, record=record, novel=novel) for record in records]
    random.Random(scale.seed + 1).shuffle(calls)
    return calls


def _records(
    site: str, count: int, *, seed: int, novel: bool = False, exclude: Sequence[Record] = ()
) -> list[Record]:
    make = figure_records if site == ANALYSE else sentence_records
    return make(count, seed=seed, novel=novel, exclude=exclude)


def demo_config(generalist: GeneralistConfig, scale: Scale) -> Config:
    """The demo's configuration; ports are the usual ones where they are free."""
    http, grpc = choose_ports()
    data = {
        "generalist": generalist.model_dump(exclude_defaults=True),
        "learning": {"seed": scale.seed},
        "serve": {"port": http, "grpc_port": grpc},
    }
    return parse_config(data, source="the demo's configuration")


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
    is_stand_in: bool,
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
    config = demo_config(generalist, scale)
    write_config(home, config)

    @contextmanager
    def timed(name: str) -> Iterator[None]:
        start = time.monotonic()
        yield
        seconds[name] = round(time.monotonic() - start, 1)

    try:
        with timed("site"), teller.wait("starting a site") as told:
            record = start_site(home, config, on_step=told).record
        teller.say(f"The site answers on {record.url}/v1; at first the generalist gives every answer.")
        calls = log_calls(scale)
        with timed("log"):
            first = _round(record.url, generalist, calls, scale.log_concurrency, teller, "calls of the log")
        with timed("learn"):
            if learn(home, config).get("interrupted"):
                raise KeyboardInterrupt
        with timed("rollout"), teller.wait("loading the specialists") as told:
            promoted = _promote(home)
            asyncio.run(_wait_loaded(home, record.url, promoted, told))
        names = ", ".join(name for name, _ in promoted) or "none"
        teller.say(f"Specialists that passed their gate and serve now: {names}.")
        unseen = unseen_calls(scale, calls)
        with timed("unseen"):
            second = _round(record.url, generalist, unseen, scale.unseen_concurrency, teller, "unseen calls")
        with timed("reference"):
            direct = asyncio.run(_direct(generalist, unseen, scale.unseen_concurrency, teller))
    finally:
        with timed("stop"), _undisturbed(), teller.wait("stopping the site"):
            stop_site(home)
    seconds["total"] = round(time.monotonic() - began, 1)
    return summary(
        generalist={"model": generalist.model, "base_url": generalist.base_url, "stand_in": is_stand_in}
        | ({"stated_latency_ms": scale.latency_ms} if is_stand_in else {}),
        concurrency=(scale.log_concurrency, scale.unseen_concurrency, scale.unseen_concurrency),
        first=first,
        second=[
            replace(row, reference=reference.answer) for row, reference in zip(second, direct, strict=True)
        ],
        direct=direct,
        price=Price(generalist.price_in, generalist.price_out)
        if generalist.price_in or generalist.price_out
        else None,
        specialists=[_specialist(name, version) for name, version in promoted],
        seconds=seconds,
    )


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


def _round(
    url: str,
    generalist: GeneralistConfig,
    calls: Sequence[Called],
    concurrency: int,
    teller: Teller,
    text: str,
) -> list[Row]:
    """Put calls through the site, as an unchanged agent would: it names the generalist's own model."""

    async def go() -> list[Row]:
        async with AsyncClient(url, timeout=generalist.timeout_s) as client:

            async def ask(call: Called) -> Row:
                answer = await client.chat(call.messages, model=generalist.model)
                return Row(
                    call_site=call.call_site,
                    record=call.record,
                    novel=call.novel,
                    answer=answer.text,
                    served_by=answer.served_by,
                    prompt_tokens=answer.usage.prompt_tokens,
                    completion_tokens=answer.usage.completion_tokens,
                )

            with teller.bar(text, len(calls)) as advance:
                # one alone first, so that a generalist that is away is one clear error and not fifteen hundred
                rows = await _all(calls[:1], ask, 1, advance)
                if rows[0].answer is None:
                    raise GeneralistUnavailable(
                        f"The first of the {text} was not answered: {rows[0].error}",
                        remedy="Check --generalist, --model and the key; without them a stand-in answers.",
                    )
                return rows + await _all(calls[1:], ask, concurrency, advance)

    return asyncio.run(go())


async def _direct(
    generalist: GeneralistConfig, calls: Sequence[Called], concurrency: int, teller: Teller
) -> list[Row]:
    """The generalist's own answers to the same calls, asked past the site: what agreement is measured against."""
    key = generalist.api_key()
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    url = f"{generalist.base_url.rstrip('/')}/chat/completions"
    async with httpx.AsyncClient(headers=headers, timeout=generalist.timeout_s) as client:

        async def ask(call: Called) -> Row:
            response = await client.post(url, json={"model": generalist.model, "messages": call.messages})
            response.raise_for_status()
            completion = response.json()
            usage = completion.get("usage") or {}
            return Row(
                call_site=call.call_site,
                record=call.record,
                novel=call.novel,
                answer=completion["choices"][0]["message"]["content"],
                served_by=f"generalist/{generalist.model}",
                prompt_tokens=int(usage.get("prompt_tokens") or 0),
                completion_tokens=int(usage.get("completion_tokens") or 0),
            )

        with teller.bar("the same, asked of the generalist", len(calls)) as advance:
            return await _all(calls, ask, concurrency, advance)


async def _all(
    calls: Sequence[Called],
    ask: Callable[[Called], Awaitable[Row]],
    concurrency: int,
    advance: Callable[[], None],
) -> list[Row]:
    """Ask all calls, `concurrency` at once, and time each. A call that fails is a row that says so."""
    room = asyncio.Semaphore(concurrency)

    async def one(call: Called) -> Row:
        async with room:
            start = time.perf_counter()
            try:
                row = await ask(call)
            except (ShoalError, httpx.HTTPError, LookupError, ValueError) as error:
                row = Row(
                    call_site=call.call_site,
                    record=call.record,
                    novel=call.novel,
                    answer=None,
                    error=str(error),
                )
            row = replace(row, latency_ms=(time.perf_counter() - start) * 1000)
            advance()
            return row

    return list(await asyncio.gather(*(one(call) for call in calls)))


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
