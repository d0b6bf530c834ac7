"""Measures what answers take: time in the engine, and the GPU's energy where NVML counts it. Knows no kind of engine.

A batch's time is split evenly over its answers. Energy is the whole GPU's while it answered: where several replicas share a GPU and answer at
once, each is charged for all of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from shoal.agents.ports import Effort, Engine, SpecialistAnswer
from shoal.agents.traces.chat import ChatRequest


def no_meter() -> float | None:
    """The energy counter of a machine that has none."""
    return None


@dataclass(frozen=True, slots=True)
class MeteredEngine:
    """An engine whose answers say what they took. Implements `Engine`.

    Attributes:
        seconds: a clock that never goes back.
        joules: the GPU's energy counter; None where it does not count. Asked only of an engine that says it is `on_gpu`.
    """

    engine: Engine
    seconds: Callable[[], float] = time.perf_counter
    joules: Callable[[], float | None] = no_meter

    def answer(self, requests: Sequence[ChatRequest]) -> list[SpecialistAnswer]:
        on_gpu = bool(getattr(self.engine, "on_gpu", False))
        energy_before = self.joules() if on_gpu else None
        started = self.seconds()
        answers = self.engine.answer(requests)
        took_ms = 1000 * (self.seconds() - started)
        energy_after = self.joules() if on_gpu else None
        count = max(1, len(answers))
        energy = None
        if energy_before is not None and energy_after is not None:
            energy = max(0.0, energy_after - energy_before) / count
        effort = Effort(compute_ms=took_ms / count, on_gpu=on_gpu, energy_joules=energy)
        return [replace(answer, effort=effort) for answer in answers]
