"""`shoal report`: one self-contained page of tasks, evidence and savings. No script, nothing loaded from elsewhere.

Owns what the page says (`gather`, plain data) and its rendering. Reads registry and traces through their Protocols and changes
neither; what a version's evidence does not say is left out. Knows nothing of Ray or of how models are made.
"""

from __future__ import annotations

import math
import os
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from shoal.agents.ports import Registry, TraceStore
from shoal.agents.registry.records import Task, TaskId, Version, VersionState
from shoal.agents.routing.snapshot import LIVE_STATES
from shoal.agents.tasks.matcher import Matcher
from shoal.agents.traces.trace import Trace
from shoal.errors import InvalidRequest, UsageError
from shoal.home import Home
from shoal.serve.report_evidence import (
    ExampleView,
    FigureView,
    as_text,
    clip,
    read_curve,
    read_figures,
    read_reason,
    read_worst,
)
from shoal.serve.report_svg import CurvePoint, bar, risk_coverage

_EXAMPLES_PER_TASK = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """USD per million tokens of the generalist."""

    tokens_in: float
    tokens_out: float

    def of(self, prompt_tokens: int, completion_tokens: int) -> float:
        """USD."""
        return (prompt_tokens * self.tokens_in + completion_tokens * self.tokens_out) / 1e6


@dataclass(slots=True, kw_only=True)
class Tally:
    """What the traces of one task, or all, add up to. Tokens as answers report them."""

    calls: int = 0
    by_specialist: int = 0
    generalist_in: int = 0
    generalist_out: int = 0
    specialist_in: int = 0
    specialist_out: int = 0
    examples: list[Trace] = field(default_factory=list)

    def add(self, trace: Trace, rng: random.Random | None) -> None:
        self.calls += 1
        usage = _usage(trace)
        if trace.served_by.startswith("specialist/"):
            self.by_specialist += 1
            self.specialist_in += usage[0]
            self.specialist_out += usage[1]
        else:
            self.generalist_in += usage[0]
            self.generalist_out += usage[1]
        if rng is None:
            return
        if len(self.examples) < _EXAMPLES_PER_TASK:
            self.examples.append(trace)
        elif (place := rng.randrange(self.calls)) < _EXAMPLES_PER_TASK:
            self.examples[place] = trace


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionView:
    number: int
    kind: str
    state: str
    reason: str
    created: str
    coverage: float | None
    threshold: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskView:
    """One task on the page. `verdict` is `specialist`, `not passed`, `excluded` or `not tried`."""

    anchor: str
    name: str
    kind: str
    description: str
    calls: int
    share: float
    by_specialist: int
    verdict: str
    state: str
    why: str
    alpha: float | None
    delta: float | None
    coverage: FigureView | None
    figures: Sequence[FigureView]
    curve: Sequence[CurvePoint]
    versions: Sequence[VersionView]
    examples: Sequence[ExampleView]
    worst: Sequence[ExampleView]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything the page says. Shares in [0, 1]; USD None where no price is known."""

    home: str
    made_at: str
    first_call: str
    last_call: str
    calls: int
    in_tasks: int
    served_share: float
    could_share: float
    spent_usd: float | None
    saved_usd: float | None
    could_save_usd: float | None
    price: Price | None
    models: Sequence[tuple[str, str, int]]
    tasks: Sequence[TaskView]

    @property
    def with_specialist(self) -> int:
        return sum(task.verdict == "specialist" for task in self.tasks)


def gather(home: Home, registry: Registry, store: TraceStore, *, price: Price | None, now: float) -> Report:
    """Read registry and traces into what the page says. Every trace is read once."""
    tasks = [task for task in registry.tasks() if not task.match.get("retired")]
    versions: dict[TaskId, list[Version]] = {}
    for version in registry.versions():
        versions.setdefault(version.task_id, []).append(version)
    total, tallies, models, times = _read_traces(store, tasks)
    views = [
        _task_view(task, versions.get(task.id, []), tallies.get(task.id, Tally()), total.calls)
        for task in tasks
    ]
    views.sort(key=lambda view: (-view.calls, view.name))
    could_calls = could_usd = 0.0
    by_name = {task.name: tallies.get(task.id, Tally()) for task in tasks}
    for view in views:
        if view.verdict == "specialist" and view.coverage is not None:
            tally = by_name[view.name]
            could_calls += view.coverage.value * tally.calls
            if price is not None:
                tokens_in = tally.generalist_in + tally.specialist_in
                tokens_out = tally.generalist_out + tally.specialist_out
                could_usd += view.coverage.value * price.of(tokens_in, tokens_out)
    return Report(
        home=str(home.root),
        made_at=_when(now),
        first_call=_when(min(times)) if times else "",
        last_call=_when(max(times)) if times else "",
        calls=total.calls,
        in_tasks=sum(tally.calls for tally in tallies.values()),
        served_share=total.by_specialist / total.calls if total.calls else 0.0,
        could_share=could_calls / total.calls if total.calls else 0.0,
        spent_usd=None if price is None else price.of(total.generalist_in, total.generalist_out),
        saved_usd=None if price is None else price.of(total.specialist_in, total.specialist_out),
        could_save_usd=None if price is None else could_usd,
        price=price,
        models=[(model, note, count) for (model, note), count in models.most_common(12)],
        tasks=views,
    )


def render(report: Report) -> str:
    """The page as HTML; everything that came from a log is escaped."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).resolve().parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = _percent
    environment.filters["usd"] = _usd
    return environment.get_template("report.html").render(r=report, bar=bar, risk_coverage=risk_coverage)


