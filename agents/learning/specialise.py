"""One task, from its examples to a sealed, judged version: train candidates, choose one, calibrate it, put it to the gate.

Owns the model folder's way from the work folder to its place. Knows neither how tasks are found nor how runs share their time.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shoal.agents.contract.calibrate import NEVER, START_SHARE, Calibration, calibrate, coverage_at_risk
from shoal.agents.contract.gate import GateRules, HeldOut, Verdict, decide
from shoal.agents.contract.loss import SlotChecker
from shoal.agents.learning.candidates import LORA, MICRO_LM, TOOL_CALL, Prospect, Trainers
from shoal.agents.learning.evidence import Examined, calls_to_show, costs, coverage_by_alpha, measure
from shoal.agents.learning.folder import freeze, seal
from shoal.agents.learning.held_out import (
    MOST_NEIGHBOURS,
    answers_of,
    judged,
    load_slots,
    nearest_answers,
)
from shoal.agents.learning.learning_costs import TaskCosts
from shoal.agents.learning.learnt_calls import write_learnt_calls
from shoal.agents.learning.material import Material
from shoal.agents.learning.model_card import README, card_facts, card_text
from shoal.agents.learning.second_opinions import SecondOpinions, ask_again, prefer
from shoal.agents.learning.splits import (
    Split,
    fingerprint,
    leakage,
    split_examples,
    unseen,
    without_duplicates,
)
from shoal.agents.learning.training import Example, TrainContext, TrainReport
from shoal.agents.learning.volume import Volume
from shoal.agents.ports import Embedder, Engine, EngineLoader, SpecialistAnswer
from shoal.agents.registry.records import OutputKind, Task, Version, VersionState
from shoal.config import Config
from shoal.errors import DataError
from shoal.home import Home

#: raised when the way of training changes, so that unchanged calls are learnt from anew
PIPELINE = 3
#: a candidate that could answer this share within the contract needs no costlier rival
_GOOD_ENOUGH = 0.8
#: held-out texts that are put to a specialist, at most
_MOST_CHOOSE = 1500
_MOST_CALIBRATION = 2500
#: the same for a pretrained base, which takes its time over each
_MOST_CHOOSE_LORA = 300
_MOST_CALIBRATION_LORA = 600
#: seconds kept back for judging, and more for each held-out text (there are as many again to calibrate)
_JUDGING_S = 5.0
_JUDGING_S_PER_TEXT = 0.1
#: logged calls among which the most similar is looked up, for what is no text
_MOST_LOOKED_UP = 4000
#: a process that serves holds about this much beside the weights
_OWN_MEMORY_MB = 64.0
#: and about this much where an embedder brings torch and a model of its own
_EMBEDDER_MEMORY_MB = 700.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be done for a task: its calls, what could be trained, and for how many seconds."""

    task: Task
    material: Material
    prospect: Prospect
    seconds: Mapping[str, float]
    alpha: float
    delta: float
    seed: int
    inputs: str
    volume: Volume = field(default_factory=Volume)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """What a run hands in.

    Attributes:
        seconds_left: until the run must end.
        costs: of the task.
        cpu_seconds: processor time of this process so far.
    """

    home: Home
    config: Config
    loader: EngineLoader
    trainers: Trainers
    monotonic: Callable[[], float]
    now: Callable[[], float]
    seconds_left: Callable[[], float]
    costs: TaskCosts
    embedder: Embedder | None = None
    progress: Callable[[float, str], None] = lambda fraction, text: None
    stopped: Callable[[], bool] = lambda: False
    cpu_seconds: Callable[[], float] = time.process_time
    opinions: SecondOpinions = field(default_factory=SecondOpinions)


@dataclass(slots=True)
class _Candidate:
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


def inputs_digest(
    task: Task,
    material: Material,
    *,
    alpha: float,
    delta: float,
    seed: int,
    limit_min: float,
    opinions: SecondOpinions | None = None,
    bases: Sequence[Any] = (),
    embedder: Embedder | None = None,
) -> str:
    """What a version is made from: the calls, the contract, the seed, the time. The same digest gives the same version."""
    ids = fingerprint([*material.examples, *material.calling])
    where = [material.tier, material.private]
    reads = None if embedder is None else embedder.digest
    facts = [PIPELINE, str(task.output_kind), ids, where, alpha, delta, seed, limit_min, reads]
    for adviser in (opinions.again, opinions.judge) if opinions is not None else ():
        if adviser is not None:
            facts.append(adviser.calls)
    return hashlib.sha256(json.dumps([*facts, *bases]).encode()).hexdigest()


