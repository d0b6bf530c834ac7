"""`shoal costs`: what the large model would have charged, what was paid, saved and spent on learning, by task and in all."""

from __future__ import annotations

import textwrap
import time
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from shoal.commands._amounts import both, joules, seconds, usd
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
from shoal.errors import UsageError

app = typer.Typer(help="What calls cost, what specialists saved, and where each task is best done.")

_WIDTH = 80
_NAME_WIDTH = 22
_UNITS_S = {"d": 86_400.0, "h": 3600.0, "m": 60.0}


@app.command("costs")
def costs(
    since: Annotated[
        str | None,
        typer.Option(
            "--since", metavar="WHEN", help="A day (ISO 8601, UTC), or how long back: 7d, 36h, 90m."
        ),
    ] = None,
    home: HomeOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Money and time by task and in all: paid, saved, spent on learning, and where each task is best done."""
    from shoal.serve.money import read_books

    folder = existing_home(home)
    begin = float("-inf") if since is None else moment(since, time.time())
    settings = read_config(folder, config)
    store = open_traces(folder, settings)
    registry = open_registry(folder)
    with progress_bar() as bar:
        shown = bar.add_task("adding up", total=None)
        books = read_books(
            folder,
            registry,
            store,
            settings,
            since=begin,
            progress=lambda done, total: bar.update(shown, completed=done, total=total),
        )
    if as_json:
        print_json(books.to_dict())
        return
    if not books.accounts.total.calls:
        known = store.count()
        out.print(
            f"No calls since {since}; {known:,} before."
            if known
            else "No calls yet: shoal traces import FILE",
            highlight=False,
        )
        return
    _show(books)


def moment(text: str, now: float) -> float:
    """Seconds since the epoch. Raises UsageError."""
    try:
        if (unit := _UNITS_S.get(text[-1:])) is not None:
            return now - float(text[:-1]) * unit
        found = datetime.fromisoformat(text)
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
    except ValueError as error:
        raise UsageError(
            f"--since must be a day, or how long back, got {text!r}.",
            remedy="For example --since 2026-06-30, or --since 7d.",
            param="--since",
        ) from error


def _show(books: Any) -> None:
    accounts = books.accounts
    out.print(_heading(accounts), highlight=False)
    out.print()
    _table(books)
    out.print()
    _sums(accounts.total)
    for note in notes(accounts):
        for line in textwrap.wrap(note, _WIDTH - 2, initial_indent="* ", subsequent_indent="  "):
            out.print(escape(line), highlight=False, style="dim", soft_wrap=True)
    out.print()
    where = "" if books.nodes_known else " (no site has run here, so nobody says which nodes there are)"
    out.print(f"[bold]Where each task is best done[/]{where}", highlight=False, width=_WIDTH)
    for task_id, account in books.ordered():
        if (advice := books.advice.get(task_id)) is not None and account.calls:
            _advice(books.name(task_id), advice)


def _heading(accounts: Any) -> str:
    def day(at: float) -> str:
        return datetime.fromtimestamp(at, UTC).strftime("%d %b %Y")

    span = "" if accounts.first is None else f", {day(accounts.first)} to {day(accounts.last)}"
    price = accounts.price
    known = (
        "unknown"
        if price is None
        else f"{price.tokens_in:g} USD for a million tokens in, {price.tokens_out:g} out"
    )
    return f"{accounts.total.calls:,} calls{span}\nThe large model's price: {known}"


def _table(books: Any) -> None:
    table = Table(box=None, pad_edge=False)
    table.add_column("task", no_wrap=True)
    for heading in ("calls", "moved", "all large", "paid", "saved", "learning"):
        table.add_column(heading, justify="right")
    rows = [(books.name(task_id), account) for task_id, account in books.ordered()]
    for name, account in [*rows, ("in all", books.accounts.total)]:
        table.add_row(
            escape(folded(name, _NAME_WIDTH)),
            f"{account.calls:,}",
            f"{account.answered_share:.0%}",
            usd(account.all_generalist_usd),
            usd(account.paid_usd),
            usd(account.saved_usd) if account.by_specialist or account.audits else "-",
            usd(account.spent_on_learning_usd) if account.learning_cpu_s or account.opinions else "-",
        )
    out.print(table)


def _sums(total: Any) -> None:
    compute = seconds(total.compute_cpu_s) + " of a core"
    if total.compute_gpu_s:
        compute += f", {seconds(total.compute_gpu_s)} of a GPU"
    learning = seconds(total.learning_cpu_s) + " of a core"
    if total.learning_gpu_s:
        learning += f", {seconds(total.learning_gpu_s)} of a GPU"
    shadows = seconds(total.shadow_cpu_s + total.shadow_gpu_s)
    rows = [
        ("would have cost by the large model alone", usd(total.all_generalist_usd), f"{total.calls:,} calls"),
        (
            "paid to it for what it answered",
            usd(total.paid_usd),
            f"{total.calls - total.by_specialist:,} calls",
        ),
    ]
    if total.by_specialist or total.audits or total.shadow_cpu_s or total.shadow_gpu_s:
        rows += [
            ("not paid, specialists answered", usd(total.avoided_usd), f"{total.by_specialist:,} calls"),
            ("  less their compute", usd(total.compute_usd), compute),
            ("  less shadows' compute", usd(total.shadow_usd), shadows),
            ("  less audits by the large model", usd(total.audits_usd), f"{total.audits:,} calls"),
            ("saved", usd(total.saved_usd), ""),
        ]
    rows.append(("spent on learning", usd(total.learning_usd), learning))
    if total.opinions:
        rows.append(("  second opinions and judges", usd(total.opinions_usd), f"{total.opinions:,} calls"))
    rows += [
        ("saved after learning", usd(total.net_usd), _even(total)),
        ("energy of GPUs", joules(total.energy_joules), ""),
    ]
    for who, p50, p95 in (
        ("a specialist's answer", total.specialist_p50_ms, total.specialist_p95_ms),
        ("the large model's", total.generalist_p50_ms, total.generalist_p95_ms),
    ):
        rows.append((f"{who}, p50 / p95", both(p50, p95), ""))
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(min_width=40)
    table.add_column(justify="right")
    table.add_column(style="dim")
    for name, amount, note in rows:
        style = "bold" if name.startswith("saved") else ""
        table.add_row(name, amount, note, style=style)
    out.print(table)


def _even(total: Any) -> str:
    """When learning is earned back, at what a call has saved so far."""
    calls = total.even_after_calls
    if calls is None or not total.by_specialist:
        return ""
    return f"even after {calls:,} calls" if calls > total.calls else f"even since {calls:,} calls"


def notes(accounts: Any) -> list[str]:
    """What a reader must know to believe the figures."""
    total, found = accounts.total, []
    if accounts.stand_ins:
        names = ", ".join(accounts.stand_ins)
        found.append(
            f"The large model is a stand-in ({names}): its price is only stated, so the money is made up."
        )
    if accounts.price is None:
        found.append("No price is known: set generalist.price_in and price_out in shoal.yaml.")
    if total.paid_at_todays_price and accounts.price is not None:
        found.append(f"{total.paid_at_todays_price:,} calls name no cost; today's price was taken.")
    if total.unmeasured:
        found.append(
            f"The compute of {total.unmeasured:,} specialists' answers was not measured: a little less was saved."
        )
    if total.estimated:
        found.append(
            f"{total.estimated:,} calls do not say how many tokens they took: estimated, one for every four bytes."
        )
    if total.compute_usd is None or total.learning_usd is None or total.shadow_usd is None:
        found.append("What a GPU costs is not known: set costs.gpu_hour_usd in shoal.yaml.")
    if total.energy_joules is None:
        found.append("Energy is unknown: no GPU was metered.")
    if accounts.of_agents:
        found.append(
            f"{accounts.of_agents:,} calls of agents are left out: their steps' calls are counted by themselves."
        )
    return found


def _advice(name: str, advice: Any) -> None:
    out.print(f"{escape(name)}: [bold]{escape(advice.tier)}[/]", highlight=False, soft_wrap=True)
    parts = ["; ".join(advice.reasons)]
    parts += [f"not {who}: {why}" for who, why in advice.rejected.items() if who != advice.tier]
    for part in parts:
        for line in textwrap.wrap(part, _WIDTH - 2, initial_indent="  ", subsequent_indent="  "):
            out.print(escape(line), highlight=False, soft_wrap=True)
