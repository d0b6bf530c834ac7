"""`shoal plans`: run a plan, look at plans and runs, continue or end one."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.markup import escape
from rich.table import Table

from shoal.agents.plans.drawing import draw_plan, draw_run
from shoal.agents.plans.plan import Plan, parse_plan
from shoal.agents.plans.planner import BUILT_IN, built_in_plan
from shoal.agents.plans.standing import kept_view
from shoal.agents.plans.store import SqlRuns
from shoal.agents.registry.database import Database
from shoal.commands._shared import (
    EXIT_STOPPED,
    HomeOption,
    JsonOption,
    err,
    existing_home,
    out,
    print_json,
)
from shoal.errors import NotFound, ShoalError, SiteError, UsageError
from shoal.home import Home
from shoal.serve.client import Client
from shoal.serve.site_record import read_record

app = typer.Typer(help="Run plans, look at runs, continue one.")

_SIGNS = {"step_done": "[green]done[/]", "step_failed": "[red]failed[/]", "step_skipped": "skipped"}


def _client(home: Home) -> Client:
    record = read_record(home.site)
    if record is None:
        raise SiteError("No site is up here, and plans run on one.", remedy="Start one: shoal up")
    return Client(record.url)


def _store(home: Home) -> SqlRuns:
    return SqlRuns(Database(home.database))


def _read_file(path: Path) -> Plan:
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.", remedy="Name a plan's file.") from error
    except yaml.YAMLError as error:
        raise UsageError(f"{path} is no YAML: {error}.", remedy="Mend the file.") from error
    return parse_plan(data, source=str(path))


@app.command("run")
def run(
    what: Annotated[
        str, typer.Argument(metavar="FILE|NAME", help="A plan's file, or the name of a known plan.")
    ],
    given: Annotated[
        str, typer.Option("--input", metavar="JSON", help="The run's input object; - reads it.")
    ] = "{}",
    privacy: Annotated[str | None, typer.Option("--privacy", help="public, internal or local-only.")] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run a plan and tell its steps as they are done. Ctrl-C ends the run."""
    folder = existing_home(home)
    plan = _read_file(Path(what)) if Path(what).is_file() or Path(what).suffix in _FILES else None
    name = what.removeprefix("agent/") if plan is None else plan.name
    body = _input(given)
    run_id = ""
    with _client(folder) as client:
        try:
            events = client.plans.run(
                name, body, plan=None if plan is None else plan.to_dict(), privacy=privacy
            )
            for event in events:
                run_id = event["run_id"]
                _tell(event)
        except KeyboardInterrupt:
            if run_id:
                with contextlib.suppress(ShoalError):
                    client.plans.cancel(run_id)
                err.print(
                    f"the run {run_id} is cancelled; go on with: shoal plans resume {run_id}", soft_wrap=True
                )
            raise typer.Exit(EXIT_STOPPED) from None
        view = client.plans.get(run_id)
    _show_end(view, as_json)


def _input(given: str) -> dict[str, Any]:
    text = typer.get_text_stream("stdin").read() if given == "-" else given
    try:
        body = json.loads(text)
    except ValueError as error:
        raise UsageError(
            f"--input must be a JSON object: {error}.",
            remedy="""For example --input '{"question": "..."}'.""",
            param="--input",
        ) from None
    if not isinstance(body, dict):
        raise UsageError(
            f"--input must be a JSON object, got {type(body).__name__}.",
            remedy="Write {...}.",
            param="--input",
        )
    return body


#: how the name of a plan's file ends; no plan may be called so
_FILES = (".yaml", ".yml", ".json")


def _tell(event: dict[str, Any]) -> None:
    sign = _SIGNS.get(event["type"])
    if sign is None:
        return
    parts = f" x{event['parts']}" if "parts" in event else ""
    who = f"  {event['performer']} on {event['node']}" if event["performer"] else ""
    why = f"  {event['error']['message']}" if event.get("error") else ""
    err.print(f"{sign} {escape(event['step'] + parts + who + why)}", highlight=False, soft_wrap=True)


