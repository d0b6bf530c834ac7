"""What all commands share: options, consoles, JSON output, progress bars, and errors turned into exit codes."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

from shoal.config import Config, load_config
from shoal.errors import ConfigError, ShoalError, UsageError
from shoal.home import Home, find_home

HomeOption = Annotated[
    Path | None,
    typer.Option(
        "--home",
        metavar="DIR",
        help="The site's data folder (else SHOAL_HOME, the nearest .shoal upwards, ~/.shoal).",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")]
ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config", metavar="FILE", help="Configuration (else shoal.yaml in the data folder or here)."
    ),
]

EXIT_STOPPED = 3

#: results for people and machines
out = Console()
#: progress, warnings and errors
err = Console(stderr=True)


def folded(name: str, width: int) -> str:
    """A name in lines that leave room for other columns, cut at a hyphen where one is near."""
    return name if len(name) <= width else "\n".join(textwrap.wrap(name, width, break_on_hyphens=True))


def open_home(home: Path | None) -> Home:
    """The data folder, made if it is not there."""
    return find_home(home).create()


def existing_home(home: Path | None) -> Home:
    """The data folder, which must be there. Raises UsageError."""
    found = find_home(home)
    if not found.root.is_dir():
        raise UsageError(
            f"There is no data folder {found.root}.",
            remedy="Import a log first (shoal traces import FILE), or name the folder with --home.",
        )
    return found


def read_config(home: Home, explicit: Path | None) -> Config:
    """`--config`, else `shoal.yaml` in the data folder, else `shoal.yaml` here, else the defaults.

    A database that it names is the data folder's from now on.
    """
    found = [path for path in (home.config, Path.cwd() / "shoal.yaml") if path.is_file()]
    config = load_config(explicit or next(iter(found), None))
    if config.storage.database is not None:
        home.use_database(config.storage.database)
    return config


def print_json(data: Any) -> None:
    """One JSON object on standard output."""
    sys.stdout.write(json.dumps(data, ensure_ascii=False, default=str) + "\n")


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """A progress display on standard error; silent where that is no terminal."""
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=err,
        disable=not err.is_terminal,
        transient=True,
    ) as progress:
        yield progress


def report_error(error: ShoalError, *, as_json: bool = False) -> int:
    """Print an error that the user can mend, without a traceback; returns the exit code."""
    if as_json:
        print_json(
            {
                "error": {
                    "code": error.code,
                    "message": error.message,
                    "remedy": error.remedy,
                    "param": error.param,
                }
            }
        )
    err.print(f"[bold red]error:[/] {escape(error.message)}", highlight=False, soft_wrap=True)
    if error.remedy:
        err.print(f"  [dim]->[/] {escape(error.remedy)}", highlight=False, soft_wrap=True)
    return error.exit_code


def run_app(app: typer.Typer, arguments: list[str] | None = None) -> int:
    """Run a typer app; every way out is an exit code of INTERFACE (0 done, 1 failed, 2 usage, 3 stopped)."""
    argv = sys.argv[1:] if arguments is None else arguments
    try:
        result = app(args=argv, standalone_mode=False)
    except ShoalError as error:
        return report_error(error, as_json="--json" in argv)
    except KeyboardInterrupt:
        err.print("stopped; what was finished is kept")
        return EXIT_STOPPED
    except BrokenPipeError:
        return 0
    except OSError as error:
        if error.errno == 28:
            return report_error(
                ShoalError(
                    "The disk is full.", remedy="Free some space and run the command again; nothing is lost."
                )
            )
        raise
    except Exception as error:
        exit_code = _click_exit(error)
        if exit_code is None:
            raise
        if exit_code and "--json" in argv and hasattr(error, "format_message"):
            print_json({"error": {"code": "invalid_usage", "message": error.format_message()}})
        return exit_code
    return result if isinstance(result, int) else 0


def _click_exit(error: Exception) -> int | None:
    """The exit code of click's own exceptions (usage errors, Abort, Exit); None for any other."""
    if type(error).__name__ == "Abort":
        err.print("stopped")
        return EXIT_STOPPED
    if hasattr(error, "exit_code"):
        if hasattr(error, "show"):
            error.show()
        return int(error.exit_code)
    return None


def bad_value(option: str, value: object, rule: str, remedy: str) -> ConfigError:
    """A command-line value that breaks a rule."""
    return ConfigError(f"{option} {rule}, got {value!r}.", remedy=remedy, param=option)


def moment(option: str, text: str) -> float:
    """A day or time in ISO 8601, UTC where it names no zone, as seconds since the epoch. Raises UsageError."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise UsageError(
            f"{option} must be a day or time in ISO 8601, got {text!r}.",
            remedy=f"For example {option} 2025-06-30.",
        ) from error
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