def write_report(
    home: Home,
    registry: Registry,
    store: TraceStore,
    out: Path,
    *,
    price: Price | None = None,
    now: float | None = None,
) -> Report:
    """Write the page to `out`, whole or not at all; returns what it says.

    Raises:
        UsageError: `out` cannot be written.
    """
    report = gather(
        home, registry, store, price=price, now=datetime.now(UTC).timestamp() if now is None else now
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


def _read_traces(
    store: TraceStore, tasks: Sequence[Task]
) -> tuple[Tally, dict[TaskId, Tally], Counter[tuple[str, str]], tuple[float, ...]]:
    """All traces added up: in total, by task and by who answered; and the first and last time."""
    matcher = Matcher([(task.id, task) for task in tasks])
    rngs = {task.id: random.Random(str(task.id)) for task in tasks}
    total = Tally()
    tallies: dict[TaskId, Tally] = {}
    models: Counter[tuple[str, str]] = Counter()
    first, last = math.inf, -math.inf
    for trace in store.scan():
        total.add(trace, None)
        first, last = min(first, trace.timestamp), max(last, trace.timestamp)
        said_by = trace.served_by or str(trace.response.get("model") or "not recorded")
        models[said_by, str(trace.response.get("system_fingerprint") or "")[:80]] += 1
        task_id = matcher.match(trace.chat).task_id
        if task_id is not None and task_id in rngs:
            tallies.setdefault(task_id, Tally()).add(trace, rngs[task_id])
    return total, tallies, models, (first, last) if total.calls else ()


def _task_view(task: Task, versions: Sequence[Version], tally: Tally, all_calls: int) -> TaskView:
    live = [v for state in LIVE_STATES for v in versions if v.state == state]
    shown = live[0] if live else versions[-1] if versions else None
    evidence = shown.evidence if shown is not None else {}
    figures = read_figures(evidence)
    if task.excluded:
        verdict = "excluded"
    elif shown is None:
        verdict = "not tried"
    else:
        verdict = "not passed" if shown.state is VersionState.REJECTED else "specialist"
    # the version's own reason says what last happened to its state; the gate's says what it is worth
    why = read_reason(evidence) or (shown.reason if shown is not None else "") or task.reason
    calls = tally.calls or task.calls
    return TaskView(
        anchor=str(task.id),
        name=task.name,
        kind=str(task.output_kind),
        description=clip(task.description),
        calls=calls,
        share=calls / all_calls if all_calls else 0.0,
        by_specialist=tally.by_specialist,
        verdict=verdict,
        state="" if shown is None else str(shown.state),
        why="excluded by the owner" if task.excluded else why,
        alpha=None if shown is None else shown.alpha,
        delta=None if shown is None else shown.delta,
        coverage=next((figure for figure in figures if figure.key == "coverage"), None),
        figures=figures,
        curve=read_curve(evidence),
        versions=[_version_view(version) for version in reversed(versions)],
        examples=[_example(trace) for trace in tally.examples],
        worst=read_worst(evidence),
    )


def _version_view(version: Version) -> VersionView:
    coverage = next((f.value for f in read_figures(version.evidence) if f.key == "coverage"), None)
    return VersionView(
        number=version.number,
        kind=version.kind,
        state=str(version.state),
        reason=version.reason,
        created=_when(version.created_at) if version.created_at else "",
        coverage=coverage,
        threshold=version.threshold,
    )


def _example(trace: Trace) -> ExampleView:
    try:
        answer = trace.answer
    except InvalidRequest:
        return ExampleView(prompt=clip(trace.chat.last_user_text), answer="(no answer recorded)", note="")
    said = answer.content or ""
    if answer.tool_calls:
        said = f"{said}\n{as_text(list(answer.tool_calls))}".strip()
    return ExampleView(
        prompt=clip(trace.chat.last_user_text),
        answer=clip(said),
        note=trace.served_by or answer.model,
    )


def _usage(trace: Trace) -> tuple[int, int]:
    usage = trace.response.get("usage")
    if not isinstance(usage, Mapping):
        return 0, 0
    prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
    return (prompt if isinstance(prompt, int) else 0, completion if isinstance(completion, int) else 0)


def _when(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")


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


def _usd(value: float | None) -> str:
    if value is None:
        return "–"
    return f"${value:,.2f}" if value >= 0.1 or value == 0 else f"${value:.4f}"