def specialise(plan: Plan, number: int, tools: Tools) -> tuple[Version, Verdict, bool]:
    """Train, judge and seal version `number` of a task.

    Returns the version (in shadow if it passed its gate, else rejected), the verdict, and whether the clock cut the training.

    Raises:
        DataError: no kind of specialist can learn the task; the message says why.
        KeyboardInterrupt: the run was stopped; what training had done waits in the work folder.
    """
    cpu_before = tools.cpu_seconds()
    split = split_examples([*plan.material.examples, *plan.material.calling], seed=plan.seed)
    calling = frozenset(e.id for e in plan.material.calling)
    gives_calls = TOOL_CALL in plan.prospect.kinds
    train = [e for e in split.train if gives_calls or e.id not in calling]
    train, duplicates = without_duplicates(train, one_answer=plan.prospect.loss != OutputKind.TEXT)
    curated = {"train_duplicates": dict(duplicates), "leakage": leakage(split, train)}
    choose, calibration_calls = _held_out(split, train, plan.prospect.loss)
    notes: list[dict[str, Any]] = []
    best: _Candidate | None = None
    work = _work_folder(plan, tools.home)
    most = MOST_NEIGHBOURS if plan.prospect.loss == OutputKind.TEXT else _MOST_LOOKED_UP
    floors = nearest_answers(train, choose, most=most)
    for kind in plan.prospect.kinds:
        if kind not in plan.seconds:
            notes.append({"kind": kind, "skipped": "the time limit leaves no time for it"})
            continue
        try:
            candidate = _train(kind, plan, train, choose, floors, calling, work, tools)
        except DataError as error:
            notes.append({"kind": kind, "skipped": str(error)})
            continue
        notes.append(candidate.notes)
        if best is None or candidate.coverage > best.coverage:
            best = candidate
        if best.coverage >= _GOOD_ENOUGH:
            break
    if best is None:
        raise DataError(" ".join(str(note["skipped"]) for note in notes))
    opinions = _opinions(best, plan, calling, tools)
    _train_on_all(best, plan, [*train, *(e for e in choose if e.id not in calling)], work, tools)
    tools.progress(0.9, "calibrating")
    calibration, verdict, by_alpha, examined = _judge(best, plan, calibration_calls, calling, tools)
    tools.progress(0.95, "writing the evidence")
    measures = measure(
        plan.prospect.loss,
        _new_to(train, examined, plan.prospect.loss),
        train,
        calling=calling,
        slots=best.slots,
    )
    found = {
        "measures": measures.to_dict(),
        "calls_to_show": calls_to_show(examined, calibration.threshold),
        "coverage_by_alpha": by_alpha,
        **opinions,
    }
    write_learnt_calls(best.folder, (e.id for e in (*train, *split.choose)))
    core_seconds = tools.cpu_seconds() - cpu_before
    version = _finish(
        best, plan, number, split, calibration, verdict, notes, found, core_seconds, tools, curated
    )
    return version, verdict, best.report.cut_by_clock


def _held_out(
    split: Split, train: Sequence[Example], loss: OutputKind
) -> tuple[list[Example], list[Example]]:
    choose, calibration = list(split.choose), list(split.calibration)
    if loss == OutputKind.TEXT:
        # a text that training saw word for word is no test of writing; calibration keeps the traffic as it comes
        new = unseen(choose, train)
        if len(new) >= GateRules().min_calls:
            choose = new
        # examples stand in the order of a hash, so the first are a fair sample
        choose, calibration = choose[:_MOST_CHOOSE], calibration[:_MOST_CALIBRATION]
    return choose, calibration


def forget_work(plan: Plan, home: Home) -> None:
    """Remove the checkpoints of a training whose version is registered; until then a run that died goes on from them."""
    shutil.rmtree(_work_path(plan, home), ignore_errors=True)


