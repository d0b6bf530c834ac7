"""`shoal up`, `down` and `status`."""

from __future__ import annotations

import signal
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from shoal.commands._amounts import UNKNOWN, usd
from shoal.commands._shared import (
    ConfigOption,
    HomeOption,
    JsonOption,
    err,
    existing_home,
    open_home,
    out,
    print_json,
    read_config,
)
from shoal.config import Config, parse_config
from shoal.errors import UsageError
from shoal.serve.auth import listens_beyond_loopback
from shoal.serve.site import Started, start_site, stop_site
from shoal.serve.site_status import site_status

app = typer.Typer()

#: columns
WIDTH = 80
#: processes that are shown; --json has all
MOST_PROCESSES = 8


def with_flags(
    config: Config,
    *,
    generalist: str | None,
    model: str | None,
    host: str | None,
    port: int | None,
    grpc_port: int | None,
) -> Config:
    """The configuration with what the command line says about it.

    Raises:
        ConfigError: a value that breaks its rule.
        UsageError: a generalist without a model's name, and none configured.
    """
    data = config.model_dump(mode="python")
    for name, value in (("host", host), ("port", port), ("grpc_port", grpc_port)):
        if value is not None:
            data["serve"][name] = value
    if generalist is not None or model is not None:
        given = {"base_url": generalist, "model": model}
        data["generalist"] = {
            **(data["generalist"] or {}),
            **{key: value for key, value in given.items() if value is not None},
        }
        for key, option in (("base_url", "--generalist URL"), ("model", "--model NAME")):
            if key not in data["generalist"]:
                raise UsageError(
                    "--generalist and --model belong together.", remedy=f"Add {option}.", param=option
                )
    return parse_config(data, source="command line")


def read_nodes(text: str) -> dict[str, int]:
    """`cloud=1,edge=1` as counts. Raises UsageError."""
    found: dict[str, int] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        tier, _, count = part.partition("=")
        if not count.isdecimal():
            raise UsageError(
                f"--nodes wants TIER=N, got {part!r}.",
                remedy="For example --nodes cloud=1,edge=1,local=1.",
                param="--nodes",
            )
        found[tier.strip()] = int(count)
    return found


@contextmanager
def _steps() -> Iterator[Any]:
    """Shows the step under way on a terminal; nothing elsewhere."""
    if not err.is_terminal:
        yield lambda step: None
        return
    with err.status("starting") as status:
        yield lambda step: status.update(escape(step))


