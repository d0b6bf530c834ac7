"""The feedback actor's work without Ray: keeps the evidence on versions, hears feedback, has learning run and watches it.

Carries out what `feedback_state.py` decides. Two threads of the actor call it: `tick` a few times a second, and `read` now and then at
low priority, because it looks into traces. All that must outlive the process is in the database: counts, feedback, runs.
"""

from __future__ import annotations

import logging
import queue
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from shoal.agents.contract.calibrate import NEVER
from shoal.agents.feedback.counting import Batch, Counting
from shoal.agents.feedback.feedback_state import Command, Event, FeedbackState, RegistryRead
from shoal.agents.feedback.governance import LIVE_STATES, MoveVersions, carry_out
from shoal.agents.feedback.hearing import FeedbackReader, FeedbackTraces
from shoal.agents.feedback.learning_ports import Learner, LearningRuns
from shoal.agents.feedback.learning_runs import LearningRun, RunState, process_of
from shoal.agents.feedback.novelty import PoolStore
from shoal.agents.feedback.rollout import CountComparison, Policy
from shoal.agents.feedback.schedule import (
    ASKED,
    ErasedSeen,
    FeedbackSeen,
    LearningAsked,
    LearningEnded,
    LearningPolicy,
    LearningStarted,
    StartLearning,
    Ticked,
)
from shoal.agents.feedback.seen import EvidenceRegistry, read_registry
from shoal.agents.feedback.watching import ContradictionsRead, KeepWatch, ReportDrift
from shoal.agents.ports import Clock
from shoal.agents.registry.records import Version
from shoal.agents.tasks.finder import MIN_CALLS
from shoal.errors import Conflict, ShoalError, StaleDecision

log = logging.getLogger("shoal.feedback")

_MOST_WAITING = 20_000
#: how often runs are watched, and begun
_LOOK_S = 1.0
#: a person's run has so long to say which process it is
_CLAIM_S = 10.0
#: a run whose process died so often is given up
_MOST_BEGUN = 3


@dataclass
class Standing:
    """How the actor is, for `shoal status`."""

    #: the registry was read
    read: bool = False
    compared: int = 0
    #: task name -> answers that were contradicted since it was last learnt
    contradicted: dict[str, int] = field(default_factory=dict)
    #: task name -> calls that may be learnt from, since it was last learnt; counted where `learning.every_traces` is set
    grown: dict[str, int] = field(default_factory=dict)
    #: calls in the novelty pool, and those of them that are of a recurring kind, by its name
    novel: int = 0
    kinds: dict[str, int] = field(default_factory=dict)
    #: pieces of feedback whose trace is not there
    unknown: int = 0
    running: dict[str, Any] | None = None
    last: dict[str, Any] | None = None
    trouble: str = ""

    def to_dict(self) -> dict[str, Any]:
        return dict(vars(self))


