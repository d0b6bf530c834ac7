"""`shoal report`: one self-contained page of tasks and evidence. Needs no site."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

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

app = typer.Typer(help="One self-contained page of tasks and evidence.")


@app.command("report")
def report(
    file: Annotated[Path, typer.Option("--out", metavar="FILE.html", help="Where to write the page.")] = Path(
        "report.html"
    ),
    home: HomeOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write tasks, evidence and savings as one HTML page that needs nothing else."""
    from shoal.serve.report import Price, write_report

    folder = existing_home(home)
    settings = read_config(folder, config)
    generalist = settings.generalist
    price = None
    if generalist is not None and (generalist.price_in or generalist.price_out):
        price = Price(tokens_in=generalist.price_in, tokens_out=generalist.price_out)
    page = file.expanduser().absolute()
    said = write_report(folder, open_registry(folder), open_traces(folder, settings), page, price=price)
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
            }
        )
        return
    out.print(f"{said.calls:,} calls, {len(said.tasks)} tasks, {said.with_specialist} with a specialist")
    out.print(f"The page: {escape(str(page))}", soft_wrap=True)
