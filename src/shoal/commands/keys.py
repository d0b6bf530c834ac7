"""`shoal keys`: API keys with scopes, rate and budget. A key's text is shown once, when it is made."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from shoal.agents.registry.keys import DEFAULT_SCOPES, SCOPES, KeyRecord, SqlKeys
from shoal.commands._shared import HomeOption, JsonOption, existing_home, open_home, out, print_json
from shoal.commands._stores import open_registry

app = typer.Typer(help="API keys with scopes, rate and budget.", no_args_is_help=True)


@app.command("create")
def create(
    name: Annotated[str, typer.Argument(help="Whose key it is; for people.")] = "default",
    scope: Annotated[
        list[str] | None,
        typer.Option(
            "--scope", help=f"What it may do, once for each: {', '.join(SCOPES)}.", show_default=False
        ),
    ] = None,
    rate: Annotated[
        int | None, typer.Option("--rate", metavar="N", help="Most requests a minute (else no limit).")
    ] = None,
    budget: Annotated[
        float | None, typer.Option("--budget", metavar="USD", help="Most money in all (else no limit).")
    ] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a key and show it, this once."""
    keys = SqlKeys(open_registry(open_home(home)))
    record, plaintext = keys.create(name, scope or DEFAULT_SCOPES, rate, budget)
    if as_json:
        print_json({**_as_dict(record), "key": plaintext})
        return
    out.print(plaintext, highlight=False, soft_wrap=True)
    out.print(
        f"[dim]{record.id} for {escape(name)}. Keep the key: it is stored nowhere and not shown again.[/]"
    )


@app.command("ls")
def ls(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """All keys, oldest first."""
    records = SqlKeys(open_registry(existing_home(home))).ls()
    if as_json:
        print_json({"keys": [_as_dict(record) for record in records]})
        return
    if not records:
        out.print("No keys yet. Make one: shoal keys create")
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("id", "name", "scopes", "limits", "state"):
        table.add_column(heading, overflow="fold")
    for record in records:
        limits = []
        if record.rate_per_min is not None:
            limits.append(f"{record.rate_per_min}/min")
        if record.budget_usd is not None:
            limits.append(f"${record.spent_usd:.2f} of ${record.budget_usd:.2f}")
        state = "good" if record.revoked_at is None else f"revoked {_day(record.revoked_at)}"
        table.add_row(
            record.id, escape(record.name), " ".join(record.scopes), ", ".join(limits) or "none", state
        )
    out.print(table)


@app.command("revoke")
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="The id that `shoal keys ls` shows.")],
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Refuse a key from now on."""
    SqlKeys(open_registry(existing_home(home))).revoke(key_id)
    if as_json:
        print_json({"revoked": key_id})
    else:
        out.print(f"{escape(key_id)} is revoked")


def _as_dict(record: KeyRecord) -> dict[str, Any]:
    fields = asdict(record)
    del fields["sha256"]
    return fields


def _day(timestamp: float) -> str:
    return datetime.fromtimestamp(timestamp).strftime("%Y-%m-%d")
