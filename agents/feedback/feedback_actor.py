"""The feedback actor: a detached Ray actor around `FeedbackLoop`. Only carries calls in and out, and keeps the loop's threads going.

Feedback is in the database before anybody tells the actor, so none is lost while it is away. If it dies Ray starts it again; it reads
back what it had counted, and goes on watching the learning run that it finds.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import ray

from shoal.agents.curation.recognition import recognition_of
from shoal.agents.feedback.counting import Batch
from shoal.agents.feedback.feedback_loop import FeedbackLoop
from shoal.agents.feedback.hearing import FeedbackTraces
from shoal.agents.feedback.learning_ports import Learner
from shoal.agents.feedback.learning_runs import SqlLearningRuns
from shoal.agents.feedback.rollout import Policy
from shoal.agents.feedback.schedule import LearningPolicy
from shoal.agents.feedback.seen import event_of
from shoal.agents.learning.forgetting import knowing_erased
from shoal.agents.registry.novelty import SqlNovelty
from shoal.agents.registry.records import Version
from shoal.agents.registry.store import SqlRegistry
from shoal.config import Config
from shoal.home import Home
from shoal.nodes.identity import HEAD_NAME, NODE_LABEL
from shoal.nodes.logs import log_to
from shoal.nodes.spool import SystemClock

log = logging.getLogger("shoal.feedback")

FEEDBACK_NAME: Final = "shoal-feedback"
NAMESPACE: Final = "shoal"

_TICK_S = 0.2
_STATUS_EVERY_S = 1.0
#: feedback is looked for so often where nobody says that there is some
_READ_EVERY_S = 5.0


class FeedbackActor:
    """One for a site, on the node of its data folder.

    Args:
        home: the site's data folder.
        config: `Config` as plain data.
        learner: makes what carries learning out, in this process.
    """

    def __init__(self, home: str, config: Mapping[str, Any], learner: Callable[[], Learner]) -> None:
        self._home = Home(Path(home))
        log_to(self._home.logs, "feedback")
        self._config = Config.model_validate(config)
        rollout, learning = self._config.rollout, self._config.learning
        registry = SqlRegistry(self._home.database)
        self._nudged = threading.Event()
        self._loop = FeedbackLoop(
            registry=registry,
            runs=SqlLearningRuns(registry.database),
            learner=learner(),
            traces=self._open_traces,
            policy=Policy(mode=rollout.mode, min_comparisons=rollout.min_comparisons),
            learning=LearningPolicy(
                every_hours=learning.every_hours,
                every_traces=learning.every_traces,
                min_corrections=learning.min_corrections,
                after_erasure=learning.after_erasure,
                novelty_min_calls=learning.novelty_min_calls,
            ),
            erased=self._erased,
            clock=SystemClock(),
            ids=lambda: f"{time.time_ns() // 1_000_000:012x}{secrets.token_hex(4)}",
            pool=SqlNovelty(registry.database),
        )
        for name, work in (("feedback", self._tick), ("read", self._read)):
            threading.Thread(target=work, name=name, daemon=True).start()

    async def observe(self, sender: str, first: int, comparisons: Sequence[Mapping[str, Any]]) -> bool:
        """Take comparisons that a sender numbered from `first` on. True once they are durable; False where far too many wait."""
        loop = asyncio.get_running_loop()
        kept = asyncio.Event()
        batch = Batch(
            events=tuple(event_of(data) for data in comparisons),
            sender=sender,
            first=first,
            kept=partial(loop.call_soon_threadsafe, kept.set),
        )
        if not self._loop.observe_batch(batch):
            return False
        await kept.wait()
        return True

    async def nudge(self) -> None:
        """There is feedback in the database."""
        self._nudged.set()

    async def learn(self, tasks: Sequence[str] = ()) -> dict[str, Any]:
        """Have a run begun as soon as none is under way; all tasks where none is named. Raises NotFound."""
        await asyncio.to_thread(self._loop.learn, tasks)
        return self._standing()

    async def stop_learning(self) -> bool:
        """Stop the run that is under way. False where there is none of the site's own."""
        return await asyncio.to_thread(self._loop.stop_learning)

    async def rest(self) -> None:
        """The site leaves: begin nothing any more."""
        await asyncio.to_thread(self._loop.rest)

    async def standing(self) -> dict[str, Any]:
        return self._standing()

    def _erased(self, versions: Sequence[Version]) -> Mapping[str, int]:
        return knowing_erased(self._home, versions)

    # -- threads

    def _open_traces(self) -> FeedbackTraces:
        # imported here: pyarrow is large, and not needed as long as nobody gives feedback
        from shoal.agents.traces.store import ParquetTraceStore

        return ParquetTraceStore(self._home, recognisers=recognition_of(self._config.privacy))

    def _tick(self) -> None:
        written = float("-inf")
        while True:
            try:
                self._loop.tick()
                if time.monotonic() - written >= _STATUS_EVERY_S:
                    self._write_status()
                    written = time.monotonic()
            except Exception:
                log.exception("the feedback actor's round failed; trying again")
            time.sleep(_TICK_S)

    def _read(self) -> None:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
        while True:
            self._nudged.wait(_READ_EVERY_S)
            self._nudged.clear()
            try:
                self._loop.read()
            except Exception:
                log.exception("feedback could not be read; trying again")
            time.sleep(_TICK_S)

    # -- status

    def _standing(self) -> dict[str, Any]:
        return {**self._loop.standing.to_dict(), "at": time.time(), "pid": os.getpid()}

    def _write_status(self) -> None:
        path = self._home.feedback_status
        draft = path.with_suffix(f".{os.getpid()}")
        draft.write_text(json.dumps(self._standing()), encoding="utf-8")
        draft.rename(path)


def start_feedback(
    home: Home,
    config: Config,
    learner: Callable[[], Learner],
    *,
    pin: Mapping[str, float] | None = None,
) -> Any:
    """Start the actor, or take the one that runs. Returns at once."""
    return (
        ray.remote(FeedbackActor)
        .options(
            name=FEEDBACK_NAME,
            namespace=NAMESPACE,
            lifetime="detached",
            get_if_exists=True,
            num_cpus=0,
            max_restarts=-1,
            max_task_retries=-1,
            max_concurrency=64,
            resources=dict(pin or {}) or None,
            # on the node of the data folder: a site's own Ray has it on its head
            label_selector=None if pin else {NODE_LABEL: HEAD_NAME},
        )
        .remote(str(home.root), config.model_dump(mode="json"), learner)
    )
