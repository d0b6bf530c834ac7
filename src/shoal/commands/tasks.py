"""`shoal tasks`: what was found in the traces, and the owner's corrections of it, which outlive relearning."""

from __future__ import annotations

import csv
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from shoal.agents.ports import Registry
from shoal.agents.registry.records import Task
from shoal.agents.tasks import about, corrections
from shoal.agents.tasks.matcher import Matcher
from shoal.agents.tasks.template import Template
from shoal.agents.tasks.turns import shown as shown_turn
from shoal.commands._amounts import both, usd
from shoal.commands._shared import (
    ConfigOption,
    HomeOption,
    JsonOption,
    existing_home,
    folded,
    out,
    print_json,
    progress_bar,
    read_config,
)
from shoal.commands._stores import open_registry, open_traces
from shoal.commands._unknown_work import tell_unknown, unknown_work
from shoal.config import Config
from shoal.errors import UsageError

if TYPE_CHECKING:
    from shoal.serve.money import Books

app = typer.Typer(help="Tasks found in the traces, and your corrections of them.", no_args_is_help=True)

#: columns that a task's name takes in a list
_NAME_WIDTH = 30

TaskArgument = Annotated[str, typer.Argument(metavar="TASK", help="A task's name or id.")]
_SHOWN_PROMPTS = 5
_TOLD_STATES = frozenset({"serving", "canary", "shadow", "paused"})


