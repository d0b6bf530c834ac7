"""`shoal report`: one self-contained page of tasks, evidence and savings. No script, nothing loaded from elsewhere.

Owns what the page says (`gather`, plain data) and its rendering. Reads registry and traces through their Protocols and changes
neither; what a version's evidence does not say is left out. Texts of calls come from the trace store alone, so that what was
erased is on no later page. Knows nothing of Ray or of how models are made.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from shoal.agents.contract.break_even import Price
from shoal.agents.feedback.audit_view import AuditView
from shoal.agents.feedback.ledger import Expense
from shoal.agents.ports import Engine, Registry, TraceStore
from shoal.agents.registry.records import Task, TaskId, Version, VersionState
from shoal.agents.routing.snapshot import LIVE_STATES
from shoal.config import Config
from shoal.errors import UsageError
from shoal.home import Home
from shoal.serve import report_svg
from shoal.serve.money import Books, make_books
from shoal.serve.report_evidence import CallRef, read_calls
from shoal.serve.report_map import draw_map
from shoal.serve.report_tasks import Shown, answered_by, task_view, when
from shoal.serve.report_traces import Readings, Tally, read_traces
from shoal.serve.report_views import Report, TaskView

__all__ = ["Price", "Report", "gather", "render", "write_report"]

#: makes a version answer; raises CorruptModel where its folder is not what its card says
Load = Callable[[Version], Engine]
#: what was seen of a version since it is asked
Audit = Callable[[Version], AuditView]
_TEMPLATES = Path(__file__).resolve().parent / "templates"
_MOST_MODELS = 12
_DEFAULTS = Config()


def gather(
    home: Home,
    registry: Registry,
    store: TraceStore,
    *,
    price: Price | None,
    now: float,
    config: Config = _DEFAULTS,
    expenses: Sequence[Expense] = (),
    load: Load | None = None,
    audit: Audit | None = None,
) -> Report:
    """Read registry and traces into what the page says. Every trace is read once.

    Args:
        now: seconds since the epoch.
        config: what machines cost, and what decides where a task is best done.
        expenses: what was spent beside the calls.
        load: asks specialists what they say to the calls that their evidence points to; left out where None.
        audit: how a version's audit stands; left out where None.
    """
    tasks = [task for task in registry.tasks() if not task.match.get("retired")]
    versions: dict[TaskId, list[Version]] = {}
    for version in registry.versions():
        versions.setdefault(version.task_id, []).append(version)
    shown = {task.id: _shown(versions.get(task.id, [])) for task in tasks}
    calls = {task_id: read_calls(v.evidence) for task_id, v in shown.items() if v is not None}
    wanted = {ref.id for kinds in calls.values() for refs in kinds.values() for ref in refs}
    read = read_traces(store, tasks, wanted)
    ranks = _ranks(tasks, read)
    all_cost = sum(tally.cost(price) for tally in read.tallies.values()) or 1.0
    views = []
    for task in sorted(tasks, key=lambda t: ranks[t.id]):
        tally = read.tallies.get(task.id, Tally())
        answering = shown[task.id]
        refs: Mapping[str, Sequence[CallRef]] = calls.get(task.id, {})
        answers, fault = answered_by(answering, refs, read.picked, load)
        views.append(
            task_view(
                Shown(task=task, version=answering, versions=versions.get(task.id, []), tally=tally),
                home=home,
                rank=ranks[task.id],
                all_calls=read.total.calls,
                cost_share=tally.cost(price) / all_cost,
                calls_per_day=read.per_day(tally.calls),
                price=price,
                core_hour_usd=config.learning.core_hour_usd,
                refs=refs,
                picked=read.picked,
                answers=answers,
                fault=fault,
                audit=None if audit is None or answering is None else audit(answering),
            )
        )
    books = make_books(
        home,
        read.ledger,
        tasks=tasks,
        versions=[v for own in versions.values() for v in own],
        expenses=expenses,
        config=config,
        price=price,
    )
    return _report(
        home,
        views,
        read,
        price=price,
        core_hour_usd=config.learning.core_hour_usd,
        now=now,
        all_cost=all_cost,
        books=books,
    )


def _report(
    home: Home,
    views: Sequence[TaskView],
    read: Readings,
    *,
    price: Price | None,
    core_hour_usd: float,
    now: float,
    all_cost: float,
    books: Books,
) -> Report:
    total = read.total
    passed = [v for v in views if v.verdict == "specialist"]
    moved_cost = sum(v.moves * read.tallies.get(TaskId(v.anchor), Tally()).cost(price) for v in passed)
    # calls in no task cost, too
    whole_cost = total.cost(price) or all_cost
    running = sum(v.money.even.specialist_call_usd * v.calls for v in passed if v.money is not None)
    return Report(
        home=str(home.root),
        made_at=when(now),
        first_call=when(read.first) if total.calls else "",
        last_call=when(read.last) if total.calls else "",
        calls=total.calls,
        calls_per_day=read.per_day(total.calls),
        in_tasks=sum(tally.calls for tally in read.tallies.values()),
        served_share=total.by_specialist / total.calls if total.calls else 0.0,
        could_share=sum(v.moves * v.calls for v in passed) / total.calls if total.calls else 0.0,
        could_cost_share=moved_cost / whole_cost if total.calls else 0.0,
        spent_usd=books.accounts.total.paid_usd,
        saved_usd=books.accounts.total.saved_usd,
        books=books,
        could_save_usd=None if price is None else moved_cost - running,
        learning_usd=sum(v.money.even.learning_usd for v in views if v.money is not None),
        core_hour_usd=core_hour_usd,
        tokens_estimated=total.estimated / total.calls if total.calls else 0.0,
        price=price,
        models=[(model, note, count) for (model, note), count in read.models.most_common(_MOST_MODELS)],
        tasks=views,
        map=draw_map(
            read.sample, {t: tally.calls / max(1, total.calls) for t, tally in read.tallies.items()}
        ),
    )


def _shown(versions: Sequence[Version]) -> Version | None:
    """The version that the page speaks of: the one that answers or waits to, else the newest."""
    live = [v for state in LIVE_STATES for v in versions if v.state == state]
    passed = [v for v in versions if v.state is VersionState.PAUSED]
    return live[0] if live else passed[-1] if passed else versions[-1] if versions else None


def _ranks(tasks: Sequence[Task], read: Readings) -> dict[TaskId, int]:
    def calls(task: Task) -> int:
        return read.tallies.get(task.id, Tally()).calls or task.calls

    ordered = sorted(tasks, key=lambda task: (-calls(task), task.name))
    return {task.id: rank for rank, task in enumerate(ordered, start=1)}


def render(report: Report) -> str:
    """The page as HTML; everything that came from a log is escaped."""
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = _percent
    environment.filters["usd"] = _usd
    environment.filters["soft"] = _soft
    environment.filters["duration"] = _duration
    tones = {TaskId(t.anchor): t.tone for t in report.tasks}
    ranks = {TaskId(t.anchor): t.rank for t in report.tasks}
    marks = [
        (c.answer_ms, c.right, str(t.rank) if c.chosen else "", c.chosen and t.verdict == "specialist")
        for t in report.tasks
        for c in t.candidates
        if c.answer_ms is not None and c.right is not None
    ]
    return environment.get_template("report.html").render(
        r=report,
        svg=report_svg,
        map=None if report.map is None else report_svg.task_map(report.map, tones, ranks),
        ladder=report_svg.ladder(marks),
    )


def write_report(
    home: Home,
    registry: Registry,
    store: TraceStore,
    out: Path,
    *,
    price: Price | None = None,
    now: float | None = None,
    config: Config = _DEFAULTS,
    expenses: Sequence[Expense] = (),
    load: Load | None = None,
    audit: Audit | None = None,
) -> Report:
    """Write the page to `out`, whole or not at all; returns what it says.

    Raises:
        UsageError: `out` cannot be written.
    """
    report = gather(
        home,
        registry,
        store,
        price=price,
        now=datetime.now(UTC).timestamp() if now is None else now,
        config=config,
        expenses=expenses,
        load=load,
        audit=audit,
    )
    page = render(report)
    draft = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        draft.write_text(page, encoding="utf-8")
        draft.replace(out)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise UsageError(
            f"The report {out} cannot be written: {error.strerror}.",
            remedy="Name a file in a folder that exists and is writable with --out.",
            param="--out",
        ) from error
    return report


def _percent(share: float | None, digits: int = 0) -> str:
    """A share as per cent; never rounded up to all or down to none."""
    if share is None:
        return "–"
    text = f"{share:.{digits}%}"
    if share < 1 and text == f"{1:.{digits}%}":
        return f"{share:.{digits + 1}%}" if share < 1 - 0.05 * 10 ** -(digits + 2) else f"<{text}"
    if share > 0 and text == f"{0:.{digits}%}":
        return f"{share:.{digits + 1}%}" if share >= 0.05 * 10 ** -(digits + 2) else f">{text}"
    return text


def _soft(text: str) -> Markup:
    """A name that may break after its joints."""
    return Markup(re.sub(r"([_\-./])", r"\1<wbr>", str(escape(text))))


def _usd(value: float | None) -> str:
    if value is None:
        return "–"
    if value < 0:
        return f"−{_usd(-value)}"
    if value >= 1000:
        return f"${value:,.0f}"
    if value >= 0.1 or value == 0:
        return f"${value:,.2f}"
    return f"${value:.4f}" if value >= 0.00005 else "<$0.0001"


def _duration(days: float | None) -> str:
    if days is None:
        return "–"
    if days >= 1:
        return f"{days:,.1f} days"
    hours = 24 * days
    return (
        f"{hours:.1f} hours"
        if hours >= 1
        else f"{60 * hours:.0f} minutes"
        if hours >= 1 / 60
        else "under a minute"
    )
