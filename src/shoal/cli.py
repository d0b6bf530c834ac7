"""The `shoal` command. The module of a command is imported only when that command is called: `shoal --help` is quick."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module, metadata
from typing import Annotated

import typer

from shoal.commands._shared import run_app

#: command -> (module with its typer `app`, help)
COMMANDS = {
    "demo": ("shoal.commands.demo", "The whole story on this machine, start to end."),
    "up": ("shoal.commands.site", "Start a site."),
    "down": ("shoal.commands.site", "Stop the site."),
    "status": ("shoal.commands.site", "Say how the site is."),
    "traces": ("shoal.commands.traces", "Import, list, export and delete calls."),
    "learn": ("shoal.commands.learn", "Find tasks in the traces and train specialists for them."),
    "tasks": ("shoal.commands.tasks", "The tasks found, and the owner's corrections."),
    "specialists": ("shoal.commands.specialists", "Versions, their evidence and state."),
    "eval": ("shoal.commands.evaluate", "Put a log through today's router and specialists."),
    "costs": ("shoal.commands.costs", "What calls cost, what was saved, and where each task is best done."),
    "explain": ("shoal.commands.explain", "What would happen to a request, and why."),
    "plans": ("shoal.commands.plans", "Run plans, look at runs, continue one."),
    "nodes": ("shoal.commands.nodes", "Machines with telemetry; the command that adds one."),
    "placement": ("shoal.commands.placement", "Where specialists run, and why."),
    "keys": ("shoal.commands.keys", "API keys."),
    "report": ("shoal.commands.report", "One self-contained page of tasks and evidence."),
}


def build_app(wanted: str | None) -> typer.Typer:
    """The whole command line, with the module of one command loaded and the names and help of all."""
    root = typer.Typer(
        name="shoal",
        help="Turn an LLM agent's traffic into a shoal of small specialists, and run them on Ray.",
        epilog="The first ten minutes: shoal traces import my.jsonl && shoal learn && shoal report --out report.html",
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    root.callback()(_root)
    for name, (module, help_text) in COMMANDS.items():
        if name != wanted:
            root.command(name, help=help_text)(_not_loaded)
            continue
        app: typer.Typer = import_module(module).app
        own = [c for c in app.registered_commands if (c.name or getattr(c.callback, "__name__", "")) == name]
        if own:
            own[0].name = name
            own[0].help = own[0].help or help_text
            root.registered_commands.append(own[0])
        else:
            root.add_typer(app, name=name, help=help_text, no_args_is_help=True)
    return root


def _show_version(value: bool) -> None:
    if value:
        typer.echo(f"shoal {metadata.version('shoal')}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", is_eager=True, callback=_show_version)
    ] = False,
) -> None:
    pass


def _not_loaded() -> None:
    """Stands in the help for a command whose module was not asked for."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the `shoal` script."""
    argv = list(sys.argv[1:] if arguments is None else arguments)
    wanted = next((word for word in argv if not word.startswith("-")), None)
    sys.exit(run_app(build_app(wanted), argv))
