"""What today's specialists would do with a log: every request through the router, and the answers against the recorded ones.

Needs no site. Requests are put to each specialist in batches. Knows neither files nor how a model is loaded.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from shoal.agents.contract.break_even import CORE_HOUR_USD, Price
from shoal.agents.contract.calibrate import NEVER
from shoal.agents.contract.gate import Figure, chrf, mean, share
from shoal.agents.contract.loss import SlotChecker, judge
from shoal.agents.feedback.accounts import Rates, plus
from shoal.agents.feedback.ledger import Compute
from shoal.agents.learning.held_out import BATCH
from shoal.agents.ports import Engine, SpecialistAnswer
from shoal.agents.registry.records import OutputKind, Task, Version, VersionState
from shoal.agents.routing.router import Decision, Router
from shoal.agents.routing.snapshot import Snapshot, build_snapshot
from shoal.agents.traces.chat import Answer, ChatRequest
from shoal.agents.traces.tokens import usage_of
from shoal.agents.traces.trace import Trace
from shoal.errors import InvalidRequest

NO_TASK = "-"
_DEFAULT_RATES = Rates(core_hour_usd={"": CORE_HOUR_USD})
_PASSED = (VersionState.SERVING, VersionState.CANARY, VersionState.SHADOW)


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A version ready to answer. `slots`: the checker of a text specialist."""

    version: Version
    engine: Engine
    slots: SlotChecker | None = None


def todays_versions(
    tasks: Sequence[Task], versions: Sequence[Version], *, refused: bool = False
) -> dict[str, Version]:
    """By version key: for each task the one that serves, else the newest that passed its gate and was not taken back.

    Args:
        refused: where none passed, the newest that was refused: it can be asked what it would say, and is never sure enough.
    """
    out = {}
    for task in tasks:
        own = [v for v in versions if v.task_id == task.id and v.state in _PASSED]
        if refused and not own:
            rejected = [v for v in versions if v.task_id == task.id and v.state == VersionState.REJECTED]
            own = [replace(v, threshold=NEVER) for v in rejected]
        serving = [v for v in own if v.state == VersionState.SERVING]
        if own and not task.excluded:
            version = max(serving or own, key=lambda v: v.number)
            out[version.key] = version
    return out


def todays_snapshot(
    tasks: Sequence[Task], versions: Sequence[Version], *, epoch: int = 0, refused: bool = False
) -> Snapshot:
    """The router's snapshot as if each of `todays_versions` served."""
    todays = todays_versions(tasks, versions, refused=refused)
    serving = [replace(v, state=VersionState.SERVING) for v in todays.values()]
    return build_snapshot(epoch=epoch, tasks=tasks, versions=serving, canary_share=0.0)


@dataclass(slots=True)
class _Call:
    id: str
    request: ChatRequest
    recorded: Answer | None
    decision: Decision
    latency_ms: float | None
    given: SpecialistAnswer | None = None
    wrong: bool | None = None
    errors: Sequence[str] = ()

    @property
    def answered(self) -> bool:
        given = self.given
        return given is not None and given.given and self.decision.accept(given.confidence)


@dataclass(slots=True)
class _Tally:
    calls: list[_Call] = field(default_factory=list)
    compute: Compute = field(default_factory=Compute)
    loss: OutputKind | None = None