def _work_path(plan: Plan, home: Home) -> Path:
    return home.work / "training" / f"{plan.task.id}-{plan.inputs[:16]}"


def _new_to(train: Sequence[Example], examined: Examined, loss: OutputKind) -> Examined:
    """Of texts those whose prompt training did not see word for word, if they are enough to say something of."""
    if loss != OutputKind.TEXT:
        return examined
    new = {e.id for e in unseen(examined.examples, train)}
    return examined.only(new) if len(new) >= GateRules().min_calls else examined


def _work_folder(plan: Plan, home: Home) -> Path:
    """Where this training keeps checkpoints; what other calls of the task left unfinished is removed."""
    own = _work_path(plan, home)
    for old in own.parent.glob(f"{plan.task.id}-*"):
        if old != own and old.name.removeprefix(f"{plan.task.id}-").isalnum():
            shutil.rmtree(old, ignore_errors=True)
    own.mkdir(parents=True, exist_ok=True)
    return own


def _train(
    kind: str,
    plan: Plan,
    train: Sequence[Example],
    choose: Sequence[Example],
    floors: Sequence[str],
    calling: frozenset[str],
    work: Path,
    tools: Tools,
) -> _Candidate:
    folder, checkpoints = work / f"{kind}-model", work / f"{kind}-checkpoints"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    checkpoints.mkdir(exist_ok=True)
    asked = plan.seconds[kind]
    slow = kind == MICRO_LM or kind.startswith(LORA)
    if kind.startswith(LORA):
        choose = choose[:_MOST_CHOOSE_LORA]
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
        "size_mb": round(_size_mb(folder), 2),
        "seconds_allotted": asked,
        "seconds": round(tools.monotonic() - started, 2),
        "steps": report.steps,
        "cut_by_clock": report.cut_by_clock,
        "details": dict(report.details),
    }
    return _Candidate(report.kind, folder, report, engine, slots, choose, given, held_out, coverage, notes)


def _opinions(best: _Candidate, plan: Plan, calling: frozenset[str], tools: Tools) -> dict[str, Any]:
    """What others say of held-out calls, where the owner asks for it; sets `again_wrong` of the candidate's verdicts."""
    again, judge = tools.opinions.again, tools.opinions.judge
    private = plan.material.private
    if again is not None and again.may_see(private):
        tools.progress(0.86, "asking the generalist again")
        best.held_out = ask_again(
            again,
            plan.prospect.loss,
            best.examples,
            best.held_out,
            calling=calling,
            slots=best.slots,
            used=lambda usages: tools.costs.asked("again", usages, again.price),
        )
    if judge is not None and plan.prospect.loss == OutputKind.TEXT and judge.may_see(private):
        tools.progress(0.88, "a judge model compares texts")
        if preferred := prefer(
            judge,
            best.examples,
            [a.content for a in best.given],
            used=lambda usages: tools.costs.asked("judge", usages, judge.price),
        ):
            return {"judge": {"figures": preferred}}
    return {}


def _train_on_all(
    best: _Candidate, plan: Plan, examples: Sequence[Example], work: Path, tools: Tools
) -> None:
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


def _judge(
    best: _Candidate, plan: Plan, calls: Sequence[Example], calling: frozenset[str], tools: Tools
) -> tuple[Calibration, Verdict, list[list[float]], Examined]:
    loss = plan.prospect.loss
    if best.kind == LORA:
        calls = calls[:_MOST_CALIBRATION_LORA]
    given = answers_of(best.engine, calls, tools.stopped)
    held = judged(loss, calls, given, calling=calling, slots=best.slots)
    # where the other held-out calls say that little can be answered, less is tried
    start_share = min(START_SHARE, 0.7 * best.coverage)
    calibration = calibrate(
        [h.confidence for h in held],
        [h.wrong for h in held],
        plan.alpha,
        plan.delta,
        start_share=start_share,
    )
    defined = loss != OutputKind.TEXT or best.slots is not None
    by_alpha = coverage_by_alpha(held, plan.delta, start_share=start_share) if defined else []
    verdict = decide(loss, best.held_out, calibration, loss_defined=defined)
    return calibration, verdict, by_alpha, Examined(examples=calls, answers=given, held_out=held)


