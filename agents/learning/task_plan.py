"""What a run has decided to do for a task, and what it hands to whoever does it. Plain data; trains nothing."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from shoal.agents.learning.candidates import Prospect, Trainers
from shoal.agents.learning.learning_costs import TaskCosts
from shoal.agents.learning.second_opinions import Adviser, SecondOpinions
from shoal.agents.learning.survey import Survey
from shoal.agents.ports import Embedder, EngineLoader
from shoal.agents.registry.records import Task
from shoal.config import Config
from shoal.home import Home

#: raised when the way of training changes, so that unchanged calls are learnt from anew
PIPELINE = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be done for a task: its calls, what could be trained, and for how many seconds."""

    task: Task
    survey: Survey
    prospect: Prospect
    seconds: Mapping[str, float]
    alpha: float
    delta: float
    seed: int
    inputs: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """What a run hands in.

    Attributes:
        seconds_left: until the run must end.
        costs: of the task.
        cpu_seconds: processor time of this process so far.
        served: specialists answered some of the task's calls, so that the log has the others alone.
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
    served: bool = False


def judge_model(plan: Plan, tools: Tools) -> Adviser | None:
    """Who says which answers are wrong, where it is not the output kind's own loss and it may see the task's calls."""
    judge = tools.opinions.loss
    if judge is None or not tools.config.contract.judged(plan.task.name):
        return None
    return judge if judge.may_see(plan.survey.private) else None


def inputs_digest(
    task: Task,
    survey: Survey,
    *,
    alpha: float,
    delta: float,
    seed: int,
    limit_min: float,
    opinions: SecondOpinions | None = None,
    bases: Sequence[Any] = (),
    embedder: Embedder | None = None,
    split: str = "auto",
    judged_by: str = "",
) -> str:
    """What a version is made from: the calls, the contract, the seed, the time. The same digest gives the same version."""
    where = [survey.tier, survey.private]
    reads = None if embedder is None else embedder.digest
    facts = [
        PIPELINE,
        str(task.output_kind),
        survey.fingerprint,
        where,
        alpha,
        delta,
        seed,
        limit_min,
        reads,
        split,
    ]
    if opinions is not None:
        facts.extend(
            [role, adviser.calls]
            for role, adviser in (("again", opinions.again), ("judge", opinions.judge))
            if adviser is not None
        )
        if judged_by and opinions.loss is not None:
            facts.append(["judged by", judged_by, opinions.loss.calls])
    return hashlib.sha256(json.dumps([*facts, *bases]).encode()).hexdigest()
