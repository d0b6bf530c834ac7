"""One task, from its examples to a sealed, judged version: train candidates, choose one, calibrate it, put it to the gate.

Knows neither how tasks are found nor how runs share their time.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from shoal.agents.contract.calibrate import START_SHARE, Calibration, calibrate
from shoal.agents.contract.gate import GateRules, Verdict, decide
from shoal.agents.learning.candidate_training import Candidate, train_candidate, train_on_all
from shoal.agents.learning.candidates import LORA, TOOL_CALL
from shoal.agents.learning.evidence import (
    Examined,
    calls_to_show,
    coverage_by_alpha,
    held_out_and_calibration,
    measure,
)
from shoal.agents.learning.held_out import MOST_NEIGHBOURS, answers_of, judged, nearest_answers
from shoal.agents.learning.judge_loss import judged_by
from shoal.agents.learning.learnt_calls import write_learnt_calls
from shoal.agents.learning.material import Material
from shoal.agents.learning.new_version import new_version
from shoal.agents.learning.second_opinions import ask_again, prefer
from shoal.agents.learning.splits import Split, leakage, split_examples, unseen, without_duplicates
from shoal.agents.learning.task_plan import Plan, Tools, judge_model
from shoal.agents.learning.training import Example
from shoal.agents.registry.records import OutputKind, Version
from shoal.errors import DataError
from shoal.home import Home

#: a candidate that could answer this share within the contract needs no costlier rival
_GOOD_ENOUGH = 0.8
#: held-out texts that are put to a specialist, at most
_MOST_CHOOSE = 1500
_MOST_CALIBRATION = 2500
#: the same for a pretrained base, which takes its time over each
_MOST_CALIBRATION_LORA = 600
#: logged calls among which the most similar is looked up, for what is no text
_MOST_LOOKED_UP = 4000


def specialise(plan: Plan, material: Material, number: int, tools: Tools) -> tuple[Version, Verdict, bool]:
    """Train, judge and seal version `number` of a task.

    Returns the version (in shadow if it passed its gate, else rejected), the verdict, and whether the clock cut the training.

    Raises:
        DataError: no kind of specialist can learn the task; the message says why.
        KeyboardInterrupt: the run was stopped; what training had done waits in the work folder.
    """
    cpu_before = tools.cpu_seconds()
    split = split_examples(
        [*material.examples, *material.calling], seed=plan.seed, by=tools.config.learning.split
    )
    calling = frozenset(e.id for e in material.calling)
    gives_calls = TOOL_CALL in plan.prospect.kinds
    train = [e for e in split.train if gives_calls or e.id not in calling]
    train, duplicates = without_duplicates(train, one_answer=plan.prospect.loss != OutputKind.TEXT)
    curated = {"train_duplicates": dict(duplicates), "leakage": leakage(split, train)}
    choose, calibration_calls = _held_out(split, train, plan.prospect.loss)
    notes: list[dict[str, Any]] = []
    best: Candidate | None = None
    work = _work_folder(plan, tools.home)
    # so that what is kept of a run that died goes when one of its calls is erased
    write_learnt_calls(work, (e.id for e in (*split.train, *split.choose, *split.calibration)))
    most = MOST_NEIGHBOURS if plan.prospect.loss == OutputKind.TEXT else _MOST_LOOKED_UP
    floors = nearest_answers(train, choose, most=most)
    for kind in plan.prospect.kinds:
        if kind not in plan.seconds:
            notes.append({"kind": kind, "skipped": "the time limit leaves no time for it"})
            continue
        try:
            candidate = train_candidate(kind, plan, train, choose, floors, calling, work, tools)
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
    train_on_all(best, plan, [*train, *(e for e in choose if e.id not in calling)], work, tools)
    tools.progress(0.9, "calibrating")
    calibration, verdict, by_alpha, examined = _judge(best, plan, calibration_calls, calling, tools)
    if tools.served:
        # what the log has of the task is what specialists were unsure of: no sample of what comes in, so drift cannot be told by it
        calibration = replace(calibration, confidences=())
    tools.progress(0.95, "writing the evidence")
    measures = measure(
        plan.prospect.loss,
        _new_to(train, examined, plan.prospect.loss),
        train,
        calling=calling,
        slots=best.slots,
    )
    found = {
        "split": {"by": split.by, **held_out_and_calibration(best.held_out, examined.held_out)},
        "measures": measures.to_dict(),
        "calls_to_show": calls_to_show(examined, calibration.threshold),
        "coverage_by_alpha": by_alpha,
        **opinions,
    }
    write_learnt_calls(best.folder, (e.id for e in (*train, *split.choose)))
    core_seconds = tools.cpu_seconds() - cpu_before
    version = new_version(
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


def _opinions(best: Candidate, plan: Plan, calling: frozenset[str], tools: Tools) -> dict[str, Any]:
    """What others say of held-out calls, where the owner asks for it; sets `again_wrong` of the candidate's verdicts."""
    again, judge = tools.opinions.again, tools.opinions.judge
    private = plan.survey.private
    # whose texts a model judges has no loss by which two answers of the generalist could be compared
    by_judge = judge_model(plan, tools) is not None and plan.prospect.loss == OutputKind.TEXT
    if again is not None and again.may_see(private) and not by_judge:
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


def _judge(
    best: Candidate, plan: Plan, calls: Sequence[Example], calling: frozenset[str], tools: Tools
) -> tuple[Calibration, Verdict, list[list[float]], Examined]:
    loss = plan.prospect.loss
    if best.kind == LORA:
        calls = calls[:_MOST_CALIBRATION_LORA]
    judge = judge_model(plan, tools)
    if judge is not None:
        calls = calls[: judge.calls]
    given = answers_of(best.engine, calls, tools.stopped)
    held = judged(loss, calls, given, calling=calling, slots=best.slots)
    if judge is not None:
        held = judged_by(
            judge, calls, given, held, used=lambda usages: tools.costs.asked("judge", usages, judge.price)
        )
    # where the other held-out calls say that little can be answered, less is tried
    start_share = min(START_SHARE, 0.7 * best.coverage)
    groups = [e.group for e in calls]
    calibration = calibrate(
        [h.confidence for h in held],
        [h.wrong for h in held],
        plan.alpha,
        plan.delta,
        start_share=start_share,
        groups=groups,
    )
    if tools.config.contract.judged(plan.task.name):
        defined = judge is not None
    else:
        defined = loss != OutputKind.TEXT or best.slots is not None
    by_alpha = coverage_by_alpha(held, plan.delta, start_share=start_share, groups=groups) if defined else []
    verdict = decide(loss, best.held_out, calibration, loss_defined=defined)
    return calibration, verdict, by_alpha, Examined(examples=calls, answers=given, held_out=held)
