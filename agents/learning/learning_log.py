"""The log as learning reads it: each trace with what was said of it, and whether it may be learnt from. Never held in memory.

Each pass scans the store anew, so memory does not grow with the log. Calls that come in or are erased between two passes are seen by
the later one alone: who keeps ids from an earlier pass must live with their absence.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

from shoal.agents.feedback.lessons import NO_LESSONS, Lessons
from shoal.agents.ports import TraceStore
from shoal.agents.traces.trace import Trace
from shoal.errors import ConfigError, DataError

_CAPTURED = "generalist/"
#: what the site answered by itself: a specialist, or the plan of an agent, whose steps are calls of their own
_SPECIALIST = "specialist/"
_OWN = (_SPECIALIST, "agent/")
#: between two looks at whether the run is to stop
_LOOK_EVERY = 1024


def is_others_answer(trace: Trace) -> bool:
    """Whether it is a whole answer of somebody else's: what a specialist answered, or broke off, is never learnt from."""
    return not trace.served_by.startswith(_OWN) and not trace.tags.get("incomplete")


class LearningLog:
    """The traces that may be learnt from, oldest first; can be iterated again and again.

    Imported logs always may be learnt from, captured answers of the generalist where the configuration allows it.

    Args:
        outputs_may_train: as `generalist.outputs_may_train`; None where the configuration does not say.
        stopped: asked while traces are read; where it says true, reading ends with KeyboardInterrupt.
    """

    def __init__(
        self,
        store: TraceStore,
        *,
        lessons: Lessons = NO_LESSONS,
        outputs_may_train: bool | None = None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        self._store = store
        self._lessons = lessons
        self._outputs_may_train = outputs_may_train
        self._stopped = stopped
        #: traces in the store, and those of them that may be learnt from, as the newest pass has counted them so far
        self.traces = 0
        self.usable = 0
        #: ids and names of the tasks of which a specialist answered some
        self.served: set[str] = set()

    def __iter__(self) -> Iterator[Trace]:
        """Raises as `every`."""
        return (trace for trace, usable in self.every() if usable)

    def every(self) -> Iterator[tuple[Trace, bool]]:
        """All traces, corrected where somebody did, and whether each may be learnt from.

        Raises, when all are read:
            DataError: there are none.
            ConfigError: there is captured traffic and `generalist.outputs_may_train` does not say, or forbids it and
                nothing else is there.
        """
        self.traces = self.usable = captured = 0
        self.served = set()
        for trace in self._store.scan():
            if self.traces % _LOOK_EVERY == 0 and self._stopped():
                raise KeyboardInterrupt
            self.traces += 1
            if trace.served_by.startswith(_SPECIALIST):
                name = trace.served_by.removeprefix(_SPECIALIST).rpartition("@")[0]
                self.served |= {name, str(trace.tags.get("task_id", name))}
            taught = self._lessons.taught(trace)
            if taught is None:
                yield trace, False
                continue
            captured += taught.served_by.startswith(_CAPTURED)
            usable = self._may_train(taught)
            self.usable += usable
            yield taught, usable
        self._check(captured)

    def pick(self, ids: Collection[str]) -> Iterator[Trace]:
        """Those of the traces with these ids that are still there and may be learnt from, in any order."""
        for trace in self._store.pick(ids):
            taught = self._lessons.taught(trace)
            if taught is not None and self._may_train(taught):
                yield taught

    def _may_train(self, trace: Trace) -> bool:
        return is_others_answer(trace) and (
            bool(self._outputs_may_train) or not trace.served_by.startswith(_CAPTURED)
        )

    def _check(self, captured: int) -> None:
        if not self.traces:
            raise DataError(
                "There are no traces to learn from.", remedy="shoal traces import FILE brings some in."
            )
        if not captured or self._outputs_may_train:
            return
        if self._outputs_may_train is None:
            raise ConfigError(
                f"{captured} traces are answers of the generalist that this site captured, and the configuration does not say "
                "whether they may be trained on; many providers' terms restrict it.",
                remedy="Read the terms, then say so: shoal learn --outputs-may-train, or `outputs_may_train` under `generalist` "
                "in shoal.yaml.",
                param="generalist.outputs_may_train",
            )
        if not self.usable:
            raise ConfigError(
                f"All {captured} traces are captured answers of the generalist, and `generalist.outputs_may_train` is false.",
                remedy="Import a log that may be learnt from, or set it to true if the terms allow it.",
                param="generalist.outputs_may_train",
            )
