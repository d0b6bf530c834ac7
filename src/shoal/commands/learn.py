"""`shoal learn`: curate, find tasks, choose, train, evaluate, gate, register. Needs no site."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from shoal.commands._shared import (
    EXIT_STOPPED,
    ConfigOption,
    HomeOption,
    JsonOption,
    bad_value,
    err,
    existing_home,
    out,
    print_json,
    read_config,
)
from shoal.commands._site_call import call_site, site_url
from shoal.errors import ConfigError

app = typer.Typer(help="Find tasks in the traces and train specialists for them.")


@app.command("learn")
def learn(
    tasks: Annotated[str | None, typer.Option("--tasks", metavar="NAME,…", help="Only these tasks.")] = None,
    time_limit: Annotated[
        float | None,
        typer.Option(
            "--time-limit", metavar="MIN", help="Minutes in all (default: learning.time_limit_min)."
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", metavar="N", help="Default: learning.seed.")] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Train again, even where nothing has changed.")
    ] = False,
    outputs_may_train: Annotated[
        bool | None,
        typer.Option(
            "--outputs-may-train/--no-outputs-may-train",
            help="Whether the generalist's terms allow training on its answers (default: the configuration's word).",
        ),
    ] = None,
    ask_twice: Annotated[
        int | None,
        typer.Option(
            "--ask-twice",
            metavar="N",
            min=0,
            help="Ask the generalist again for N held-out prompts of each task, to know how often it agrees with itself.",
        ),
    ] = None,
    background: Annotated[
        bool,
        typer.Option(
            "--background", help="Have the running site learn, at low priority, and return at once."
        ),
    ] = False,
    stop: Annotated[bool, typer.Option("--stop", help="Stop what the running site is learning.")] = False,
    home: HomeOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find tasks in the traces and train a specialist for each that can have one.

    What passes its gate goes to `shadow`; `shoal specialists promote` lets it answer.
    """
    names = None if tasks is None else [name.strip() for name in tasks.split(",") if name.strip()]
    if background or stop:
        given = {
            "--time-limit": time_limit,
            "--seed": seed,
            "--outputs-may-train": outputs_may_train,
            "--ask-twice": ask_twice,
        }
        for option, value in ({**given, "--force": force or None}).items():
            if value is not None:
                raise bad_value(
                    option, value, "is the site's own setting here", "Set it in shoal.yaml, or leave it out."
                )
        _on_site(site_url(existing_home(home)), names, stop=stop, as_json=as_json)
        return
    if time_limit is not None and time_limit <= 0:
        raise bad_value(
            "--time-limit", time_limit, "must be positive minutes", "Write for example --time-limit 20."
        )
    folder = existing_home(home)
    settings = read_config(folder, config)
    from shoal.commands._learning import run_learn  # heavy: only once the arguments are right

    def run(may_train: bool | None) -> dict[str, Any]:
        return run_learn(
            folder,
            settings,
            tasks=names,
            time_limit_min=time_limit,
            seed=seed,
            force=force,
            outputs_may_train=may_train,
            ask_twice=ask_twice,
        )

    try:
        report = run(outputs_may_train)
    except ConfigError as error:
        if error.param != "generalist.outputs_may_train" or outputs_may_train is not None or not _can_ask():
            raise
        err.print(escape(error.message), highlight=False)
        if not typer.confirm("Do the terms of your generalist allow training on its answers?", err=True):
            raise
        report = run(True)
    if as_json:
        print_json(report)
    else:
        _print(report)
    if report["interrupted"]:
        err.print("stopped; what was finished is kept, and the next run goes on from there")
        raise typer.Exit(EXIT_STOPPED)


def _on_site(url: str, names: list[str] | None, *, stop: bool, as_json: bool) -> None:
    if stop:
        said = call_site("DELETE", f"{url}/v1/learning")
        told = (
            "Learning stops; what it has finished is kept." if said["stopped"] else "Nothing is being learnt."
        )
    else:
        said = call_site("POST", f"{url}/v1/learning", {"tasks": names or []})
        told = "The site learns in the background; shoal status shows how far it is."
    if as_json:
        print_json(said)
    else:
        out.print(told, highlight=False)


def _even(break_even: dict[str, Any] | None) -> str:
    """When a specialist has earned its learning, as one more sentence; empty where that is not known."""
    if break_even is None or break_even["calls"] is None:
        return ""
    calls, days = break_even["calls"], break_even["days"]
    after = f", {24 * days:.1f} hours" if days is not None and days < 1 else ""
    after = f", {days:.1f} days" if days is not None and days >= 1 else after
    return f" Has earned its learning after {calls:,} call{'' if calls == 1 else 's'}{after}."


def _can_ask() -> bool:
    return err.is_terminal and sys.stdin.isatty()


def _print(report: dict[str, Any]) -> None:
    table = Table(box=None, pad_edge=False)
    table.add_column("task", overflow="fold", max_width=30)
    table.add_column("calls", justify="right")
    table.add_column("verdict")
    table.add_column("covers", justify="right")
    for task in report["tasks"]:
        coverage = task.get("coverage")
        table.add_row(
            escape(task["name"]),
            f"{task['calls']:,}",
            task["verdict"],
            "-" if coverage is None else f"{coverage:.0%}",
        )
    out.print(table)
    # whole lines: a column beside the others would be too narrow to read
    for task in report["tasks"]:
        if why := task["reason"] + _even(task.get("break_even")):
            out.print(f"{escape(task['name'])}: {escape(why)}", highlight=False)
    passed = sum(task["verdict"] == "pass" for task in report["tasks"])
    out.print(f"{passed} of {len(report['tasks'])} tasks have a specialist; {report['seconds']:.0f} s")
    then = ", shoal eval FILE, shoal specialists promote TASK" if passed else "; more calls teach more"
    out.print(f"Next: shoal report --out report.html{then}")