@app.command("ls")
def ls(home: HomeOption = None, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """All tasks, most calls first: share of cost, and why each stays with the generalist or what it waits for."""
    folder = existing_home(home)
    registry = open_registry(folder)
    settings = read_config(folder, config)
    tasks = [task for task in registry.tasks() if not corrections.is_hidden(task)]
    tasks.sort(key=lambda task: (-task.calls, task.name))
    states = {
        task.id: [f"{v.state} @{v.number}" for v in registry.versions(task.id) if v.state in _TOLD_STATES]
        for task in tasks
    }
    if as_json:
        rows = [
            {**_as_dict(task), **_worth(task, settings), "specialists": states[task.id]} for task in tasks
        ]
        print_json({"tasks": rows, "unknown_work": unknown_work(registry, folder, settings)})
        return
    if not tasks:
        out.print("No tasks yet. Find some: shoal learn")
        return
    table = Table(box=None, pad_edge=False)
    table.add_column("task", no_wrap=True)
    table.add_column("answers")
    table.add_column("calls", justify="right")
    table.add_column("cost", justify="right")
    table.add_column("specialist")
    table.add_column("why", overflow="fold")
    for task in tasks:
        cost = about.shares(task, _price(settings)).cost
        table.add_row(
            escape(folded(task.name, _NAME_WIDTH)),
            str(task.output_kind),
            f"{task.calls:,}",
            "-" if cost is None else f"{cost:.0%}",
            "\n".join(states[task.id][-2:]) or "-",
            escape(_why(task, settings)),
        )
    out.print(table)
    tell_unknown(unknown_work(registry, folder, settings))
    if _price(settings) is None:
        out.print(
            "cost: share of all tokens; generalist.price_in and price_out make it one of money", style="dim"
        )


@app.command("show")
def show(
    task: TaskArgument, home: HomeOption = None, config: ConfigOption = None, as_json: JsonOption = False
) -> None:
    """One task: what it is worth, whether a specialist could do it, how its calls are recognised, and its versions."""
    folder = existing_home(home)
    registry = open_registry(folder)
    settings = read_config(folder, config)
    found = registry.task(task)
    versions = registry.versions(found.id)
    from shoal.serve.money import books_at_hand

    books = books_at_hand(folder, registry, open_traces(folder, settings), settings)
    if as_json:
        account = None if books is None else books.accounts.tasks.get(found.id)
        print_json(
            {
                **_as_dict(found),
                **_worth(found, settings),
                "costs": None if account is None else account.to_dict(),
                "advice": books.advice[found.id].to_dict() if books and found.id in books.advice else None,
                "match": _match_shown(found),
                "versions": [v.key for v in versions],
            }
        )
        return
    out.print(f"[bold]{escape(found.name)}[/]  {found.id}, {found.output_kind}, {found.calls:,} calls")
    out.print(escape(found.description), highlight=False)
    if found.excluded or found.reason:
        out.print(escape("excluded by the owner" if found.excluded else found.reason), highlight=False)
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column()
    table.add_column(overflow="fold")
    shown_of_task = _worth_shown(found, settings) | _costs_shown(found, books) | _match_shown(found)
    for name, value in shown_of_task.items():
        shown = ", ".join(map(_cut, value[:_SHOWN_PROMPTS])) if isinstance(value, list) else str(value)
        if isinstance(value, list) and len(value) > _SHOWN_PROMPTS:
            shown += f", … ({len(value)} in all)"
        table.add_row(name, escape(shown))
    out.print(table)
    for version in versions:
        out.print(
            escape(f"@{version.number} {version.kind}, {version.state}: {version.reason}"), highlight=False
        )


@app.command("rename")
def rename(
    task: TaskArgument,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The new name, a slug.")],
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Give a task another name."""
    registry = open_registry(existing_home(home))
    _store(registry, corrections.rename(registry.tasks(), task, name), as_json, f"{task} is {name} now")


@app.command("merge")
def merge(
    into: Annotated[str, typer.Argument(metavar="INTO", help="The task that stays.")],
    others: Annotated[list[str], typer.Argument(metavar="TASK…", help="Tasks whose calls are its own.")],
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Count the calls of other tasks as those of one."""
    registry = open_registry(existing_home(home))
    changed = corrections.merge(registry.tasks(), into, others)
    _store(
        registry,
        changed,
        as_json,
        f"{', '.join(others)} merged into {changed[0].name}; shoal learn trains it anew",
    )


@app.command("split")
def split(
    task: TaskArgument,
    name: Annotated[str, typer.Option("--name", metavar="NAME", help="Name of the task that is split off.")],
    contains: Annotated[
        list[str] | None,
        typer.Option(
            "--contains",
            metavar="TEXT",
            help="Calls whose system prompt or input has this text (repeatable).",
        ),
    ] = None,
    prompt: Annotated[
        list[str] | None,
        typer.Option("--prompt", metavar="ID", help="Calls with this prompt, of `tasks show` (repeatable)."),
    ] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Split calls off a task by a text in them, or by their prompt."""
    registry = open_registry(existing_home(home))
    changed = corrections.split(
        registry.tasks(),
        task,
        name=name,
        contains=contains or (),
        fingerprints=prompt or (),
        now=time.time(),
    )
    _store(registry, changed, as_json, f"{name} is split off {task}; shoal learn counts and trains it")


@app.command("exclude")
def exclude(
    task: TaskArgument,
    undo: Annotated[bool, typer.Option("--undo", help="Let it be learnt again.")] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Keep a task with the generalist."""
    registry = open_registry(existing_home(home))
    said = f"{task} may be learnt again" if undo else f"{task} stays with the generalist"
    _store(registry, corrections.exclude(registry.tasks(), task, excluded=not undo), as_json, said)


@app.command("export")
def export(
    file: Annotated[
        Path, typer.Option("--out", metavar="CSV", help="`id,task` for every trace, - where unclustered.")
    ],
    home: HomeOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write the task of every trace, as today's tasks recognise it from its request."""
    folder = existing_home(home)
    tasks = open_registry(folder).tasks()
    names = {task.id: task.name for task in tasks}
    matcher = Matcher([(task.id, task) for task in tasks])
    store = open_traces(folder, read_config(folder, config))
    total = clustered = 0
    try:
        with file.open("w", encoding="utf-8", newline="") as sink, progress_bar() as progress:
            writer = csv.writer(sink)
            writer.writerow(("id", "task"))
            for trace in progress.track(store.scan(), total=store.count(), description="exporting"):
                task_id = matcher.match(trace.chat).task_id
                writer.writerow((trace.id, "-" if task_id is None else names[task_id]))
                total += 1
                clustered += task_id is not None
    except OSError as error:
        raise UsageError(
            f"{file} cannot be written: {error.strerror}.", remedy="Name a writable file with --out."
        ) from error
    if as_json:
        print_json({"file": str(file), "traces": total, "clustered": clustered})
        return
    out.print(f"{total:,} traces, {clustered:,} of them in a task: {escape(str(file))}", highlight=False)


def _store(registry: Registry, changed: list[Task], as_json: bool, said: str) -> None:
    registry.put_tasks(changed)
    if as_json:
        print_json({"changed": [_as_dict(task) for task in changed]})
    else:
        out.print(escape(said), highlight=False)


def _as_dict(task: Task) -> dict[str, Any]:
    return {
        "id": task.id,
        "name": task.name,
        "output_kind": str(task.output_kind),
        "calls": task.calls,
        "description": task.description,
        "excluded": task.excluded,
        "reason": task.reason,
        "created_at": task.created_at,
    }


def _price(config: Config) -> about.Price | None:
    generalist = config.generalist
    if generalist is None or not (generalist.price_in or generalist.price_out):
        return None
    return about.Price(tokens_in=generalist.price_in, tokens_out=generalist.price_out)


def _worth(task: Task, config: Config) -> dict[str, Any]:
    """Volume, cost, examples, answers and suitability, for programs."""
    found, judged = (
        about.shares(task, _price(config)),
        about.suitability(task, min_calls=config.learning.min_calls),
    )
    counted = task.match.get("about") or {}
    return {
        "calls_share": found.calls,
        "cost_share": found.cost,
        "cost_usd": found.cost_usd,
        "cost_by": found.by,
        "tokens_in": counted.get("tokens_in"),
        "tokens_out": counted.get("tokens_out"),
        "tokens_guessed": found.guessed,
        "examples": list(counted.get("examples", ())),
        "answers": dict(counted.get("answers", {})),
        "shapes": dict(counted.get("shapes", {})),
        "suitable": judged.verdict,
        "suitable_because": list(judged.reasons),
    }


def _worth_shown(task: Task, config: Config) -> dict[str, Any]:
    """The same for people."""
    found, judged = (
        about.shares(task, _price(config)),
        about.suitability(task, min_calls=config.learning.min_calls),
    )
    shown: dict[str, Any] = {}
    if found.calls is not None and found.cost is not None:
        money = "" if found.cost_usd is None else f", {found.cost_usd:,.2f} USD"
        guessed = " (tokens guessed from characters)" if found.guessed else ""
        shown["share"] = f"{found.calls:.1%} of all calls, {found.cost:.1%} of {found.by}{money}{guessed}"
    shown["specialist"] = f"{judged.verdict}: {'; '.join(judged.reasons)}"
    counted = task.match.get("about") or {}
    if counted.get("answers"):
        shown["answers"] = [f"{_cut(name, 40)} ({count:,})" for name, count in counted["answers"].items()]
    if counted.get("examples"):
        shown["examples"] = list(counted["examples"])
    return shown


def _costs_shown(task: Task, books: Books | None) -> dict[str, Any]:
    """Money and time of the task's calls, and where it is best done."""
    if books is None:
        return {"costs": "not added up yet: shoal costs"}
    account, advice = books.accounts.tasks.get(task.id), books.advice.get(task.id)
    shown: dict[str, Any] = {}
    if account is not None:
        shown["paid"] = (
            f"{usd(account.paid_usd)} of {usd(account.all_generalist_usd)} by the large model alone"
        )
        if account.by_specialist:
            shown["saved"] = f"{usd(account.saved_usd)}, {usd(account.net_usd)} after learning"
            shown["latency"] = (
                f"{both(account.specialist_p50_ms, account.specialist_p95_ms)} (p50 / p95), the large model's "
                f"{both(account.generalist_p50_ms, account.generalist_p95_ms)}"
            )
        if books.accounts.stand_ins:
            shown["money"] = "made up: the large model is a stand-in"
    if advice is not None:
        shown["best done"] = f"{advice.tier}: {'; '.join(advice.reasons)}"
    return shown


def _cut(value: object, most: int = 300) -> str:
    text = str(value)
    return text if len(text) <= most else text[: most - 1] + "…"


def _why(task: Task, config: Config) -> str:
    """The newest word on a task; before its first training, what speaks for and against a specialist."""
    if task.excluded:
        return "excluded by the owner"
    if task.reason:
        return task.reason
    judged = about.suitability(task, min_calls=config.learning.min_calls)
    return f"{judged.verdict}: {'; '.join(judged.reasons)}"


def _match_shown(task: Task) -> dict[str, Any]:
    """The part of a task's match data that people can read."""
    data = task.match
    shown: dict[str, Any] = {
        "templates": [Template.from_dict(template).shown() for template in data.get("templates", ())],
        "prompts": list(data.get("fingerprints", ())),
        "inputs": list(data.get("structures", ())),
        "turns": shown_turn(tuple((mark, wanted) for mark, wanted in data.get("turn", ()))),
        "languages": [language or "undecided" for language in data.get("languages", ())],
        "tools": list(data.get("tool_set", ())),
        "format": data.get("format") or "text",
        "split": data.get("split"),
        "merged_into": data.get("merged_into"),
    }
    return {name: value for name, value in shown.items() if value}
