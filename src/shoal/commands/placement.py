"""`shoal placement`: where specialists run, why there and not elsewhere; decide anew."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from shoal.cluster.placement import Decision
from shoal.commands._shared import HomeOption, JsonOption, existing_home, out, print_json
from shoal.commands._site_call import call_site, site_url
from shoal.errors import NotFound
from shoal.serve.nodes_status import decision_afresh, read_placement

app = typer.Typer(help="Where specialists run, and why; decide anew.")


@app.command("show")
def show(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Show which specialist runs on which node."""
    said = read_placement(existing_home(home).placement_status)
    if as_json:
        print_json(
            {name: said[name] for name in ("decision", "loaded", "demands", "nodes", "trouble", "age_s")}
        )
        return
    show_placement(said)


def show_placement(said: dict[str, Any]) -> None:
    """A table of at most 80 columns."""
    decision = Decision.from_dict(said["decision"])
    simulated = {node["name"] for node in said["nodes"] if node["simulated"]}
    loaded = set(said["loaded"])
    if not decision.assignments and not decision.unplaced:
        out.print("No specialist is to run: the generalist answers everything.", highlight=False)
        return
    table = Table(box=None, pad_edge=False)
    for name in ("SPECIALIST", "NODE", "TIER", "STATE", "SCORE", "BECAUSE"):
        table.add_column(name, overflow="fold")
    for found in sorted(decision.assignments.values(), key=lambda a: a.name):
        table.add_row(
            escape(found.name),
            found.node + ("*" if found.node in simulated else ""),
            found.tier,
            "loaded" if found.key in loaded else "loading",
            f"{found.score:.2f}",
            escape(found.reasons[0] if found.reasons else ""),
        )
    names = {demand["key"]: demand["name"] for demand in said["demands"]}
    for key in decision.unplaced:
        table.add_row(
            escape(names.get(key, key)), "-", "-", "[red]nowhere[/]", "-", "see: shoal placement explain"
        )
    out.print(table)
    if simulated:
        out.print("* simulated: a further raylet on this machine", highlight=False)
    if said["trouble"]:
        out.print(f"[yellow]{escape(said['trouble'])}[/]", highlight=False)


@app.command("explain")
def explain(
    specialist: Annotated[str, typer.Argument(help="A task's name, or name@version.")],
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say why a specialist runs where it does, and why on no other node."""
    said = read_placement(existing_home(home).placement_status)
    decision = Decision.from_dict(said["decision"])
    found = [d for d in said["demands"] if specialist in (d["key"], d["name"], d["name"].rpartition("@")[0])]
    if not found:
        raise NotFound(
            f"No specialist {specialist!r} is to run.", remedy="shoal placement show names those that are."
        )
    rows = [_explained(demand, decision) for demand in found]
    if as_json:
        print_json({"specialists": rows})
        return
    for row in rows:
        out.print(f"[bold]{escape(row['name'])}[/]", highlight=False)
        out.print(f"  asks for   {escape(row['asks'])}", highlight=False)
        if row["node"]:
            out.print(
                f"  runs on    {row['node']} (tier {row['tier']}), score {row['score']:.2f}", highlight=False
            )
            out.print(f"  because    {escape(', '.join(row['reasons']))}", highlight=False, width=80)
        else:
            out.print("  runs       [red]nowhere[/]: the generalist answers its task", highlight=False)
        for node, reason in row["rejected"]:
            out.print(f"  not on     {escape(node)}: {escape(reason)}", highlight=False, width=80)


def _explained(demand: dict[str, Any], decision: Decision) -> dict[str, Any]:
    needs = demand["needs"]
    asks = [f"{needs['cpus']:g} CPU", f"{needs['memory_mb']:.0f} MiB"]
    asks += [f"{needs['gpus']:g} GPU"] if needs["gpus"] else []
    asks += [f"tier {needs['tier']}"] if needs["tier"] else []
    asks += ["never a cloud node"] if demand["private"] else []
    asks += ["shares its node's host"] if demand["small"] else []
    found = decision.assignments.get(demand["key"])
    row: dict[str, Any] = {"name": demand["name"], "key": demand["key"], "asks": ", ".join(asks)}
    if found is None:
        nowhere = [list(pair) for pair in decision.unplaced.get(demand["key"], ())]
        return {**row, "node": "", "tier": "", "score": None, "reasons": [], "rejected": nowhere}
    return {
        **row,
        "node": found.node,
        "tier": found.tier,
        "score": found.score,
        "reasons": list(found.reasons),
        "rejected": [list(pair) for pair in found.rejected],
    }


@app.command("plan")
def plan(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Show what would move if everything were decided anew now; changes nothing."""
    said = read_placement(existing_home(home).placement_status)
    now, then = Decision.from_dict(said["decision"]), decision_afresh(said)
    moves = [
        {
            "name": found.name,
            "from": now.assignments[key].node if key in now.assignments else "",
            "to": found.node,
        }
        for key, found in then.assignments.items()
        if key not in now.assignments or now.assignments[key].node != found.node
    ]
    if as_json:
        print_json({"moves": moves, "decision": then.to_dict()})
        return
    for move in moves:
        out.print(f"{escape(move['name'])}: {move['from'] or 'nowhere'} -> {move['to']}", highlight=False)
    out.print("shoal placement apply carries it out." if moves else "Nothing would move.", highlight=False)


@app.command("apply")
def apply(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Decide anew, as if nothing ran anywhere, and carry it out."""
    folder = existing_home(home)
    url = site_url(folder)
    before = Decision.from_dict(read_placement(folder.placement_status)["decision"])
    said = call_site("POST", f"{url}/v1/placement/apply")
    after = Decision.from_dict(said["decision"])
    moved = sum(
        key not in before.assignments or before.assignments[key].node != found.node
        for key, found in after.assignments.items()
    )
    if as_json:
        print_json({"moved": moved, "decision": said["decision"]})
    else:
        out.print(f"Decided anew: {moved} of {len(after.assignments)} specialists move.", highlight=False)
