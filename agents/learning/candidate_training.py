"""One candidate for a task: trained, loaded, and put to the held-out calls that choose. Knows nothing of the gate or the contract."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shoal.agents.contract.calibrate import coverage_at_risk
from shoal.agents.contract.gate import HeldOut
from shoal.agents.contract.loss import SlotChecker
from shoal.agents.learning.candidates import LORA, MICRO_LM, TOOL_CALL
from shoal.agents.learning.folder import seal, size_mb
from shoal.agents.learning.held_out import answers_of, judged, load_slots
from shoal.agents.learning.judge_loss import judged_by
from shoal.agents.learning.task_plan import Plan, Tools, judge_model
from shoal.agents.learning.training import Example, TrainContext, TrainReport
from shoal.agents.ports import Engine, SpecialistAnswer
from shoal.errors import DataError

#: held-out calls that are put to a pretrained base, which takes its time over each
_MOST_CHOOSE_LORA = 300
#: seconds kept back for judging, and more for each held-out text (there are as many again to calibrate)
_JUDGING_S = 5.0
_JUDGING_S_PER_TEXT = 0.1


@dataclass(slots=True)
class Candidate:
    kind: str
    folder: Path
    report: TrainReport
    engine: Engine
    slots: SlotChecker | None
    examples: Sequence[Example]
    given: Sequence[SpecialistAnswer]
    held_out: list[HeldOut]
    coverage: float
    notes: dict[str, Any] = field(default_factory=dict)


def train_candidate(
    kind: str,
    plan: Plan,
    train: Sequence[Example],
    choose: Sequence[Example],
    floors: Sequence[str],
    calling: frozenset[str],
    work: Path,
    tools: Tools,
) -> Candidate:
    """Train one kind and judge it on `choose`.

    Args:
        floors: for each of `choose`, what the most similar logged call was answered.
        calling: ids of calls that a function call should answer.
        work: the task's folder for checkpoints and models that are not finished.

    Raises:
        DataError: the kind cannot learn the task, or the time ran out before its turn.
        KeyboardInterrupt: the run was stopped.
    """
    folder, checkpoints = work / f"{kind}-model", work / f"{kind}-checkpoints"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    checkpoints.mkdir(exist_ok=True)
    asked = plan.seconds[kind]
    slow = kind == MICRO_LM or kind.startswith(LORA)
    if kind.startswith(LORA):
        choose = choose[:_MOST_CHOOSE_LORA]
    judge = judge_model(plan, tools)
    if judge is not None:
        choose = choose[: judge.calls]
    # what is trained must still be judged
    left = tools.seconds_left() - _JUDGING_S - _JUDGING_S_PER_TEXT * (len(choose) if slow else 0)
    seconds = min(asked, left)
    if seconds <= 0:
        raise DataError("The time limit ran out before its turn.")
    context = TrainContext(
        seed=plan.seed,
        seconds=seconds,
        work=checkpoints,
        monotonic=tools.monotonic,
        embedder=tools.embedder,
        progress=lambda fraction, text: tools.progress(0.8 * fraction, f"{kind}: {text}"),
        stopped=tools.stopped,
    )
    started = tools.monotonic()
    teachable = [e for e in choose if kind == TOOL_CALL or e.id not in calling]
    report = tools.trainers(kind)(train, teachable, folder, context)
    if seconds < asked:
        report = TrainReport(kind=report.kind, steps=report.steps, cut_by_clock=True, details=report.details)
    seal(folder, {"kind": report.kind})
    engine = tools.loader(folder)
    slots = load_slots(folder)
    tools.progress(0.82, f"{kind}: answering held-out calls")
    given = answers_of(engine, choose, tools.stopped)
    held_out = judged(plan.prospect.loss, choose, given, calling=calling, slots=slots, floors=floors)
    if judge is not None:
        held_out = judged_by(
            judge,
            choose,
            given,
            held_out,
            used=lambda usages: tools.costs.asked("judge", usages, judge.price),
        )
    coverage = coverage_at_risk([h.confidence for h in held_out], [h.wrong for h in held_out], plan.alpha)
    notes = {
        "kind": kind,
        "coverage_on_choose": coverage,
        "right_on_choose": sum(not h.wrong for h in held_out) / max(1, len(held_out)),
        "calls_on_choose": len(held_out),
        # of calls that it answers, if there are any: to say nothing is quick
        "answer_ms": _speed_ms(
            engine,
            [e for e, h in zip(choose, held_out, strict=True) if h.confidence > 0] or choose,
            time.perf_counter,
        ),
        "size_mb": round(size_mb(folder), 2),
        "seconds_allotted": asked,
        "seconds": round(tools.monotonic() - started, 2),
        "steps": report.steps,
        "cut_by_clock": report.cut_by_clock,
        "details": dict(report.details),
    }
    return Candidate(report.kind, folder, report, engine, slots, choose, given, held_out, coverage, notes)


def train_on_all(best: Candidate, plan: Plan, examples: Sequence[Example], work: Path, tools: Tools) -> None:
    """Train the winner once more with the settings that it chose, now also on the calls that it was chosen by.

    More calls make it better, and the contract needs only that it never saw the calibration calls. What the gate looks at stays
    as it was: answers to calls that the one who gave them was not trained on. Kinds that name no settings stay as they are.
    """
    asked = plan.seconds.get(best.kind, 0.0)
    if best.report.settings is None or tools.seconds_left() < _JUDGING_S + float(best.notes["seconds"]):
        return
    folder = work / f"{best.kind}-all"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    context = TrainContext(
        seed=plan.seed,
        seconds=asked,
        work=work / f"{best.kind}-checkpoints",
        monotonic=tools.monotonic,
        embedder=tools.embedder,
        settings=best.report.settings,
        progress=lambda fraction, text: tools.progress(0.85, f"{best.kind}: {text}, on all calls"),
        stopped=tools.stopped,
    )
    report = tools.trainers(best.kind)(examples, [], folder, context)
    seal(folder, {"kind": best.kind})
    best.folder, best.report, best.engine = folder, report, tools.loader(folder)
    best.notes["trained_once_more_on"] = len(examples)


def _speed_ms(engine: Engine, examples: Sequence[Example], seconds: Callable[[], float]) -> float | None:
    """Median milliseconds for one request alone, over a few."""
    spans = []
    for example in examples[:9]:
        start = seconds()
        engine.answer([example.request])
        spans.append(seconds() - start)
    return round(1000 * sorted(spans)[len(spans) // 2], 3) if spans else None