def _finish(
    best: _Candidate,
    plan: Plan,
    number: int,
    split: Split,
    calibration: Calibration,
    verdict: Verdict,
    notes: Sequence[Mapping[str, Any]],
    found: Mapping[str, Any],
    core_seconds: float,
    tools: Tools,
    curated: Mapping[str, Any],
) -> Version:
    speed_ms = best.notes["answer_ms"]
    coverage = verdict.figures["coverage"].value if verdict.passed else 0.0
    evidence = {
        "inputs": plan.inputs,
        "pipeline": PIPELINE,
        "seed": plan.seed,
        "loss": str(plan.prospect.loss),
        "calls": {
            "train": len(split.train),
            "choose": len(split.choose),
            "calibration": len(split.calibration),
            "trained_on": best.notes.get("trained_once_more_on", len(split.train)),
            "left_out": dict(plan.material.left_out),
            **curated,
        },
        "training": {
            "steps": best.report.steps,
            "cut_by_clock": best.report.cut_by_clock,
            "details": dict(best.report.details),
        },
        "gate": verdict.to_dict(),
        "calibration": calibration.to_dict(),
        **found,
    }
    # what a clock says stays out of the folder, so that the same calls and seed give the same bytes
    timed = {
        "candidates": list(notes),
        "answer_ms": speed_ms,
        "costs": costs(
            core_seconds=core_seconds,
            answer_ms=speed_ms,
            coverage=coverage,
            volume=plan.volume,
            config=tools.config,
        ),
    }
    generalist = tools.config.generalist
    threshold = calibration.threshold if verdict.passed else NEVER
    facts = card_facts(
        kind=best.kind,
        task=plan.task,
        number=number,
        contract={"alpha": plan.alpha, "delta": plan.delta, "threshold": threshold},
        data_sha256=fingerprint([*split.train, *split.choose, *split.calibration]),
        outputs_may_train=None if generalist is None else generalist.outputs_may_train,
        details=best.report.details,
        evidence=evidence,
    )
    if embedder := best.report.details.get("embedder"):
        facts["embedder"] = embedder
    (best.folder / README).write_text(card_text(facts), encoding="utf-8")
    sha256 = seal(best.folder, facts)
    relative = f"{plan.task.id}/{number}"
    place = tools.home.models / plan.task.id / str(number)
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(place, ignore_errors=True)
    size_mb = _size_mb(best.folder)
    freeze(best.folder)
    best.folder.replace(place)
    placement = tools.config.placement
    embedder_mb = _EMBEDDER_MEMORY_MB if best.report.details.get("embedder") else 0.0
    return Version(
        task_id=plan.task.id,
        number=number,
        kind=best.kind,
        state=VersionState.SHADOW if verdict.passed else VersionState.REJECTED,
        folder=relative,
        sha256=sha256,
        threshold=threshold,
        alpha=plan.alpha,
        delta=plan.delta,
        evidence=json.loads(json.dumps({**evidence, **timed}, default=str)),
        needs={
            "cpus": placement.cpus_per_replica,
            "gpus": placement.gpus_per_replica,
            # a base that is only referred to is not in the folder, but in memory
            "memory_mb": best.report.details.get("memory_mb")
            or round(_OWN_MEMORY_MB + embedder_mb + 3 * size_mb, 1),
            "weights_mb": round(size_mb, 2),
            "tier": plan.material.tier or placement.tier,
            "why_tier": "as most of its calls wish" if plan.material.tier else "",
            "private": plan.material.private,
        },
        reason=verdict.reason,
        created_at=tools.now(),
    )


def _size_mb(folder: Path) -> float:
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) / 2**20


def _speed_ms(engine: Engine, examples: Sequence[Example], seconds: Callable[[], float]) -> float | None:
    """Median milliseconds for one request alone, over a few."""
    spans = []
    for example in examples[:9]:
        start = seconds()
        engine.answer([example.request])
        spans.append(seconds() - start)
    return round(1000 * sorted(spans)[len(spans) // 2], 3) if spans else None
