"""`shoal explain`: what would happen to a request, and why."""

from __future__ import annotations

import json
import sys
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
from shoal.errors import DataError, UsageError

app = typer.Typer(help="What would happen to a request, and why.")


@app.command("explain")
def explain(
    file: Annotated[
        str,
        typer.Argument(metavar="FILE|-", help="A chat request or a trace, as JSON; - reads standard input."),
    ],
    nearest: Annotated[
        int,
        typer.Option(min=0, max=100, help="Show so many of the most alike traces too; reads all of them."),
    ] = 0,
    home: HomeOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """What would happen to this request, and why: its task, who would be asked, how sure it is."""
    folder = existing_home(home)
    from shoal.commands._learning import run_explain  # heavy: only once the arguments are right

    result = run_explain(folder, read_config(folder, config), _read(file), nearest=nearest)
    if as_json:
        print_json(result)
        return
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    for name, value in _rows(result):
        table.add_row(name, escape(value))
    out.print(table, highlight=False)


def _rows(result: dict[str, Any]) -> list[tuple[str, str]]:
    """What a person wants to know, the outcome first."""
    performer, confidence = result["performer"], result.get("confidence")
    rows = [("served by", result["served_by"])]
    if result["task"] is None:
        rows.append(("task", "none that is known"))
    else:
        rows.append(
            ("task", f"{result['task']}  ({result['how']}, confidence {result['task_confidence']:.2f})")
        )
    if performer is None:
        rows.append(("performer", "the generalist"))
    else:
        rows.append(("performer", f"specialist {performer['specialist']}, {performer['state']}"))
    if confidence is not None:
        comparison = ">=" if confidence >= result["threshold"] else "<"
        rows.append(("confidence", f"{confidence:.3f} {comparison} {result['threshold']:.3f}, the threshold"))
        said = result["specialist_answer"] or json.dumps(result.get("specialist_calls", "no answer"))
        rows.append(("it says", said))
    rows += [("because" if number == 0 else "", reason) for number, reason in enumerate(result["reasons"])]
    if result["unmet"] and result["unmet"] not in result["reasons"]:
        rows.append(("unmet", result["unmet"]))
    rows.append(("novelty", (result["novelty"] or "nothing new").replace("_", " ")))
    alike = [f"{near['task']} ({near['likeness']:.0%})" for near in result["nearest"]]
    rows.append(("worded like", ", ".join(alike) or "no task"))
    rows += [
        ("nearest calls" if number == 0 else "", f"{call['likeness']:.2f} {call['id']}: {call['text']}")
        for number, call in enumerate(result.get("nearest_calls", ()))
    ]
    shadows = [shadow["specialist"] for shadow in result["shadows"]]
    if shadows:
        rows.append(("shadows", ", ".join(shadows)))
    asked = result["input"]
    keys = f" with {', '.join(asked['keys'][:8])}" if asked["keys"] else ""
    rows += [
        ("input", f"{asked['structure'].replace('_', ' ')}{keys}, language {asked['language']}"),
        ("prompt", result["prompt"] or "none"),
        ("tools", ", ".join(result["tools"]) or "none"),
        ("format", result["format"]),
        ("fingerprint", f"{result['fingerprint']}, epoch {result['epoch']}"),
    ]
    return rows


def _read(file: str) -> object:
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(
            f"{file} cannot be read: {error.strerror}.", remedy="Name a file, or - for standard input."
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not UTF-8: {error.reason}.", remedy="Save it as UTF-8.") from error
    try:
        body = json.loads(text)
    except ValueError as error:
        raise DataError(
            f"{file} is not JSON: {error}.", remedy="Give one chat request as a JSON object."
        ) from error
    return body.get("request", body) if isinstance(body, dict) else body
