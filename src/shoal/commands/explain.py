"""`shoal explain`: what would happen to a request, and why."""

from __future__ import annotations

import json
import sys
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
from shoal.errors import DataError, UsageError

app = typer.Typer(help="What would happen to a request, and why.")


@app.command("explain")
def explain(
    file: Annotated[
        str,
        typer.Argument(metavar="FILE|-", help="A chat request or a trace, as JSON; - reads standard input."),
    ],
    home: HomeOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """What would happen to this request, and why: its task, who would be asked, how sure it is."""
    folder = existing_home(home)
    from shoal.commands._learning import run_explain  # heavy: only once the arguments are right

    result = run_explain(folder, read_config(folder, config), _read(file))
    if as_json:
        print_json(result)
        return
    for name, value in result.items():
        if isinstance(value, list):
            out.print(f"{name}:", highlight=False)
            for item in value:
                out.print(f"  - {escape(str(item))}", highlight=False)
        else:
            out.print(f"{name}: {escape(str(value))}", highlight=False)


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
