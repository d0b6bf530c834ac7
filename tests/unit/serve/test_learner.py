"""The learning process: low priority, one core, adopted by whoever looks, safe to end. Real processes, real learning."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from shoal.agents.feedback.learning_runs import LearningRun, SqlLearningRuns, process_of
from shoal.agents.registry.store import SqlRegistry
from shoal.agents.traces.store import ParquetTraceStore
from shoal.agents.traces.trace import Trace, TraceId
from shoal.config import Config
from shoal.home import Home
from shoal.serve.learner import ProcessLearner

_WORDS = {"billing": ["invoice", "refund", "receipt"], "shipping": ["parcel", "courier", "delivery"]}


def trace(number: int, rng: random.Random) -> Trace:
    label = rng.choice(sorted(_WORDS))
    message = {"role": "assistant", "content": label}
    return Trace(
        id=TraceId(f"t{number}"),
        request={
            "model": "big",
            "messages": [
                {"role": "system", "content": "Sort the ticket: billing or shipping."},
                {"role": "user", "content": f"Ticket {number} about the {rng.choice(_WORDS[label])}."},
            ],
        },
        response={"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]},
        timestamp=float(number),
    )


class Site:
    def __init__(self, folder: Path) -> None:
        self.home = Home(folder / "home").create()
        self.registry = SqlRegistry(self.home.database)
        self.runs = SqlLearningRuns(self.registry.database)
        self.learner = ProcessLearner(self.home, Config())

    def log_calls(self, count: int) -> None:
        rng = random.Random(0)
        ParquetTraceStore(self.home).add(trace(n, rng) for n in range(count))

    def begin(self) -> LearningRun:
        run = self.runs.begin("r1", tasks=(), reason="asked for", at=time.time())
        self.learner.start(run)
        return run

    def process(self) -> psutil.Process | None:
        return process_of(self.runs.get("r1"))


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    process = made.process() if made.runs.all() else None
    if process is not None:
        process.kill()
    wait_until(lambda: not made.learner.is_starting("r1"))


def wait_until(is_so: Callable[[], object], within_s: float = 60.0) -> None:
    deadline = time.monotonic() + within_s
    while not is_so():
        assert time.monotonic() < deadline, "still not so"
        time.sleep(0.02)


def test_a_run_ends_with_its_report_and_the_version_in_shadow(site: Site) -> None:
    site.log_calls(400)
    site.begin()
    assert site.learner.is_starting("r1")
    wait_until(lambda: site.runs.running() is None)
    ended = site.runs.get("r1")
    assert ended.state == "done", ended.report
    assert [task["verdict"] for task in ended.report["tasks"]] == ["pass"]
    assert [str(v.state) for v in site.registry.versions()] == ["shadow"]
    assert site.learner.progress("r1") == {"fraction": 1.0, "text": "done"}
    wait_until(lambda: not site.learner.is_starting("r1"))


def test_a_run_that_cannot_learn_says_why(site: Site) -> None:
    site.begin()
    wait_until(lambda: site.runs.running() is None)
    ended = site.runs.get("r1")
    assert ended.state == "failed"
    assert "no traces" in ended.report["error"]


@pytest.mark.skipif(not hasattr(os, "SCHED_IDLE"), reason="the system has no such priorities")
def test_the_process_yields_to_everything_and_keeps_to_one_core(site: Site) -> None:
    site.log_calls(400)
    site.begin()
    wait_until(lambda: site.process() is not None)
    process = site.process()
    assert process is not None
    process.suspend()
    assert process.nice() == 19
    assert process.cpu_affinity() == [max(os.sched_getaffinity(0))]
    assert os.sched_getscheduler(process.pid) in (os.SCHED_IDLE, os.SCHED_BATCH)
    assert process.environ()["OMP_NUM_THREADS"] == "1"
    process.resume()


def test_a_second_process_for_the_same_run_ends_without_touching_it(site: Site) -> None:
    site.log_calls(400)
    run = site.begin()
    wait_until(lambda: site.process() is not None)
    first = site.process()
    assert first is not None
    first.suspend()
    other = ProcessLearner(site.home, Config())
    other.start(run)
    wait_until(lambda: not other.is_starting("r1"))
    assert site.process() == first
    first.resume()
    wait_until(lambda: site.runs.running() is None)
    assert site.runs.get("r1").state == "done"


def test_a_run_whose_process_is_ended_waits_for_another_which_brings_it_to_its_end(site: Site) -> None:
    site.log_calls(2000)
    run = site.begin()
    wait_until(lambda: site.process() is not None)
    site.learner.stop(run)
    wait_until(lambda: not site.learner.is_starting("r1"))
    waiting = site.runs.get("r1")
    assert (waiting.state, waiting.pid) == ("running", None)
    site.learner.start(waiting)
    wait_until(lambda: site.runs.running() is None)
    assert site.runs.get("r1").state == "done"


def test_a_run_that_was_to_be_stopped_stays_stopped(site: Site) -> None:
    site.log_calls(2000)
    run = site.begin()
    wait_until(lambda: site.process() is not None)
    site.runs.ask_to_stop("r1")
    site.learner.stop(run)
    wait_until(lambda: site.runs.running() is None)
    assert site.runs.get("r1").state == "stopped"


def test_the_death_of_a_process_leaves_a_run_without_one(site: Site) -> None:
    site.log_calls(400)
    site.begin()
    wait_until(lambda: site.process() is not None)
    process = site.process()
    assert process is not None
    process.send_signal(signal.SIGKILL)
    wait_until(lambda: site.process() is None)
    assert site.runs.get("r1").state == "running"
    wait_until(lambda: not site.learner.is_starting("r1"))