class FeedbackLoop:
    """One per feedback actor. Methods but `tick` and `read` may be called from any thread."""

    def __init__(
        self,
        *,
        registry: EvidenceRegistry,
        runs: LearningRuns,
        learner: Learner,
        traces: Callable[[], FeedbackTraces],
        policy: Policy,
        learning: LearningPolicy,
        clock: Clock,
        ids: Callable[[], str],
        erased: Callable[[Sequence[Version]], Mapping[str, int]] = lambda versions: {},
        pool: PoolStore | None = None,
    ) -> None:
        self._registry = registry
        self._runs = runs
        self._learner = learner
        self._clock = clock
        self._ids = ids
        #: by key, how many erased calls each of some versions knows
        self._erased = erased
        self._known_erased: Mapping[str, int] = {}
        self._state = FeedbackState(policy, learning)
        self._reader = FeedbackReader(
            traces,
            clock=clock,
            observe=self.observe,
            counts=bool(learning.every_traces),
            pool=pool,
            # kinds are told also where they begin no run
            min_novel=learning.novelty_min_calls or MIN_CALLS,
        )
        self._batches: queue.Queue[Batch] = queue.Queue(_MOST_WAITING)
        self._counting = Counting(registry)
        #: feedback that could not be counted in the test of a contract yet
        self._unheard: list[Event] = []
        self._epoch = -1
        #: a decision was not carried out
        self._read_again = False
        #: of each version, as the registry was last read
        self._thresholds: Mapping[str, float] = {}
        self._recalled = False
        self._resting = False
        self._looked_at = float("-inf")
        #: id of the run that was seen running last
        self._watched: str | None = None
        self.standing = Standing()

    def observe(self, event: Event) -> bool:
        """Take an event. False where far too many wait already."""
        return self.observe_batch(Batch(events=(event,)))

    def observe_batch(self, batch: Batch) -> bool:
        """Take events of one sender; `batch.kept` is called once they are durable. False where far too many wait already."""
        try:
            self._batches.put_nowait(batch)
        except queue.Full:
            return False
        return True

    def learn(self, tasks: Sequence[str] = ()) -> None:
        """Have a run begun as soon as none is under way. `tasks`: names or ids; all where there are none. Raises NotFound."""
        wanted = tuple(self._registry.task(name).id for name in tasks)
        self._runs.ask(self._ids(), tasks=wanted, reason=ASKED, at=self._clock.now())
        self.observe(LearningAsked(tasks=wanted))

    def stop_learning(self) -> bool:
        """Stop the run that is under way, for good. False where there is none of the site's own."""
        run = self._runs.running()
        if run is None or run.by_hand:
            return False
        self._runs.ask_to_stop(run.id)
        self._learner.stop(run)
        return True

    def rest(self) -> None:
        """Begin nothing any more, and let the run under way wait for the next actor."""
        self._resting = True
        run = self._runs.running()
        if run is not None and not run.by_hand:
            self._learner.stop(run)

    # -- the reading thread

    def read(self) -> None:
        """Look up what feedback and new calls are about. Errors leave all as it was, to be tried again."""
        if self.standing.read:
            self._reader.read(self._registry.feedback_after(self._reader.sequence))
            self.standing.unknown = self._reader.unknown
            self._tell_novel()
            self._look_for_erased()

    def _tell_novel(self) -> None:
        pool = self._reader.pool
        if pool is not None:
            self.standing.novel = pool.size
            self.standing.kinds = {kind.name: kind.calls for kind in pool.kinds}

    def _look_for_erased(self) -> None:
        """Erasure leaves no event: what live versions know of erased calls is looked up, and told where it changed."""
        known = self._erased([v for v in self._registry.versions() if v.state in LIVE_STATES])
        if known != self._known_erased:
            self._known_erased = known
            self.observe(ErasedSeen(known=known, at=self._clock.now()))

    # -- the deciding thread

    def tick(self) -> None:
        """Read the registry if it changed, handle what was observed, watch learning. An error leaves all as it was."""
        try:
            self._recall()
            epoch = self._registry.epoch()
            if epoch != self._epoch or self._read_again:
                self._read_again = False
                self._carry_out(self._state.handle(self._read_registry(epoch)))
                self._epoch = epoch
                self._reader.learnt_before = self._state.schedule.learnt_before()
                self.standing.read = True
            self._handle_observed()
            now = self._clock.monotonic()
            if now - self._looked_at >= _LOOK_S:
                self._looked_at = now
                self._look()
            self.standing.trouble = ""
        except ShoalError as error:
            self._read_again = True
            self.standing.trouble = str(error)
            log.warning("%s", error)

    def _recall(self) -> None:
        """What earlier runs have done, once."""
        if self._recalled:
            return
        for run in self._runs.all():
            if run.ended_at is not None:
                self._state.handle(_ended(run))
                self.standing.last = _shown(run)
        for run in self._runs.asked():
            self._state.handle(LearningAsked(tasks=run.tasks))
        self._recalled = True

    def _read_registry(self, epoch: int) -> RegistryRead:
        read = read_registry(self._registry, epoch)
        self._reader.tasks = read.tasks
        self._thresholds = {v.key: v.threshold for v in read.versions}
        return read

    def _handle_observed(self) -> None:
        """First what was seen is kept, then what follows from it is done: whoever is killed between the two decides it again."""
        following: list[Command] = []
        for event in self._unheard[:]:
            following += self._contradict(event)
            self._unheard.remove(event)
        for batch in self._waiting():
            for event in self._counting.take(batch):
                commands = self._state.handle(event)
                try:
                    commands = [*commands, *self._contradict(event)]
                except ShoalError as error:
                    log.warning("feedback is not counted yet: %s", error)
                    self._unheard.append(event)
                for command in commands:
                    if isinstance(command, CountComparison | KeepWatch | ReportDrift):
                        self._counting.count(command)  # drift that is read back is carried out: it is no news
                    else:
                        following.append(command)
        self.standing.compared += self._counting.keep()
        self._carry_out(following)

    def _contradict(self, event: Event) -> list[Command]:
        """Feedback on an answer that a version was sure enough to give counts in the test of its contract."""
        if not isinstance(event, FeedbackSeen) or event.number is None:
            return []
        key = f"{event.task_id}@{event.number}"
        if event.confidence < self._thresholds.get(key, NEVER):
            return []
        at = event.answered_at if event.contradicts else None
        if not self._registry.contradict(key, event.trace_id, at):
            return []
        contradicted = tuple(self._registry.evidence(key).contradicted)
        return self._state.handle(ContradictionsRead(version_key=key, answered_at=contradicted))

    def _waiting(self) -> Iterator[Batch]:
        while True:
            try:
                yield self._batches.get_nowait()
            except queue.Empty:
                return

    def _carry_out(self, commands: Sequence[Command]) -> None:
        for command in commands:
            if isinstance(command, MoveVersions):
                try:
                    carry_out(self._registry, command)
                except StaleDecision as error:
                    # somebody else has changed the registry: it is read, and all is decided anew
                    self._read_again = True
                    log.info("%s", error)
            elif isinstance(command, StartLearning):
                self._begin(command)

    # -- learning

    def _look(self) -> None:
        self._watch()
        if not self._resting:
            self._carry_out(self._state.handle(Ticked(now=self._clock.now())))
        schedule = self._state.schedule
        names = {task.id: task.name for task in self._reader.tasks}
        self.standing.contradicted = {
            names.get(task_id, task_id): count for task_id, count in schedule.contradictions().items()
        }
        self.standing.grown = {
            names.get(task_id, task_id): count for task_id, count in schedule.growth().items()
        }

    def _begin(self, command: StartLearning) -> None:
        now = self._clock.now()
        try:
            run = self._runs.begin(self._ids(), tasks=command.tasks, reason=command.reason, at=now)
        except Conflict:
            # somebody else was quicker; it is watched like one of our own
            self._state.handle(_failed(command, now))
            if command.reason == ASKED:
                self.observe(LearningAsked(tasks=command.tasks))
            raise
        except ShoalError:
            self._state.handle(_failed(command, now))
            raise
        log.info("learning begins: %s", run.reason)
        # watched before it is launched, so that a launch that fails is an end like any other
        self._watched = run.id
        self._state.handle(LearningStarted(started_at=run.started_at))
        self._launch(run)
        self._watch()

    def _launch(self, run: LearningRun) -> None:
        self._runs.note_begun(run.id, run.begun + 1)
        try:
            self._learner.start(run)
        except OSError as error:
            self._finish(run, "failed", f"Its process cannot be started: {error}.")

    def _watch(self) -> None:
        """See how the run under way is, whoever began it; go on with one whose process died."""
        run = self._runs.running()
        if self._watched is not None and (run is None or run.id != self._watched):
            ended = self._runs.get(self._watched)
            self._watched = None
            self.standing.running, self.standing.last = None, _shown(ended)
            log.info("learning ended: %s", ended.state)
            self._state.handle(_ended(ended))
            self._reader.learnt_before = self._state.schedule.learnt_before()
        if run is None:
            return
        if run.id != self._watched:
            self._watched = run.id
            self._state.handle(LearningStarted(started_at=run.started_at))
        self.standing.running = {**run.to_dict(), **(self._learner.progress(run.id) or {})}
        if process_of(run) is None and not self._learner.is_starting(run.id):
            self._go_on(run)

    def _go_on(self, run: LearningRun) -> None:
        """A running run has no process."""
        if run.by_hand:
            if self._clock.now() - run.started_at > _CLAIM_S:
                self._finish(run, "stopped", "Its process was gone.")
        elif run.state == "stopping":
            self._finish(run, "stopped", "It was stopped.")
        elif run.begun >= _MOST_BEGUN:
            self._finish(run, "failed", f"Its process died {run.begun} times; see logs/learning.log.")
        elif not self._resting:
            log.warning("the process of learning run %s is gone; going on with it", run.id)
            self._launch(run)

    def _finish(self, run: LearningRun, state: RunState, why: str) -> None:
        self._runs.finish(run.id, state, {"error": why}, at=self._clock.now())


def _failed(command: StartLearning, now: float) -> LearningEnded:
    return LearningEnded(tasks=command.tasks, state="failed", started_at=now, ended_at=now)


def _ended(run: LearningRun) -> LearningEnded:
    state = run.state if run.state in ("done", "failed") else "stopped"
    ended_at = run.started_at if run.ended_at is None else run.ended_at
    return LearningEnded(
        tasks=run.tasks,
        state=state,
        started_at=run.started_at,
        ended_at=ended_at,
    )


def _shown(run: LearningRun) -> dict[str, Any]:
    """A run that ended, as a person would want to see it."""
    tasks = run.report.get("tasks") or []
    return {
        **run.to_dict(),
        "error": str(run.report.get("error", "")),
        "outcomes": {str(task["name"]): str(task["verdict"]) for task in tasks},
    }
