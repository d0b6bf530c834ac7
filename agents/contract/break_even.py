"""What a specialist costs and saves, in money and in calls. Pure arithmetic over figures that somebody else measured.

learning   seconds of one core x price of a core hour
a call     what the generalist would cost for this task's tokens; what the specialist costs is its time on a core,
           for every call of the task, and the generalist still answers what the specialist is not sure of
even       learning / saved by a call; in days at the task's own volume
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

#: USD for an hour of one core, near what clouds ask for one virtual CPU with its memory; `learning.core_hour_usd`
CORE_HOUR_USD = 0.05
_DAYS_PER_MONTH = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """USD per million tokens of the generalist."""

    tokens_in: float
    tokens_out: float

    def of(self, prompt_tokens: float, completion_tokens: float) -> float:
        """USD."""
        return (prompt_tokens * self.tokens_in + completion_tokens * self.tokens_out) / 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskCost:
    """What was measured of a task and its specialist.

    Attributes:
        learning_s: seconds of one core that learning it took.
        answer_ms: the specialist's time for one call, on one core.
        coverage: share of the task's calls that it answers.
        prompt_tokens, completion_tokens: of the mean call.
        calls_per_day: None where the log is too short to say.
    """

    learning_s: float
    answer_ms: float
    coverage: float
    prompt_tokens: float
    completion_tokens: float
    calls_per_day: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakEven:
    """USD; `calls` and `days` are None where it never pays for itself, or where the volume is not known."""

    learning_usd: float
    generalist_call_usd: float
    specialist_call_usd: float
    saved_per_call_usd: float
    calls: int | None
    days: float | None
    saved_per_month_usd: float | None

    @property
    def saved_per_1000_usd(self) -> float:
        return 1000 * self.saved_per_call_usd

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def break_even(cost: TaskCost, price: Price, *, core_hour_usd: float = CORE_HOUR_USD) -> BreakEven:
    """When a specialist has earned what learning it cost.

    Raises:
        ValueError: a negative price, or a coverage outside [0, 1].
    """
    if core_hour_usd < 0 or price.tokens_in < 0 or price.tokens_out < 0:
        raise ValueError("Prices must not be negative.")
    if not 0 <= cost.coverage <= 1:
        raise ValueError(f"`coverage` is a share in [0, 1], got {cost.coverage}.")
    learning = cost.learning_s / 3600 * core_hour_usd
    generalist = price.of(cost.prompt_tokens, cost.completion_tokens)
    specialist = cost.answer_ms / 3.6e6 * core_hour_usd
    saved = cost.coverage * generalist - specialist
    pays = saved > 0
    calls = math.ceil(learning / saved) if pays else None
    per_day = cost.calls_per_day
    return BreakEven(
        learning_usd=learning,
        generalist_call_usd=generalist,
        specialist_call_usd=specialist,
        saved_per_call_usd=saved,
        calls=calls,
        days=calls / per_day if calls is not None and per_day else None,
        saved_per_month_usd=saved * per_day * _DAYS_PER_MONTH if per_day is not None else None,
    )
