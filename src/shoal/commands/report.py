"""`shoal report`: one self-contained page of tasks and evidence. Needs no site."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from shoal.agents.contract.break_even import Price
from shoal.commands._shared import (
    ConfigOption,
    HomeOption,
    JsonOption,
    existing_home,
    out,
    print_json,
    read_config,
)
from shoal.commands._stores import open_registry, open_traces
from shoal.config import Config

app = typer.Typer(help="One self-contained page of tasks and evidence.")


@app.command("report")
def report(
    file: Annotated[Path, typer.Option("--out", metavar="FILE.html", help="Where to write the page.")] = Path(
        "report.html"
    ),
    home: HomeOption = None,
    config: ConfigOption = None,
    price_in: Annotated[
        float | None,
        typer.Option(
            "--price-in", metavar="USD", min=0, help="Per million tokens (default: generalist.price_in)."
        ),
    ] = None,
    price_out: Annotated[
        float | None,
        typer.Option(
            "--price-out", metavar="USD", min=0, help="Per million tokens (default: generalist.price_out)."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write tasks, evidence and savings as one HTML page that needs nothing else."""
    # a few seconds' work: threads that wait for each other make it many times slower on a busy machine
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from shoal.agents.feedback.audit_view import audit_of
    from shoal.agents.feedback.expenses import SqlExpenses
    from shoal.serve.engines import load
    from shoal.serve.report import write_report

    folder = existing_home(home)
    settings = read_config(folder, config)
    page = file.expanduser().absolute()
    registry = open_registry(folder)
    said = write_report(
        folder,
        registry,
        open_traces(folder, settings),
        page,
        price=_price(settings, price_in, price_out),
        config=settings,
        expenses=SqlExpenses(registry.database).all(),
        load=lambda version: load(folder.models / version.folder, version.sha256),
        audit=lambda version: audit_of(version, registry.evidence(version.key)),
    )
    if as_json:
        print_json(
            {
                "report": str(page),
                "bytes": page.stat().st_size,
                "calls": said.calls,
                "tasks": len(said.tasks),
                "with_specialist": said.with_specialist,
                "answered_by_specialists": said.served_share,
                "could_be_answered_by_specialists": said.could_share,
                "spent_usd": said.spent_usd,
                "saved_usd": said.saved_usd,
                "saves_per_1000_calls_usd": said.saves_per_1000_usd,
                "saves_per_month_usd": said.saves_per_month_usd,
                "learning_usd": said.learning_usd,
            }
        )
        return
    out.print(f"{said.calls:,} calls, {len(said.tasks)} tasks, {said.with_specialist} with a specialist")
    out.print(f"The page: {escape(str(page))}", soft_wrap=True)


def _price(settings: Config, price_in: float | None, price_out: float | None) -> Price | None:
    """The generalist's price; None where neither the command nor the configuration says one."""
    generalist = settings.generalist
    tokens_in = price_in if price_in is not None else generalist.price_in if generalist else 0.0
    tokens_out = price_out if price_out is not None else generalist.price_out if generalist else 0.0
    return Price(tokens_in=tokens_in, tokens_out=tokens_out) if tokens_in or tokens_out else None
