from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from shoal.agents.ports import Effort, SpecialistAnswer
from shoal.agents.traces.chat import ChatRequest
from shoal.serve.metering import MeteredEngine

REQUEST = ChatRequest(body={"model": "auto", "messages": [{"role": "user", "content": "hi"}]})


@dataclass
class _Engine:
    on_gpu: bool = False

    def answer(self, requests: Sequence[ChatRequest]) -> list[SpecialistAnswer]:
        return [SpecialistAnswer(content="x", confidence=1.0) for _ in requests]


def _clock(*readings: float):  # type: ignore[no-untyped-def]
    return iter(readings).__next__


def test_a_batchs_time_is_split_over_its_answers() -> None:
    engine = MeteredEngine(_Engine(), seconds=_clock(1.0, 1.2))
    efforts = [answer.effort for answer in engine.answer([REQUEST] * 4)]
    assert efforts == [Effort(compute_ms=pytest.approx(50.0))] * 4


def test_energy_is_counted_for_a_gpu_alone() -> None:
    counter = itertools.count(1000.0, 8.0).__next__
    (first, _) = MeteredEngine(_Engine(on_gpu=True), seconds=_clock(0, 1), joules=counter).answer(
        [REQUEST] * 2
    )
    assert first.effort == Effort(compute_ms=500.0, on_gpu=True, energy_joules=4.0)
    (on_cpu,) = MeteredEngine(_Engine(), seconds=_clock(0, 1), joules=counter).answer([REQUEST])
    assert on_cpu.effort is not None and on_cpu.effort.energy_joules is None


def test_a_gpu_that_does_not_count_leaves_energy_unknown() -> None:
    (said,) = MeteredEngine(_Engine(on_gpu=True), seconds=_clock(0, 1)).answer([REQUEST])
    assert said.effort == Effort(compute_ms=1000.0, on_gpu=True, energy_joules=None)


def test_no_requests_are_no_error() -> None:
    assert MeteredEngine(_Engine()).answer([]) == []
