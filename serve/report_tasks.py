"""One task on the report's page: its evidence, money, model card, and the calls that show what its specialist does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from shoal.agents.contract.break_even import Price, TaskCost, break_even
from shoal.agents.feedback.audit_view import AuditView
from shoal.agents.learning.folder import verify
from shoal.agents.learning.model_card import card_text, version_facts
from shoal.agents.ports import Engine
from shoal.agents.registry.records import Task, Version, VersionState
from shoal.agents.traces.trace import Trace
from shoal.errors import CorruptModel, InvalidRequest, ShoalError
from shoal.home import Home
from shoal.serve.report_evidence import (
    CallRef,
    as_text,
    clip,
    read_against,
    read_by_alpha,
    read_candidates,
    read_confusions,
    read_curve,
    read_fields,
    read_figures,
    read_reason,
)
from shoal.serve.report_traces import Tally
from shoal.serve.report_views import ExampleView, MoneyView, TaskView, VersionView

_DESCRIPTION_CHARS = 600
_TONES = {VersionState.SERVING: "serving", VersionState.CANARY: "serving"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A task with the version that the page speaks of (None for none), all its versions, and its traces added up."""

    task: Task
    version: Version | None
    versions: Sequence[Version]
    tally: Tally


def task_view(
    shown: Shown,
    *,
    home: Home,
    rank: int,
    all_calls: int,
    cost_share: float,
    calls_per_day: float | None,
    price: Price | None,
    core_hour_usd: float,
    refs: Mapping[str, Sequence[CallRef]],
    picked: Mapping[str, Trace],
    answers: Mapping[str, str],
    fault: str,
    audit: AuditView | None,
) -> TaskView:
    """What the page says of a task.

    Args:
        refs: ids of the calls to show, by `wrong`, `unsure` and `right`; those not in `picked` are gone and left out.
        answers: what the specialist says to them, by id.
        fault: why its model cannot be used; empty where it can.
        audit: of the version; None where nobody looked.
    """
    task, version, tally = shown.task, shown.version, shown.tally
    evidence = version.evidence if version is not None else {}
    figures = read_figures(evidence)
    coverage = next((figure for figure in figures if figure.key == "coverage"), None)
    verdict = _verdict(task, version)
    moves = coverage.value if coverage is not None and verdict == "specialist" else 0.0
    calls = tally.calls or task.calls
    card, card_fault = _card(home, task, version)
    return TaskView(
        anchor=str(task.id),
        rank=rank,
        name=task.name,
        kind=str(task.output_kind).replace("_", " "),
        description=clip(task.description, _DESCRIPTION_CHARS),
        calls=calls,
        share=calls / all_calls if all_calls else 0.0,
        cost_share=cost_share,
        by_specialist=tally.by_specialist,
        verdict=verdict,
        tone=_tone(verdict, version),
        state="" if version is None else str(version.state),
        why=_why(task, version),
        alpha=None if version is None else version.alpha,
        delta=None if version is None else version.delta,
        moves=moves,
        coverage=coverage,
        figures=figures,
        against=read_against(evidence),
        curve=read_curve(evidence),
        by_alpha=read_by_alpha(evidence),
        candidates=read_candidates(evidence, "" if version is None else version.kind),
        confusions=read_confusions(evidence),
        fields=read_fields(evidence),
        versions=[_version_view(v) for v in reversed(shown.versions)],
        money=_money(version, tally, moves, calls_per_day, price, core_hour_usd),
        audit=None if audit is None or audit.is_empty else audit,
        card=card,
        fault=fault or card_fault,
        examples=[_example(trace) for trace in tally.examples],
        wrong=_examples(refs.get("wrong", ()), picked, answers),
        unsure=_examples(refs.get("unsure", ()), picked, answers),
        right=_examples(refs.get("right", ()), picked, answers),
    )


