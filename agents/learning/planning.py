"""What a run does for each task, and for how long: decided up front, from the calls and the configuration alone. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from shoal.agents.learning.budget import Wish, allot
from shoal.agents.learning.candidates import Prospect, consider
from shoal.agents.learning.lora_rungs import Rungs
from shoal.agents.learning.second_opinions import SecondOpinions
from shoal.agents.learning.splits import calibration_share, choose_share
from shoal.agents.learning.survey import Survey
from shoal.agents.learning.task_plan import Plan, inputs_digest
from shoal.agents.ports import Embedder
from shoal.agents.registry.records import Task, TaskId
from shoal.agents.tasks.corrections import is_hidden
from shoal.config import Config
from shoal.errors import NotFound

_NO_CALLS = Survey()


def wanted_tasks(tasks: Sequence[Task], names: Collection[str] | None) -> set[TaskId]:
    """The tasks of these names or ids; all that are shown where None. Raises NotFound."""
    visible = [t for t in tasks if not is_hidden(t)]
    if names is None:
        return {t.id for t in visible}
    known = {key: t.id for t in visible for key in (t.id, t.name)}
    for name in names:
        if name not in known:
            raise NotFound(f"There is no task {name!r}.", remedy="shoal tasks ls names those there are.")
    return {known[name] for name in names}


def plan_tasks(
    tasks: Sequence[Task],
    surveys: Mapping[TaskId, Survey],
    *,
    traces: int,
    config: Config,
    rungs: Rungs,
    seed: int,
    limit_min: float,
    opinions: SecondOpinions,
    embedder: Embedder | None,
) -> list[Plan]:
    """A plan for each visible task; the time is shared among all of them, whichever are asked for."""
    prospects: dict[TaskId, Prospect] = {}
    wishes = []
    visible = [t for t in tasks if not is_hidden(t)]
    for task in visible:
        survey = surveys.get(task.id, _NO_CALLS)
        fewest = config.learning.min_calls
        prospect = consider(task.output_kind, survey, min_calls=fewest)
        prospect = rungs.extend(prospect, task.output_kind, survey, min_calls=fewest)
        prospects[task.id] = prospect
        if task.excluded:
            continue
        held_out = int((choose_share(survey.calls) + calibration_share(survey.calls)) * survey.calls)
        wishes += [
            Wish(
                task_id=task.id,
                kind=kind,
                calls=survey.calls,
                held_out=min(held_out, 4000),
                answers=prospect.answers,
                embedded=embedder is not None,
            )
            for kind in prospect.kinds
        ]
    seconds = allot(wishes, traces=traces, limit_s=60 * limit_min)
    plans = []
    for task in visible:
        alpha, delta = config.contract.for_task(task.name)
        survey = surveys.get(task.id, _NO_CALLS)
        inputs = inputs_digest(
            task,
            survey,
            alpha=alpha,
            delta=delta,
            seed=seed,
            limit_min=limit_min,
            opinions=opinions,
            bases=rungs.identity(),
            embedder=embedder,
            split=config.learning.split,
            judged_by=_judge_of(task, config),
        )
        plans.append(
            Plan(
                task=task,
                survey=survey,
                prospect=prospects[task.id],
                seconds={k: s for (t, k), s in seconds.items() if t == task.id},
                alpha=alpha,
                delta=delta,
                seed=seed,
                inputs=inputs,
            )
        )
    return plans


def _judge_of(task: Task, config: Config) -> str:
    """The model whose word is the task's loss; empty where it is nobody's."""
    judge = config.judge
    return "" if judge is None or not config.contract.judged(task.name) else f"{judge.base_url} {judge.model}"
