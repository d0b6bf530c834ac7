"""`shoal specialists`: versions, their evidence and state, and the owner's word on them."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from shoal.agents.feedback.audit_view import audit_of
from shoal.agents.feedback.governance import pause_version, promote_version, rollback_task
from shoal.agents.feedback.version_events import version_events
from shoal.agents.learning.folder import verify
from shoal.agents.learning.forgetting import knowing_erased
from shoal.agents.learning.model_card import WIDTH, card_text, version_facts
from shoal.agents.ports import Registry
from shoal.agents.registry.records import Task, Version, VersionState
from shoal.agents.registry.trainings import Training
from shoal.commands._shared import HomeOption, JsonOption, existing_home, moment, out, print_json
from shoal.commands._stores import open_registry
from shoal.errors import CorruptModel, NotFound
from shoal.home import Home

app = typer.Typer(help="Versions, their evidence and state.", no_args_is_help=True)

SpecialistArgument = Annotated[str, typer.Argument(metavar="TASK[@N]", help="A task, or one version of it.")]


@app.command("ls")
def ls(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """All versions, newest last."""
    place = existing_home(home)
    registry = open_registry(place)
    tasks = {task.id: task for task in registry.tasks()}
    versions = [v for v in registry.versions() if v.task_id in tasks]
    erased = knowing_erased(place, versions)
    made = [training for training in registry.trainings() if training.task_id in tasks]
    if as_json:
        found = [_as_dict(tasks[v.task_id], v, erased.get(v.key, 0)) for v in versions]
        print_json({"specialists": [*found, *(_made(tasks[m.task_id], m) for m in made)]})
        return
    if not versions and not made:
        out.print("No specialists yet. Train some: shoal learn")
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("specialist", "kind", "state"):
        table.add_column(heading, overflow="fold")
    for heading in ("answers", "of those right"):
        table.add_column(heading, justify="right")
    for version in versions:
        table.add_row(
            f"{escape(tasks[version.task_id].name)}@{version.number}",
            version.kind,
            str(version.state) + (", learn again" if version.key in erased else ""),
            _share(version, "coverage"),
            _share(version, "right_answered"),
        )
    for training in made:
        minutes = (time.time() - training.started_at) / 60
        name = f"{escape(tasks[training.task_id].name)}@{training.number}"
        table.add_row(name, "-", f"training for {minutes:.0f} min", "-", "-")
    out.print(table)
    if erased:
        out.print(f"{len(erased)} were trained on calls that are erased since: shoal learn", highlight=False)
    out.print("Shares of held-out calls. Why, and every figure: shoal specialists show TASK@N", style="dim")


def _made(task: Task, training: Training) -> dict[str, Any]:
    return {
        "specialist": f"{task.name}@{training.number}",
        "task": task.name,
        "task_id": task.id,
        "version": training.number,
        "state": str(VersionState.TRAINING),
        "pid": training.pid,
        "started_at": training.started_at,
    }


def _share(version: Version, name: str) -> str:
    figure = version.evidence.get("gate", {}).get("figures", {}).get(name, {})
    return f"{figure['value']:.1%}" if figure.get("count") else "-"


@app.command("show")
def show(specialist: SpecialistArgument, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """One version: its model card (contract, evidence, cost, data, licences), needs, audit and history. Its files are checked."""
    place = existing_home(home)
    registry = open_registry(place)
    task, version = find_version(registry, specialist)
    erased = knowing_erased(place, [version]).get(version.key, 0)
    history = registry.history(version.key)
    audit = audit_of(version, registry.evidence(version.key))
    sealed, checked = _checked(place, version)
    facts = version_facts(task, version, sealed)
    if as_json:
        known = {k: facts[k] for k in ("base", "parents", "licences", "data", "outputs_may_train", "metrics")}
        own = {"card": known, "files": checked, "audit": audit.to_dict(), "history": history}
        print_json({**_as_dict(task, version, erased), **own})
        return
    out.print(f"[bold]{escape(task.name)}@{version.number}[/]  {version.kind}, {version.state}")
    if erased:
        out.print(f"[bold]trained on {erased:,} erased calls; learn again:[/] shoal learn", highlight=False)
    # as it is, so that it can be read, mailed and compared: no wrapping, no markup
    out.print(card_text(facts), markup=False, highlight=False, soft_wrap=True)
    out.print(f"files: {checked}", highlight=False, markup=False, width=WIDTH)
    needs = ", ".join(f"{name} {value}" for name, value in version.needs.items() if value != "")
    out.print(f"needs: {escape(needs) or '-'}", highlight=False, width=WIDTH)
    out.print("audit:", highlight=False)
    for line in audit.lines():
        out.print(f"  {line}", highlight=False, markup=False, width=WIDTH)
    out.print("history:", highlight=False)
    for event in history:
        out.print(f"  {_told(event)}", highlight=False, width=WIDTH)


@app.command("history")
def history(
    specialist: Annotated[
        str | None,
        typer.Argument(metavar="[TASK[@N]]", help="A task, or one version of it; all if left out."),
    ] = None,
    since: Annotated[
        str | None, typer.Option("--since", metavar="WHEN", help="From this day or time on (ISO 8601, UTC).")
    ] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """What happened to versions: each step, when, why, at whose word, and in which epoch. Also of those that are gone."""
    registry = open_registry(existing_home(home))
    events = version_events(registry, specialist, None if since is None else moment("--since", since))
    if as_json:
        print_json({"events": events})
        return
    for event in events:
        out.print(f"{escape(event['specialist'])}  {_told(event)}", highlight=False, soft_wrap=True)
    if not events:
        out.print("Nothing has happened.")


def _told(event: dict[str, Any]) -> str:
    when = datetime.fromtimestamp(event["at"], tz=UTC).strftime("%Y-%m-%d %H:%M:%S")
    steps = f"{event['from'] or 'new'} -> {event['to'] or 'gone'}"
    asker = f" ({event['asker']})" if event["asker"] else ""
    return f"{when} UTC  {steps}{asker}: {escape(str(event['reason']))}"


def _checked(home: Home, version: Version) -> tuple[dict[str, Any] | None, str]:
    """The sealed card of a version, None where it cannot be trusted; and in words how its files are."""
    if version.state is VersionState.REJECTED and not (home.models / version.folder).exists():
        return None, "removed: it was refused, and calls that it was trained on are erased since"
    try:
        card = verify(home.models / version.folder, version.sha256)
    except CorruptModel as error:
        return None, f"refused: {error.message}"
    return card, f"{len(card['files'])} and the card, each as its SHA-256 says ({version.sha256[:12]}…)"


@app.command("promote")
def promote(specialist: SpecialistArgument, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Let a version answer its task's calls; the one before it retires."""
    registry = open_registry(existing_home(home))
    task, version = find_version(registry, specialist)
    promote_version(registry, version)
    _say(as_json, task, version, "serving")