def answered_by(
    version: Version | None,
    refs: Mapping[str, Sequence[CallRef]],
    picked: Mapping[str, Trace],
    load: Callable[[Version], Engine] | None,
) -> tuple[dict[str, str], str]:
    """What a version says to the calls that its evidence points to, by id; and why its model cannot be used, if so."""
    ids = [ref.id for kind in refs.values() for ref in kind if ref.id in picked]
    if version is None or load is None or not ids:
        return {}, ""
    try:
        said = load(version).answer([picked[i].chat for i in ids])
    except ShoalError as error:
        return {}, error.message
    out = {}
    for call, answer in zip(ids, said, strict=True):
        calls = getattr(answer, "tool_calls", None)
        text = "\n".join(filter(None, (answer.content, as_text(list(calls)) if calls else "")))
        out[call] = clip(text) if text else f"(no answer: {answer.reason or 'it gives none'})"
    return out, ""


def _verdict(task: Task, version: Version | None) -> str:
    if task.excluded:
        return "excluded"
    if version is None:
        return "not tried"
    if version.state is VersionState.RETIRED:
        return "taken back"
    return "not passed" if version.state is VersionState.REJECTED else "specialist"


def _tone(verdict: str, version: Version | None) -> str:
    if verdict == "specialist" and version is not None:
        return _TONES.get(version.state, "ready")
    return "stays" if verdict in ("not passed", "taken back") else "idle"


def _why(task: Task, version: Version | None) -> str:
    if task.excluded:
        return "Excluded by the owner."
    # the version's own reason says what last happened to its state; the gate's says what it is worth
    said = "" if version is None else read_reason(version.evidence) or version.reason
    return said or task.reason


def _money(
    version: Version | None,
    tally: Tally,
    moves: float,
    calls_per_day: float | None,
    price: Price | None,
    core_hour_usd: float,
) -> MoneyView | None:
    """At today's prices and over today's traces, whatever they were when it was learnt."""
    costs = version.evidence.get("costs") if version is not None else None
    if price is None or not isinstance(costs, Mapping) or not tally.calls:
        return None
    learning_s = float(costs.get("core_seconds") or 0.0)
    prompt, completion = tally.tokens
    cost = TaskCost(
        learning_s=learning_s,
        answer_ms=float(costs.get("answer_ms") or 0.0) if moves else 0.0,
        coverage=moves,
        prompt_tokens=prompt / tally.calls,
        completion_tokens=completion / tally.calls,
        calls_per_day=calls_per_day,
    )
    return MoneyView(
        even=break_even(cost, price, core_hour_usd=core_hour_usd),
        calls_per_day=calls_per_day,
        learning_core_s=learning_s,
    )


def _card(home: Home, task: Task, version: Version | None) -> tuple[str, str]:
    """The model card as a text, and why the folder cannot be used, if so."""
    if version is None:
        return "", ""
    sealed, fault = None, ""
    folder = home.models / version.folder
    if folder.is_dir():
        try:
            sealed = verify(folder, version.sha256)
        except CorruptModel as error:
            fault = error.message
    return card_text(version_facts(task, version, sealed)), fault


def _version_view(version: Version) -> VersionView:
    coverage = next((f.value for f in read_figures(version.evidence) if f.key == "coverage"), None)
    return VersionView(
        number=version.number,
        kind=version.kind,
        state=str(version.state),
        reason=version.reason,
        created=when(version.created_at) if version.created_at else "",
        coverage=coverage,
        threshold=version.threshold,
    )


def _examples(
    refs: Sequence[CallRef], picked: Mapping[str, Trace], answers: Mapping[str, str]
) -> list[ExampleView]:
    return [
        _example(picked[ref.id], specialist=answers.get(ref.id, ""), confidence=ref.confidence)
        for ref in refs
        if ref.id in picked
    ]


def _example(trace: Trace, *, specialist: str = "", confidence: float | None = None) -> ExampleView:
    by = trace.served_by
    try:
        answer = trace.answer
        said = answer.content or ""
        if answer.tool_calls:
            said = f"{said}\n{as_text(list(answer.tool_calls))}".strip()
        by = by or answer.model
    except InvalidRequest:
        said = "(no answer recorded)"
    return ExampleView(
        prompt=clip(trace.chat.last_user_text),
        answer=clip(said),
        by=by,
        specialist=specialist,
        confidence=confidence,
    )


def when(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