def evaluate(
    traces: Iterable[Trace],
    *,
    router: Router,
    load: Callable[[str], Loaded],
    price: Price | None = None,
    rates: Rates = _DEFAULT_RATES,
    progress: Callable[[float, str], None] = lambda fraction, text: None,
    seconds: Callable[[], float] = time.perf_counter,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Score today's specialists on a log.

    Args:
        router: over `todays_snapshot`.
        load: from a version's key to the version, loaded. Called once for each version that is asked.
        price: of the generalist; what it would have cost is unknown (None) without it.
        rates: what this machine costs while specialists answer on it.

    Returns:
        The report (`tasks`, one entry each, and `total`), and one row for each trace, in their order:
        `id`, `task`, `route`, `confidence`, `raw` (the specialist's own message, or None), `wrong` (that message, by the task's loss;
        None where there is no way to tell), `answer` (the message that the client would have got from it, or None where the
        generalist is asked).

    Raises:
        CorruptModel: a version that should answer cannot be loaded.
    """
    calls = []
    progress(0.0, "routing")
    for trace in traces:
        request = trace.chat
        try:
            recorded: Answer | None = trace.answer
        except InvalidRequest:
            recorded = None
        calls.append(_Call(trace.id, request, recorded, router.decide_logged(request), trace.latency_ms))
    tallies: dict[str, _Tally] = {}
    for call in calls:
        tallies.setdefault(call.decision.task_name or NO_TASK, _Tally()).calls.append(call)
    by_version: dict[str, list[_Call]] = {}
    for call in calls:
        if call.decision.performer is not None:
            by_version.setdefault(call.decision.performer.key, []).append(call)
    asked = sum(map(len, by_version.values()))
    done = 0
    for key, own in by_version.items():
        loaded = load(key)
        tally = tallies[own[0].decision.task_name]
        tally.loss = OutputKind(str(loaded.version.evidence.get("loss", OutputKind.LABEL)))
        for start in range(0, len(own), BATCH):
            batch = own[start : start + BATCH]
            before = seconds()
            answers = loaded.engine.answer([c.request for c in batch])
            took_ms = 1000 * (seconds() - before)
            on_gpu = bool(getattr(loaded.engine, "on_gpu", False))
            tally.compute.merge(Compute(gpu_ms=took_ms) if on_gpu else Compute(cpu_ms=took_ms))
            for call, answer in zip(batch, answers, strict=True):
                call.given = answer
                _score(call, tally.loss, loaded.slots)
            done += len(batch)
            progress(0.1 + 0.9 * done / asked, f"{own[0].decision.task_name}: answering")
    tasks = [
        {"name": name, **_summary(tally, price, rates)}
        for name, tally in sorted(tallies.items(), key=lambda item: (-len(item[1].calls), item[0]))
    ]
    whole = _Tally(calls=calls)
    for tally in tallies.values():
        whole.compute.merge(tally.compute)
    report = {"tasks": tasks, "total": _summary(whole, price, rates)}
    progress(1.0, "done")
    return report, [_row(call) for call in calls]


def _score(call: _Call, loss: OutputKind, slots: SlotChecker | None) -> None:
    if call.given is None or not call.given.given or call.recorded is None:
        return
    judgement = judge(
        loss,
        call.request,
        call.given.content or "",
        call.recorded.content or "",
        expected_tool_calls=call.recorded.tool_calls,
        given_tool_calls=call.given.tool_calls,
        slots=slots,
    )
    if judgement.defined:
        call.wrong = judgement.wrong
        call.errors = judgement.reasons


def _summary(tally: _Tally, price: Price | None, rates: Rates) -> dict[str, Any]:
    calls = tally.calls
    answered = [c for c in calls if c.answered]
    scored = [c for c in answered if c.wrong is not None]
    raw = [c for c in calls if c.wrong is not None]
    right = share(sum(not c.wrong for c in scored), len(scored))
    risk = share(sum(bool(c.wrong) for c in scored), len(scored))
    raw_right = share(sum(not c.wrong for c in raw), len(raw))
    given = sum(c.given is not None for c in calls)
    out: dict[str, Any] = {
        "calls": len(calls),
        "answered": len(answered),
        "coverage": len(answered) / len(calls) if calls else 0.0,
        "right": right.value if right.count else None,
        "right_interval": _interval(right),
        "risk": risk.value if risk.count else None,
        "risk_interval": _interval(risk),
        "raw_right": raw_right.value if raw_right.count else None,
        "raw_right_interval": _interval(raw_right),
        "generalist": len(calls) - len(answered),
        "specialist_ms": round((tally.compute.cpu_ms + tally.compute.gpu_ms) / given, 3) if given else None,
        "generalist_ms": _median([c.latency_ms for c in calls if c.latency_ms is not None]),
    }
    if tally.loss is not None:
        out["loss"] = str(tally.loss)
    if tally.loss == OutputKind.TEXT:
        errors = share(sum(bool(c.wrong) for c in scored), len(scored))
        likeness = mean([_likeness(c) for c in scored])
        out |= {
            "slot_error": errors.value if errors.count else None,
            "slot_error_interval": _interval(errors),
            "chrf": likeness.value if likeness.count else None,
        }
    return out | _costs(tally, price, rates)


def _likeness(call: _Call) -> float:
    given = call.given.content if call.given is not None else None
    recorded = call.recorded.content if call.recorded is not None else None
    return chrf(given or "", recorded or "")


def _interval(figure: Figure) -> list[float] | None:
    return [figure.low, figure.high] if figure.count else None


def _median(values: Sequence[float]) -> float | None:
    return sorted(values)[len(values) // 2] if values else None


def _costs(tally: _Tally, price: Price | None, rates: Rates) -> dict[str, Any]:
    """What the calls would cost by the generalist alone and as they are routed now, USD; None where a price is not known.

    Tokens are the recorded answers', estimated where these do not say. A specialist is paid for every call that it was asked.
    """
    by_all = None if price is None else sum(_cost(c, price) for c in tally.calls)
    by_rest = None if price is None else sum(_cost(c, price) for c in tally.calls if not c.answered)
    compute = rates.usd(tally.compute)
    routed = plus(by_rest, compute)
    saved = None if by_all is None or routed is None else by_all - routed
    amounts = {
        "generalist_cost_usd": by_all,
        "routed_cost_usd": routed,
        "compute_usd": compute,
        "saved_usd": saved,
    }
    return {name: None if usd is None else round(usd, 8) for name, usd in amounts.items()}


def _cost(call: _Call, price: Price) -> float:
    if call.recorded is None:
        return 0.0
    usage = usage_of(call.request, call.recorded)
    return price.of(usage.prompt_tokens, usage.completion_tokens)


def _row(call: _Call) -> dict[str, Any]:
    given = call.given
    raw: dict[str, Any] | None = None
    if given is not None and given.given:
        raw = {"role": "assistant", "content": given.content}
        if given.tool_calls:
            raw["tool_calls"] = [
                {"id": f"call_{call.id}_{n}", **called} for n, called in enumerate(given.tool_calls)
            ]
    performer = call.decision.performer
    answered = call.answered and performer is not None
    route = (
        f"specialist/{call.decision.task_name}@{performer.number}" if answered and performer else "generalist"
    )
    return {
        "id": call.id,
        "task": call.decision.task_name or None,
        "route": route,
        "confidence": None if given is None else round(given.confidence, 6),
        "raw": raw,
        "wrong": call.wrong,
        "answer": raw if answered else None,
    }