def _show_end(view: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(view)
    else:
        out.print(escape(draw_run(view)), highlight=False, soft_wrap=True)
        if view["status"] == "done":
            out.print(escape(_result(view["output"])), highlight=False, soft_wrap=True)
    if view["status"] not in ("done", "running"):
        raise typer.Exit(1)


def _result(output: Any) -> str:
    if isinstance(output, str):
        return output
    if isinstance(output, list) and all(isinstance(item, str) for item in output):
        return "\n".join(output)
    return json.dumps(output, ensure_ascii=False, indent=2)


@app.command("ls")
def ls(
    runs: Annotated[int, typer.Option("--runs", metavar="N", help="How many of the newest runs.")] = 10,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the plans, and the newest runs."""
    store = _store(existing_home(home))
    plans, found = store.plans(), store.runs(runs)
    if as_json:
        print_json({"plans": [plan.to_dict() for plan in plans], "runs": found})
        return
    table = Table(box=None, pad_edge=False)
    for name in ("PLAN", "STEPS", "DESCRIPTION"):
        table.add_column(name)
    for plan in (*plans, built_in_plan()):
        table.add_row(f"agent/{plan.name}", str(len(plan.steps)), escape(plan.description))
    out.print(table)
    if found:
        out.print()
        table = Table(box=None, pad_edge=False)
        for name in ("RUN", "PLAN", "STATUS", "LABEL", "SECONDS"):
            table.add_column(name, justify="right" if name == "SECONDS" else "left")
        for row in found:
            took = "-" if row["ended_at"] is None else f"{row['ended_at'] - row['created_at']:.2f}"
            table.add_row(row["id"], row["plan"], row["status"], row["label"], took)
        out.print(table)


@app.command("show")
def show(
    name: Annotated[
        str, typer.Argument(metavar="RUN|NAME|FILE", help="A run's id, a plan's name, or a plan's file.")
    ],
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Draw a run, with who performed each step and where; or a plan."""
    if Path(name).is_file():
        _show_plan(_read_file(Path(name)), as_json)
        return
    folder = existing_home(home)
    store = _store(folder)
    try:
        stored = store.load(name)
    except NotFound:
        known = name.removeprefix("agent/")
        _show_plan(built_in_plan() if known == BUILT_IN else store.plan(known), as_json)
        return
    view = kept_view(stored)
    if stored.view is None:
        try:
            with _client(folder) as client:
                view = client.plans.get(name)
        except SiteError:
            err.print("no site is up that goes on with it; this is what is kept of it", soft_wrap=True)
    if as_json:
        print_json(view)
    else:
        out.print(escape(draw_run(view)), highlight=False, soft_wrap=True)


def _show_plan(plan: Plan, as_json: bool) -> None:
    if as_json:
        print_json(plan.to_dict())
    else:
        out.print(escape(draw_plan(plan)), highlight=False, soft_wrap=True)


@app.command("add")
def add(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A plan's file.")], home: HomeOption = None
) -> None:
    """Keep a plan, so that it can be named: `agent/<name>` is a model from then on."""
    import time

    plan = _read_file(file)
    _store(existing_home(home)).put_plan(plan, at=time.time())
    out.print(f"agent/{plan.name} can be named now.", highlight=False)


@app.command("resume")
def resume(
    run_id: Annotated[str, typer.Argument(metavar="RUN")],
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Go on with a run that failed or was cancelled; what is done is not done again."""
    with _client(existing_home(home)) as client:
        last = max((event["seq"] for event in _past(client, run_id)), default=0)
        client.plans.resume(run_id)
        for event in client.plans.events(run_id, after=last):
            _tell(event)
        view = client.plans.get(run_id)
    _show_end(view, as_json)


def _past(client: Client, run_id: str) -> list[dict[str, Any]]:
    return [] if client.plans.get(run_id)["status"] == "running" else list(client.plans.events(run_id))


@app.command("cancel")
def cancel(
    run_id: Annotated[str, typer.Argument(metavar="RUN")],
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """End a run; what is done is kept."""
    with _client(existing_home(home)) as client:
        view = client.plans.cancel(run_id)
    if as_json:
        print_json(view)
    else:
        out.print(f"The run {run_id} is {view['status']}.", highlight=False)
