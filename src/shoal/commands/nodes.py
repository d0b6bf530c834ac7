"""`shoal nodes`: the machines with their telemetry, and the command that adds one."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from shoal.cluster.needs import node_labels
from shoal.commands._shared import HomeOption, JsonOption, existing_home, out, print_json
from shoal.errors import UsageError
from shoal.nodes.identity import TIERS
from shoal.serve.nodes_status import SILENT_S, nodes_table, read_placement
from shoal.serve.site_record import read_record

app = typer.Typer(help="Machines with telemetry, and the command that adds one.")


@app.command("ls")
def ls(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """List the nodes: tier, load, memory, GPUs, and how many specialists each holds."""
    said = read_placement(existing_home(home).placement_status)
    rows = nodes_table(said)
    if as_json:
        print_json({"nodes": rows, "age_s": said["age_s"]})
    else:
        show_nodes(rows, said["age_s"])


def show_nodes(rows: list[dict[str, Any]], age_s: float) -> None:
    """A table of at most 80 columns, and what must be said of it."""
    table = Table(box=None, pad_edge=False)
    for name, right in (
        ("NODE", False),
        ("TIER", False),
        ("STATE", False),
        ("CPUS", True),
        ("BUSY", True),
        ("MEMORY FREE", True),
        ("SPECIALISTS", True),
        ("GPUS", False),
    ):
        table.add_column(name, justify="right" if right else "left", no_wrap=name != "GPUS")
    for row in rows:
        free = "-"
        if row["memory_total_mb"]:
            free = f"{row['memory_available_mb'] / 1024:.1f}/{row['memory_total_mb'] / 1024:.0f} GB"
        table.add_row(
            escape(row["name"] if len(row["name"]) <= 16 else row["name"][:12])
            + ("*" if row["simulated"] else ""),
            row["tier"],
            "alive" if row["alive"] else "[red]away[/]",
            f"{row['cpus']:g}",
            "-" if row["busy"] is None else f"{row['busy']:.0%}",
            free,
            str(row["specialists"]),
            escape(row["gpus"]),
        )
    out.print(table)
    if any(row["simulated"] for row in rows):
        out.print(
            "* simulated: a further raylet on this machine, which shares its CPUs and memory", highlight=False
        )
    if age_s > SILENT_S:
        out.print(f"[yellow]the placement actor said this {age_s:.0f} s ago[/]", highlight=False)


@app.command("join")
def join(
    tier: Annotated[str, typer.Option("--tier", help="cloud, edge or local.")] = "edge",
    name: Annotated[str, typer.Option("--name", help="The node's name in the site.")] = "",
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print the command to run on a machine that is to join.

    It is for a Ray cluster of several machines (`shoal up --address`). A site with a Ray of its own stays on loopback.
    """
    if tier not in TIERS:
        raise UsageError(
            f"--tier must be one of {', '.join(TIERS)}, got {tier!r}.",
            remedy="For example --tier edge.",
            param="--tier",
        )
    record = read_record(existing_home(home).site)
    if record is None:
        raise UsageError("No site is up here.", remedy="Start one: shoal up --address HOST:PORT")
    if record.mode == "local":
        raise UsageError(
            "This site has a Ray of its own, on loopback: no other machine can join it.",
            remedy="Start a Ray cluster (`ray up ray_config.yaml`), then: shoal up --address HOST:PORT. "
            "To try several nodes on this machine: shoal up --nodes cloud=1,edge=1,local=1",
        )
    command = join_command(record.address, tier, name)
    if as_json:
        print_json({"command": command, "address": record.address, "tier": tier})
    else:
        out.print("On the machine that is to join, with RAY_AUTH_TOKEN set as on the head:", highlight=False)
        out.print(f"  {escape(command)}", highlight=False, soft_wrap=True)


def join_command(address: str, tier: str, name: str) -> str:
    """What makes a machine a node of a Ray cluster, with its tier, its name and its memory declared."""
    labels = {**node_labels(tier), **({"shoal-node": name} if name else {})}
    told = ",".join(f"{key}={value}" for key, value in labels.items())
    memory = "\"$(free -m | awk '/^Mem:/ {print $2}')\""
    return (
        f"RAY_AUTH_MODE=token SHOAL_TIER={tier} ray start --address={address} --labels={told} "
        f"--resources='{{\"shoal_memory_mb\": '{memory}'}}'"
    )