@app.command("pause")
def pause(specialist: SpecialistArgument, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Send a version's calls to the generalist until it is promoted again."""
    registry = open_registry(existing_home(home))
    task, version = find_version(registry, specialist)
    pause_version(registry, version)
    _say(as_json, task, version, "paused")


@app.command("rollback")
def rollback(specialist: SpecialistArgument, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Take the serving version back: its predecessor serves again, or the generalist."""
    registry = open_registry(existing_home(home))
    task, _ = find_version(registry, specialist)
    back_to = rollback_task(registry, task)
    if as_json:
        print_json(
            {"task": task.name, "served_by": None if back_to is None else f"{task.name}@{back_to.number}"}
        )
    elif back_to is None:
        out.print(f"{escape(task.name)}: the generalist answers")
    else:
        out.print(f"{escape(task.name)}@{back_to.number} serves again")


def find_version(registry: Registry, name: str) -> tuple[Task, Version]:
    """`TASK@N`, or the newest version of `TASK` that is not rejected. Raises NotFound."""
    task_name, _, number = name.removeprefix("specialist/").partition("@")
    task = registry.task(task_name)
    versions = registry.versions(task.id)
    if number:
        versions = [v for v in versions if str(v.number) == number]
    else:
        versions = [v for v in versions if v.state != "rejected"] or versions
    if not versions:
        raise NotFound(
            f"There is no specialist {name!r}.", remedy="shoal specialists ls names those there are."
        )
    return task, versions[-1]


def _say(as_json: bool, task: Task, version: Version, state: str) -> None:
    if as_json:
        print_json({"task": task.name, "version": version.number, "state": state})
    else:
        out.print(f"{escape(task.name)}@{version.number} is {state}")


def _as_dict(task: Task, version: Version, erased: int) -> dict[str, Any]:
    return {
        "specialist": f"{task.name}@{version.number}",
        "task": task.name,
        "task_id": task.id,
        "version": version.number,
        "kind": version.kind,
        "state": str(version.state),
        "threshold": version.threshold,
        "alpha": version.alpha,
        "delta": version.delta,
        "evidence": dict(version.evidence),
        "needs": dict(version.needs),
        "reason": version.reason,
        "created_at": version.created_at,
        "erased_calls": erased,
        "sha256": version.sha256,
    }
