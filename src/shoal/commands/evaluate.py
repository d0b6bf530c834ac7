"""`shoal eval`: a log through today's router and specialists, without a site, scored against the recorded answers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from shoal.commands._amounts import usd
from shoal.commands._shared import (
    ConfigOption,
    HomeOption,
    JsonOption,
    existing_home,
    out,
    print_json,
    read_config,
)
from shoal.errors import UsageError

app = typer.Typer(help="Put a log through today's router and specialists.")


@app.command("eval")
def evaluate_log(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A log, in any format that import takes.")],
    predictions: Annotated[
        Path | None, typer.Option("--out", metavar="PRED.jsonl", help="Write a line for each call.")
    ] = None,
    weak_strong: Annotated[
        bool,
        typer.Option(
            "--weak-strong", help="FILE says of each prompt whether a weak and a strong model were right."
        ),
    ] = False,
    prompt: Annotated[
        str, typer.Option("--prompt", metavar="COLUMN", help="With --weak-strong: the prompts.")
    ] = "prompt",
    weak: Annotated[
        str | None,
        typer.Option("--weak", metavar="COLUMN", help="With --weak-strong: was the weak one right?"),
    ] = None,
    strong: Annotated[
        str | None,
        typer.Option("--strong", metavar="COLUMN", help="With --weak-strong: was the strong one right?"),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="With --weak-strong: of the folds.")] = 0,
    home: HomeOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Put a log's requests through today's router and specialists, and score them against the recorded answers.

    For each task the serving version answers, or else the newest that passed its gate. With --weak-strong, learn a router between two models
    by five-fold cross-validation instead, and say what it is worth; that needs no data folder.
    """
    if weak_strong:
        if predictions is not None:
            raise UsageError("--out takes no --weak-strong.", remedy="Leave one of them out.", param="--out")
        from shoal.commands._weak_strong import run_weak_strong, show_weak_strong

        found = run_weak_strong(file, prompt=prompt, weak=weak, strong=strong, seed=seed)
        if as_json:
            print_json(found)
        else:
            show_weak_strong(found)
        return
    if weak is not None or strong is not None:
        raise UsageError(
            "--weak and --strong take --weak-strong.", remedy="Add --weak-strong.", param="--weak-strong"
        )
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
    table.add_column("task", overflow="fold", max_width=24)
    for heading in ("calls", "answered", "wrong", "95% interval", "all large", "routed"):
        table.add_column(heading, justify="right")
    for row in [*report["tasks"], {**report["total"], "name": "in all"}]:
        risk, interval = row["risk"], row["risk_interval"]
        table.add_row(
            escape(str(row["name"])),
            f"{row['calls']:,}",
            f"{row['coverage']:.1%}",
            "-" if risk is None else f"{risk:.1%}",
            "-" if interval is None else f"{interval[0]:.1%} - {interval[1]:.1%}",
            usd(row["generalist_cost_usd"]),
            usd(row["routed_cost_usd"]),
        )
    out.print(table)
    out.print(
        "answered: share of calls that a specialist would answer. wrong: share of those\n"
        "answers. all large: by the large model alone. routed: what the specialists leave\n"
        "to it, and their compute here.",
        highlight=False,
    )
    if report["total"]["generalist_cost_usd"] is None:
        out.print("No price is known: generalist.price_in and price_out in shoal.yaml.", highlight=False)
