"""The learning run: traces in, judged specialist versions out. Finds tasks, shares out the time, and takes each task in turn.

A function of the traces, the configuration and a seed; the clock only cuts what is far slower than planned, and the manifest says so.
One task's failure is that task's reason and never the run's end. Knows neither Ray nor how versions are deployed.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from shoal.agents.curation.recognition import recognition_of
from shoal.agents.feedback.lessons import lessons_of
from shoal.agents.learning.candidates import Trainers, trainer_of
from shoal.agents.learning.embedders import dense_embedder
from shoal.agents.learning.learning_costs import LearningCosts, NoteExpenses, TaskCosts, note_nothing
from shoal.agents.learning.learning_log import LearningLog
from shoal.agents.learning.lora_job import LoraExecutor
from shoal.agents.learning.lora_rungs import Rungs
from shoal.agents.learning.material import Material
from shoal.agents.learning.planning import plan_tasks, wanted_tasks
from shoal.agents.learning.report import LearnReport, Manifest, Outcome, TaskReport
from shoal.agents.learning.second_opinions import SecondOpinions
from shoal.agents.learning.specialise import forget_work, specialise
from shoal.agents.learning.survey import survey_log
from shoal.agents.learning.task_plan import Plan, Tools
from shoal.agents.ports import Clock, Embedder, EngineLoader, Registry, TraceStore
from shoal.agents.registry.lifecycle import Move
from shoal.agents.registry.records import TaskId, Version, VersionState
from shoal.agents.tasks.finder import Found, find_tasks
from shoal.agents.tasks.matcher import Matcher
from shoal.config import Config
from shoal.errors import DataError, ShoalError, StaleDecision, StorageFull
from shoal.home import Home

log = logging.getLogger(__name__)

#: of the time limit, what may be used before whatever is running is cut
_HARD_SHARE = 0.92
#: so often is a version registered anew where others move its task's versions at the same time
_MOST_TRIES = 5
_NOBODY = SecondOpinions()


def learn(
    *,
    store: TraceStore,
    registry: Registry,
    home: Home,
    config: Config,
    clock: Clock,
    loader: EngineLoader,
    seed: int | None = None,
    time_limit_min: float | None = None,
    tasks: Collection[str] | None = None,
    force: bool = False,
    feedback: Sequence[Mapping[str, Any]] = (),
    progress: Callable[[float, str], None] = lambda fraction, text: None,
    stopped: Callable[[], bool] = lambda: False,
    trainers: Trainers = trainer_of,
    opinions: SecondOpinions = _NOBODY,
    embedder: Embedder | None = None,
    executor: LoraExecutor | None = None,
    spend: NoteExpenses = note_nothing,
) -> LearnReport:
    """Learn from all traces.

    Args:
        seed, time_limit_min: `learning.seed` and `learning.time_limit_min` where None.
        tasks: learn only these, by name or id; all where None.
        force: train also where neither calls nor settings changed since the newest version.
        feedback: what was said of answers, oldest first; see `with_lessons`.
        progress: called with (fraction of the run, what is being done).
        opinions: who else is asked about held-out calls.
        spend: keeps what the run takes.
        stopped: asked between steps; a KeyboardInterrupt is taken alike. What was finished is kept.
        embedder: what label specialists read besides n-grams, and which texts under one prompt are near each other; the one that
            `learning.embedder` names where None.
        executor: who trains pretrained bases; this process where None.

    Raises:
        DataError: there are no traces.
        ConfigError: `learning.embedder` cannot be loaded; captured answers may not be trained on, or the configuration does not say.
        NotFound: one of `tasks` is no task.
        StorageFull: the disk is full; what was finished before is kept.
    """
    run = _Run(
        registry=registry,
        home=home.create(),
        config=config,
        clock=clock,
        loader=loader,
        seed=config.learning.seed if seed is None else seed,
        limit_min=config.learning.time_limit_min if time_limit_min is None else time_limit_min,
        force=force,
        progress=progress,
        stopped=stopped,
        trainers=trainers,
        opinions=opinions,
        embedder=dense_embedder(config.learning.embedder) if embedder is None else embedder,
        executor=executor,
        costs=LearningCosts(note=spend, now=clock.now),
    )
    try:
        return run.go(store, tasks, feedback)
    finally:
        run.costs.end()


class _Run:
    def __init__(
        self,
        *,
        registry: Registry,
        home: Home,
        config: Config,
        clock: Clock,
        loader: EngineLoader,
        seed: int,
        limit_min: float,
        force: bool,
        progress: Callable[[float, str], None],
        stopped: Callable[[], bool],
        trainers: Trainers,
        opinions: SecondOpinions,
        embedder: Embedder | None,
        executor: LoraExecutor | None,
        costs: LearningCosts,
    ) -> None:
        self.registry = registry
        self.home = home
        self.config = config
        self.clock = clock
        self.loader = loader
        self.seed = seed
        self.limit_min = limit_min
        self.force = force
        self.progress = progress
        self.stopped = stopped
        self.trainers = trainers
        self.opinions = opinions
        self.embedder = embedder
        self.executor = executor
        self.costs = costs
        self.started = clock.monotonic()
        self.rungs = Rungs()
        self.interrupted = False
        #: ids and names of tasks of which a specialist answered calls
        self.served: set[str] = set()
        self.reports: dict[TaskId, TaskReport] = {}

    def go(
        self, store: TraceStore, names: Collection[str] | None, feedback: Sequence[Mapping[str, Any]]
    ) -> LearnReport:
        self.progress(0.0, "reading traces")
        generalist = self.config.generalist
        calls = LearningLog(
            store,
            lessons=lessons_of(feedback, pick=store.pick, recognisers=recognition_of(self.config.privacy)),
            outputs_may_train=None if generalist is None else generalist.outputs_may_train,
            stopped=self.stopped,
        )
        started_at = self.clock.now()
        found: Found | None = None
        try:
            self.progress(0.02, "finding tasks")
            found = find_tasks(
                calls, known=self.registry.tasks(), seed=self.seed, now=started_at, embedder=self.embedder
            )
        except KeyboardInterrupt:
            self.interrupted = True
        traces, usable, self.served = calls.traces, calls.usable, calls.served
        manifest = Manifest(
            self.home.work,
            {
                "seed": self.seed,
                "time_limit_min": self.limit_min,
                "traces": traces,
                "usable": usable,
                "config": self.config.model_dump(mode="json", exclude={"tls"}),
                "started_at": started_at,
            },
        )
        unclustered = 0
        if found is not None:
            unclustered = sum(task_id is None for task_id in found.assignment.values())
            try:
                self._learn_found(found, calls, names, manifest, usable)
            except KeyboardInterrupt:
                self.interrupted = True
        report = LearnReport(
            traces=traces,
            usable=usable,
            unclustered=unclustered,
            seconds=round(self.clock.monotonic() - self.started, 2),
            seed=self.seed,
            time_limit_min=self.limit_min,
            interrupted=self.interrupted,
            cut_by_clock=any(r.cut_by_clock for r in self.reports.values()),
            manifest=str(manifest.path),
            tasks=tuple(self.reports.values()),
        )
        manifest.note(complete=not self.interrupted, report=report.to_dict())
        self.progress(1.0, "stopped" if self.interrupted else "done")
        return report

    def _learn_found(
        self, found: Found, calls: LearningLog, names: Collection[str] | None, manifest: Manifest, usable: int
    ) -> None:
        self.registry.put_tasks(found.tasks)
        wanted = wanted_tasks(found.tasks, names)
        self.rungs = Rungs.survey(self.config, executor=self.executor, speeds=self.home.work / "speed.json")
        if self.config.learning.bases:
            manifest.note(bases=self.rungs.to_dict())
        self.progress(0.06, "looking at the tasks' calls")
        matcher = Matcher([(task.id, task) for task in found.tasks])
        survey = survey_log(
            calls,
            found.assignment,
            lambda request: matcher.match(request).task_id,
            seed=self.seed,
            most=self.config.learning.max_calls_per_task,
        )
        plans = plan_tasks(
            found.tasks,
            survey.tasks,
            traces=usable,
            config=self.config,
            rungs=self.rungs,
            seed=self.seed,
            limit_min=self.limit_min,
            opinions=self.opinions,
            embedder=self.embedder,
        )
        manifest.note(budget={p.task.name: dict(p.seconds) for p in plans})
        # what never needs the clock first, so that its reasons are there even where the run is stopped
        todo: list[Plan] = []
        for plan in plans:
            if plan.task.id not in wanted:
                continue
            if settled := self._settled(plan):
                self._close(plan, *settled)
            else:
                todo.append(plan)
        todo.sort(key=lambda p: (sum(p.seconds.values()), p.task.id))
        nominal = sum(sum(p.seconds.values()) for p in todo) or 1.0
        done = 0.0
        for plan in todo:
            share = sum(plan.seconds.values()) / nominal
            if self.interrupted or self.stopped():
                self.interrupted = True
                self._close(plan, "stopped", "Learning was stopped before its turn; run it again to go on.")
                continue
            # one task's calls at a time are in memory
            with self.costs.task(plan.task.id) as costs:
                self._one(
                    plan,
                    partial(survey.material, calls, plan.task.id),
                    self._within(0.1 + 0.9 * done, 0.9 * share, plan.task.name),
                    costs,
                )
            done += share
            manifest.note(tasks=[r.name for r in self.reports.values()])

    def _within(self, start: float, width: float, name: str) -> Callable[[float, str], None]:
        """Progress of one task as progress of the run."""
        return lambda fraction, text: self.progress(start + width * fraction, f"{name}: {text}")

    def _settled(self, plan: Plan) -> tuple[Outcome, str] | None:
        """The outcome of a task that needs no training, with its reason."""
        if plan.task.excluded:
            return "skipped", "Excluded by the owner."
        if not plan.prospect.kinds:
            return "skipped", plan.prospect.reason
        newest = max(self.registry.versions(plan.task.id), key=lambda v: v.number, default=None)
        if newest is not None and newest.evidence.get("inputs") == plan.inputs and not self.force:
            return "unchanged", newest.reason
        if not plan.seconds:
            return "skipped", (
                f"The time limit of {self.limit_min:g} min leaves no time to train it; "
                "give more with --time-limit or learning.time_limit_min."
            )
        return None

    def _one(
        self,
        plan: Plan,
        material: Callable[[], Material],
        progress: Callable[[float, str], None],
        costs: TaskCosts,
    ) -> None:
        started = self.clock.monotonic()
        number = self.registry.next_number(plan.task.id)
        tools = Tools(
            home=self.home,
            config=self.config,
            loader=self.loader,
            trainers=self.rungs.trainers(self.trainers, plan.survey),
            monotonic=self.clock.monotonic,
            now=self.clock.now,
            embedder=self.embedder,
            costs=costs,
            seconds_left=lambda: self.started + _HARD_SHARE * 60 * self.limit_min - self.clock.monotonic(),
            progress=progress,
            stopped=self.stopped,
            opinions=self.opinions,
            served=not self.served.isdisjoint((plan.task.id, plan.task.name)),
        )
        try:
            self.registry.begin_training(plan.task.id, number)
            version, verdict, cut = specialise(plan, material(), number, tools)
            costs.trained(version.evidence.get("candidates", ()))
            self._register(version)
            forget_work(plan, self.home)
        except KeyboardInterrupt:
            self.interrupted = True
            self._close(plan, "stopped", "Learning was stopped while it trained; run it again to go on.")
            return
        except DataError as error:
            self._close(plan, "skipped", str(error), seconds=self.clock.monotonic() - started)
            return
        except StorageFull:
            raise
        except ShoalError as error:
            self._close(plan, "error", str(error), seconds=self.clock.monotonic() - started)
            return
        except Exception as error:
            if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                raise StorageFull(
                    f"The disk is full: {self.home.root} has no room for a model.",
                    remedy="Make room, then run shoal learn again: it goes on where it stopped.",
                ) from error
            log.exception("training of %s failed", plan.task.name)
            reason = f"Training failed: {type(error).__name__}: {error}"
            self._close(plan, "error", reason, seconds=self.clock.monotonic() - started)
            return
        finally:
            # nothing where it became a version
            self.registry.end_training(plan.task.id, number, reason="its run came to no version of it")
        self._close(
            plan,
            verdict.outcome,
            verdict.reason,
            version=version,
            seconds=self.clock.monotonic() - started,
            cut=cut,
        )

    def _register(self, version: Version) -> None:
        """Add the version; a shadow that it replaces is retired. What serves goes on serving until it is promoted."""
        for tries_left in reversed(range(_MOST_TRIES)):
            replaced = [
                Move(
                    version_key=old.key,
                    before=old.state,
                    after=VersionState.RETIRED,
                    reason=f"version {version.number} was learnt",
                )
                for old in self.registry.versions(version.task_id)
                if version.state is VersionState.SHADOW and old.state is VersionState.SHADOW
            ]
            try:
                self.registry.add_version(version, moves=replaced)
                return
            except StaleDecision:
                # the shadow was moved meanwhile
                if not tries_left:
                    raise

    def _close(
        self,
        plan: Plan,
        outcome: Outcome,
        reason: str,
        *,
        version: Version | None = None,
        seconds: float = 0.0,
        cut: bool = False,
    ) -> None:
        task = plan.task
        if outcome == "pass":
            said = f"Version {version.number if version else ''} passed its gate and is in shadow; promote it to serve."
        else:
            said = reason
        if outcome not in ("unchanged", "stopped") and said != task.reason:
            # the owner may have changed the task while it trained
            current = next((t for t in self.registry.tasks() if t.id == task.id), task)
            self.registry.put_tasks([replace(current, reason=said)])
        self.reports[task.id] = TaskReport(
            task_id=task.id,
            name=task.name,
            output_kind=str(task.output_kind),
            calls=plan.survey.calls,
            verdict=outcome,
            reason=reason,
            kind=version.kind if version else "",
            version=version.key if version else "",
            threshold=version.threshold if version else None,
            coverage=version.evidence["gate"]["figures"]["coverage"]["value"] if version else None,
            seconds=round(seconds, 2),
            cut_by_clock=cut,
            figures=dict(version.evidence["gate"]["figures"]) if version else {},
            break_even=version.evidence["costs"]["break_even"] if version else None,
        )
