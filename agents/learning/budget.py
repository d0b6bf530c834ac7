"""How a time limit becomes seconds for each training run: up front, from the data and the configuration alone. Pure.

The clock is not asked, so the same log and limit give the same budgets; trainers turn them into steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from shoal.agents.registry.records import TaskId
from shoal.agents.tasks.sample import MAX_SAMPLE

#: of the limit, what may be planned; the rest is margin for a slower machine
PLANNED_SHARE = 0.75
#: nominal seconds to read one trace and find its task: of those that decide what the tasks are, and of the rest
_SECONDS_PER_TRACE = 0.002
_SECONDS_PER_FURTHER_TRACE = 0.0006
_START_S = 6.0
#: nominal seconds to put one held-out call to a language model
_SECONDS_PER_HELD_OUT = 0.03
#: a language model gets at least and at most this
MIN_MICRO_LM_S = 15.0
MAX_MICRO_LM_S = 480.0
#: quick kinds together may take this share
_QUICK_SHARE = 0.4


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """One training run that could be made: `calls` to learn from, `held_out` to judge by, `answers` in its closed set (or 0).

    `embedded`: an embedder reads its calls, too.
    """

    task_id: TaskId
    kind: str
    calls: int
    held_out: int
    answers: int = 0
    embedded: bool = False


def allot(wishes: Sequence[Wish], *, traces: int, limit_s: float) -> dict[tuple[TaskId, str], float]:
    """Seconds for each run that fits; runs that do not fit are left out.

    Quick kinds get what their size asks for. Language models share the rest by the square root of their calls; where that is too
    little for all of them, those with the fewest calls are left out.
    """
    decide = min(traces, MAX_SAMPLE)
    reading = decide * _SECONDS_PER_TRACE + (traces - decide) * _SECONDS_PER_FURTHER_TRACE
    total = limit_s * PLANNED_SHARE - _START_S - reading
    if total <= 0:
        return {}
    seconds: dict[tuple[TaskId, str], float] = {}
    quick = [w for w in wishes if not _is_slow(w)]
    asked = {(w.task_id, w.kind): _quick_seconds(w) for w in quick}
    slow = sorted((w for w in wishes if _is_slow(w)), key=lambda w: (-w.calls, w.task_id, w.kind))
    share = _QUICK_SHARE if slow else 1.0
    scale = min(1.0, share * total / max(sum(asked.values()), 1e-9))
    for key, wanted in asked.items():
        seconds[key] = wanted * scale
    left = total - sum(seconds.values())
    seconds.update(_slow_seconds(slow, left))
    return seconds


def _is_slow(wish: Wish) -> bool:
    return wish.kind == "micro_lm" or wish.kind.startswith("lora")


def _quick_seconds(wish: Wish) -> float:
    if wish.kind == "record_classifier":
        return 8.0 + 0.004 * wish.calls
    if wish.kind == "tool_call":
        # more than `SECONDS_PER_CALL` of `tool_call.py`, and what judging takes
        return 10.0 + 0.05 * wish.calls
    if wish.kind == "classifier":
        # twice: to be judged, and once more on all calls
        reading = 0.014 * wish.calls if wish.embedded else 0.004 * wish.calls
        return 12.0 + reading + 1e-4 * wish.calls * max(wish.answers, 1)
    return 6.0 + 0.002 * wish.calls + 5e-5 * wish.calls * max(wish.answers, 1)


def _slow_seconds(slow: Sequence[Wish], left: float) -> dict[tuple[TaskId, str], float]:
    kept = list(slow)
    while kept:
        budget = left - sum(_SECONDS_PER_HELD_OUT * w.held_out for w in kept)
        weight = sum(math.sqrt(w.calls) for w in kept)
        out = {(w.task_id, w.kind): min(MAX_MICRO_LM_S, budget * math.sqrt(w.calls) / weight) for w in kept}
        if min(out.values()) >= MIN_MICRO_LM_S:
            return out
        kept.pop()
    return {}
