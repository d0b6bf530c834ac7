"""`shoal eval`: a log through today's router and specialists, without a site, scored against the recorded answers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from shoal.commands._shared import (
    ConfigOption,
    HomeOption,
    JsonOption,
    existing_home,
    out,
    print_json,
    read_config,
)

app = typer.Typer(help="Put a log through today's router and specialists.")


@app.command("eval")
def evaluate_log(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A log, in any format that import takes.")],
    predictions: Annotated[
        Path | None, typer.Option("--out", metavar="PRED.jsonl", help="Write a line for each call.")
    ] = None,
    home: HomeOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Put a log's requests through today's router and specialists, and score them against the recorded answers.

    For each task the serving version answers, or else the newest that passed its gate.
    """
    folder = existing_home(home)
    from shoal.commands._learning import run_evaluate  # heavy: only once the arguments are right

    report = run_evaluate(folder, read_config(folder, config), file, predictions)
    if as_json:
        print_json(report)
        return
    _print(report)
    if predictions is not None:
        out.print(f"a line for each call: {predictions}")


def _print(report: dict[str, Any]) -> None:
    table = Table(box=None, pad_edge=False)
    table.add_column("task", overflow="fold", max_width=32)
    for heading in ("calls", "answered", "right", "95% interval"):
        table.add_column(heading, justify="right")
    for row in [*report["tasks"], {**report["total"], "name": "in all"}]:
        right, interval = row.get("right"), row.get("right_interval")
        table.add_row(
            escape(str(row["name"])),
            f"{row['calls']:,}",
            f"{row['coverage']:.1%}",
            "-" if right is None else f"{right:.1%}",
            "-" if interval is None else f"{interval[0]:.1%} - {interval[1]:.1%}",
        )
    out.print(table)
    out.print(
        "`answered`: share of calls that a specialist would answer. `right`: share of those answers that are right."
    )