@app.command()
def up(
    home: HomeOption = None,
    config: ConfigOption = None,
    generalist: Annotated[
        str | None,
        typer.Option("--generalist", metavar="URL", help="OpenAI-compatible endpoint of the large model."),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", metavar="NAME", help="The large model's name there.")
    ] = None,
    host: Annotated[str | None, typer.Option("--host", help="Address to listen on (127.0.0.1).")] = None,
    port: Annotated[int | None, typer.Option("--port", help="HTTP port (8700).")] = None,
    grpc_port: Annotated[int | None, typer.Option("--grpc-port", help="gRPC port (8701).")] = None,
    address: Annotated[
        str | None,
        typer.Option("--address", metavar="RAY", help="Join this Ray cluster instead of starting one."),
    ] = None,
    nodes: Annotated[
        str,
        typer.Option(
            "--nodes",
            metavar="TIER=N,...",
            help="Simulate nodes on this machine, for trying things out: cloud=1,edge=1,local=1.",
        ),
    ] = "",
    dashboard: Annotated[bool, typer.Option("--dashboard", help="Also start Ray's dashboard.")] = False,
    block: Annotated[bool, typer.Option("--block", help="Stay, and stop the site on Ctrl-C.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Start a site, and return when it answers."""
    folder = open_home(home)
    settings = with_flags(
        read_config(folder, config),
        generalist=generalist,
        model=model,
        host=host,
        port=port,
        grpc_port=grpc_port,
    )
    with _steps() as on_step:
        started = start_site(
            folder,
            settings,
            address=address,
            dashboard=dashboard,
            nodes=read_nodes(nodes),
            on_step=on_step,
        )
    for warning in started.warnings:
        err.print(f"[yellow]warning:[/] {escape(warning)}", soft_wrap=True)
    if as_json:
        print_json(_as_json(started, folder.root))
    else:
        _tell(started, folder.root)
    if block:
        _wait_for_signal()
        stop_site(folder)


def _as_json(started: Started, home: Path) -> dict[str, Any]:
    record = started.record
    return {
        "already_up": started.already,
        "seconds": round(started.seconds, 1),
        "url": record.url,
        "grpc": record.grpc_address,
        "home": str(home),
        "ray": record.address,
        "mode": record.mode,
        "generalist": (
            None
            if record.generalist_url is None
            else {"base_url": record.generalist_url, "model": record.generalist_model}
        ),
        "warnings": list(started.warnings),
    }


def _tell(started: Started, home: Path) -> None:
    record = started.record
    how = "is up already" if started.already else f"is up ({started.seconds:.0f} s)"
    generalist = "none: what no specialist answers gets a clear error"
    if record.generalist_url is not None:
        generalist = f"{record.generalist_model} at {record.generalist_url}"
    out.print(f"The site {how}.", highlight=False)
    for name, value in (
        ("HTTP", f"{record.url}/v1"),
        ("gRPC", record.grpc_address),
        ("generalist", generalist),
        ("data", str(home)),
    ):
        out.print(f"  {name:<11}{escape(value)}", highlight=False, soft_wrap=True)
    out.print("Try it:", highlight=False)
    body = '{"model": "auto", "messages": [{"role": "user", "content": "Hello"}]}'
    out.print(
        f"  curl -s {record.url}/v1/chat/completions -H 'Content-Type: application/json' -d '{escape(body)}'",
        highlight=False,
        soft_wrap=True,
    )
    if listens_beyond_loopback(record.host):
        out.print("It listens on the network, so it asks for a key: shoal keys create NAME", highlight=False)
    out.print("Stop it: shoal down", highlight=False)


def _wait_for_signal() -> None:
    done = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: done.set())
    err.print("Ctrl-C stops the site.")
    done.wait()


@app.command()
def down(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Stop the site, and return when nothing of it is left."""
    folder = existing_home(home)
    with _steps() as on_step:
        record = stop_site(folder, on_step=on_step)
    if as_json:
        print_json({"stopped": record is not None, "home": str(folder.root)})
    else:
        out.print("The site is stopped." if record is not None else "No site was up.")


@app.command()
def status(home: HomeOption = None, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Say how the site is. Exit code 1 where it is not up."""
    folder = existing_home(home)
    found = site_status(folder, read_config(folder, config))
    if as_json:
        print_json(found)
    else:
        _show(found)
    if not found["up"]:
        raise typer.Exit(1)


def learning_line(said: dict[str, Any]) -> str:
    """What is being learnt, or was last, and what waits to be."""
    running, last = said["running"], said["last"]
    if running is not None:
        text = f"{running.get('fraction', 0.0):.0%} {running.get('text', 'starting')} ({running['reason']})"
    elif last is not None:
        ended = time.strftime("%d %b %H:%M", time.localtime(last["ended_at"]))
        passed = sum(verdict == "pass" for verdict in last["outcomes"].values())
        text = f"last {ended}: {last['state']}, " + (last["error"] or f"{passed} passed ({last['reason']})")
    else:
        text = "never yet"
    waiting = [unknown_work(said)] if said.get("novel") else []
    waiting += [f"{count} contradicted answers of {name}" for name, count in said["contradicted"].items()]
    if said["unknown"]:
        waiting.append(f"feedback on {said['unknown']} calls that nobody knows")
    return " ".join(filter(None, ["; ".join([text, *waiting]), said["trouble"]]))


def unknown_work(said: dict[str, Any]) -> str:
    """How many calls no task covers, and which kinds of them recur."""
    kinds = [f"{count} of a recurring kind, {name}" for name, count in said["kinds"].items()]
    return "unknown work: " + ", ".join([counted(said["novel"], "call"), *kinds])


def money_line(said: dict[str, Any]) -> str:
    """What was saved so far, of what."""
    paid, whole = usd(said["paid_usd"]), usd(said["all_generalist_usd"])
    if paid == UNKNOWN:
        text = "unknown: the large model's price is not set"
    elif not said["by_specialist"]:
        text = f"{paid} paid; no specialist has answered yet"
    else:
        text = f"saved {usd(said['saved_usd'])}, {usd(said['net_usd'])} after learning; {paid} paid, {whole} by the large model alone"
    return f"{text} (made up: a stand-in answers for it)" if said["stand_ins"] else text


def counted(number: int, noun: str) -> str:
    """`1 specialist`, `2 specialists`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def node_line(node: dict[str, Any]) -> str:
    """A node in one line."""
    state = "alive" if node["alive"] else "away"
    busy = "no telemetry yet" if node["busy"] is None else f"{node['busy']:.0%} busy"
    simulated = ", simulated" if node["simulated"] else ""
    return f"{node['name']} ({node['tier']}{simulated}) {state}, {busy}, {counted(node['specialists'], 'specialist')}"


def _show(found: dict[str, Any]) -> None:
    def line(name: str, text: str) -> None:
        for number, part in enumerate(textwrap.wrap(text, WIDTH - 14, break_on_hyphens=False) or [""]):
            out.print(f"  {name if number == 0 else '':<12}{escape(part)}", highlight=False, soft_wrap=True)

    names = {version["key"]: f"{version['task']}@{version['number']}" for version in found["versions"]}

    out.print("The site is up." if found["up"] else "The site is not up.", highlight=False)
    if found["site"] is not None:
        site = found["site"]
        line("HTTP", f"{site['url']}/v1  {site['answer']}")
        line("gRPC", site["grpc"])
        line("generalist", site["generalist"])
        line("Ray", f"{site['ray']} ({site['mode']})")
    router = found["router"]
    if router is not None:
        line(
            "router",
            f"epoch {router['epoch']}, seen {router['age_s']:.0f} s ago {router['trouble']}".rstrip(),
        )
        line("loaded", ", ".join(names.get(key, key) for key in router["loaded"]) or "no specialist")
        for key, why in router["failed"].items():
            line("failed", f"{names.get(key, key)}: {why}")
    placement = found["placement"]
    if placement is not None:
        placed = len(placement["assignments"])
        nowhere = f", {len(placement['unplaced'])} nowhere" if placement["unplaced"] else ""
        line(
            "placement",
            f"{counted(placed, 'specialist')} placed{nowhere}, seen {placement['age_s']:.0f} s ago {placement['trouble']}".rstrip(),
        )
    for number, node in enumerate(found["nodes"]):
        line("nodes" if number == 0 else "", node_line(node))
    if found["feedback"] is not None:
        line("learning", learning_line(found["feedback"]))
    if found["money"] is not None:
        line("money", money_line(found["money"]))
    elif found["traces"]["readable"]:
        line("money", "not added up yet: shoal costs")
    traces = found["traces"]
    line("traces", f"{traces['readable']} readable, {traces['spool_mb']:.1f} MB in the spool")
    if found["processes"]:
        total = sum(p["memory_mb"] for p in found["processes"])
        line("processes", f"{len(found['processes'])}, {total} MB of memory; the largest:")
        for process in found["processes"][:MOST_PROCESSES]:
            out.print(
                escape(
                    f"{'':<14}{process['pid']:>7} {process['memory_mb']:>5} MB  {process['name']}"[:WIDTH]
                ),
                highlight=False,
                soft_wrap=True,
            )
    line("logs", found["logs"])
    for listener in found["exposed"]:
        line("exposed", f"{listener['address']}:{listener['port']} by {listener['process']}")
