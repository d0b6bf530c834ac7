"""How much of a log is a task's: its calls, their tokens, and how many come in a day. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from shoal.agents.registry.records import TaskId
from shoal.agents.traces.tokens import usage_of
from shoal.agents.traces.trace import Trace
from shoal.errors import InvalidRequest

#: a log that spans less says nothing of a day
_SHORTEST_S = 3600.0
_DAY_S = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """One task's calls in a log.

    Attributes:
        prompt_tokens, completion_tokens: in all, as the answers report them, else estimated from their bytes.
        estimated: how many calls report none.
        calls_per_day: over the time that the whole log spans; None where that is less than an hour.
    """

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    estimated: int = 0
    calls_per_day: float | None = None

    @property
    def mean_prompt_tokens(self) -> float:
        return self.prompt_tokens / self.calls if self.calls else 0.0

    @property
    def mean_completion_tokens(self) -> float:
        return self.completion_tokens / self.calls if self.calls else 0.0


class VolumeCount:
    """Counts calls one by one."""

    def __init__(self) -> None:
        self._sums: dict[TaskId, list[int]] = {}
        self._first, self._last = float("inf"), float("-inf")

    def add(self, trace: Trace, task_id: TaskId | None) -> None:
        """`task_id`: None for a call of no task, which only tells how long the log is."""
        self._first, self._last = min(self._first, trace.timestamp), max(self._last, trace.timestamp)
        if task_id is None:
            return
        prompt, completion, is_estimate = tokens_of_trace(trace)
        own = self._sums.setdefault(task_id, [0, 0, 0, 0])
        for i, value in enumerate((1, prompt, completion, int(is_estimate))):
            own[i] += value

    def result(self) -> dict[TaskId, Volume]:
        """The volume of each task that has calls."""
        span = self._last - self._first
        return {
            task_id: Volume(
                calls=calls,
                prompt_tokens=prompt,
                completion_tokens=completion,
                estimated=estimated,
                calls_per_day=calls / (span / _DAY_S) if span >= _SHORTEST_S else None,
            )
            for task_id, (calls, prompt, completion, estimated) in self._sums.items()
        }


def tokens_of_trace(trace: Trace) -> tuple[int, int, bool]:
    """Prompt and completion tokens of a call, and whether they had to be estimated. All 0 for a call without an answer."""
    try:
        answer = trace.answer
    except InvalidRequest:
        return 0, 0, False
    usage = usage_of(trace.chat, answer)
    reported = bool(answer.usage.prompt_tokens or answer.usage.completion_tokens)
    return usage.prompt_tokens, usage.completion_tokens, not reported
