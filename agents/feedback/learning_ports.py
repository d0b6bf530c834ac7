"""What the feedback actor needs to have learning run: a durable list of runs, and somebody who carries them out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from shoal.agents.feedback.learning_runs import LearningRun, RunState


class LearningRuns(Protocol):
    """See `SqlLearningRuns`."""

    def ask(self, run_id: str, *, tasks: Sequence[str], reason: str, at: float) -> None: ...

    def asked(self) -> list[LearningRun]: ...

    def begin(self, run_id: str, *, tasks: Sequence[str], reason: str, at: float) -> LearningRun:
        """Raises Conflict while another one is running."""
        ...

    def note_begun(self, run_id: str, times: int) -> None: ...

    def ask_to_stop(self, run_id: str) -> None: ...

    def finish(self, run_id: str, state: RunState, report: Mapping[str, Any], *, at: float) -> None: ...

    def running(self) -> LearningRun | None: ...

    def get(self, run_id: str) -> LearningRun: ...

    def all(self) -> list[LearningRun]: ...


class Learner(Protocol):
    """Carries runs out, each in a process of its own that outlives this one. Implemented in `serve/`."""

    def start(self, run: LearningRun) -> None:
        """Returns at once; the process takes the run for itself. Raises OSError."""
        ...

    def is_starting(self, run_id: str) -> bool:
        """Whether a process that was started here for the run still lives."""
        ...

    def stop(self, run: LearningRun) -> None:
        """Ask the run's process to end, which it does as soon as what it has is safe."""
        ...

    def progress(self, run_id: str) -> Mapping[str, Any] | None:
        """`fraction` in [0, 1] and `text`; None where nothing was said yet."""
        ...
