"""A judged candidate becomes a version: its evidence, its card, its sealed folder in its place, its record."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

from shoal.agents.contract.calibrate import NEVER, Calibration
from shoal.agents.contract.gate import Verdict
from shoal.agents.learning.candidate_training import Candidate
from shoal.agents.learning.evidence import costs
from shoal.agents.learning.folder import freeze, seal, size_mb
from shoal.agents.learning.model_card import README, card_facts, card_text
from shoal.agents.learning.splits import Split, fingerprint
from shoal.agents.learning.task_plan import PIPELINE, Plan, Tools
from shoal.agents.registry.records import Version, VersionState

#: a process that serves holds about this much beside the weights
_OWN_MEMORY_MB = 64.0
#: and about this much where an embedder brings torch and a model of its own
_EMBEDDER_MEMORY_MB = 700.0


def new_version(
    best: Candidate,
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
    """Seal the candidate's folder and put it into its place among the models; the registry does not know of it yet."""
    speed_ms = best.notes["answer_ms"]
    coverage = verdict.figures["coverage"].value if verdict.passed else 0.0
    evidence = {
        "inputs": plan.inputs,
        "pipeline": PIPELINE,
        "seed": plan.seed,
        "loss": str(plan.prospect.loss),
        "judged": tools.config.contract.judged(plan.task.name),
        "calls": {
            "train": len(split.train),
            "choose": len(split.choose),
            "calibration": len(split.calibration),
            "trained_on": best.notes.get("trained_once_more_on", len(split.train)),
            "left_out": dict(plan.survey.left_out),
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
            volume=plan.survey.volume,
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
    weights_mb = size_mb(best.folder)
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
            or round(_OWN_MEMORY_MB + embedder_mb + 3 * weights_mb, 1),
            # what it shares with other versions of its host
            "base": best.report.details.get("shares", ""),
            "weights_mb": round(weights_mb, 2),
            "tier": plan.survey.tier or placement.tier,
            "why_tier": "as most of its calls wish" if plan.survey.tier else "",
            "private": plan.survey.private,
        },
        reason=verdict.reason,
        created_at=tools.now(),
    )
