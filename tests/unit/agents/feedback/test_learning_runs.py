from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

from shoal.agents.feedback.learning_runs import BY_HAND, SqlLearningRuns, process_of
from shoal.agents.registry.database import Database
from shoal.errors import Conflict, NotFound


@pytest.fixture
def runs(database: str) -> SqlLearningRuns:
    return SqlLearningRuns(Database(database))


@pytest.fixture
def other() -> Iterator[psutil.Process]:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    yield psutil.Process(process.pid)
    process.kill()
    process.wait()


def test_a_run_is_remembered_until_it_ended_and_after(runs: SqlLearningRuns) -> None:
    assert runs.running() is None
    begun = runs.begin("r1", tasks=["t1"], reason="asked for", at=1.0)
    assert runs.running() == begun
    runs.finish("r1", "done", {"tasks": []}, at=2.0)
    assert runs.running() is None
    found = runs.get("r1")
    assert (found.state, found.tasks, found.ended_at, found.report) == ("done", ("t1",), 2.0, {"tasks": []})
    assert runs.all() == [found]
    with pytest.raises(NotFound):
        runs.get("r2")


def test_what_was_said_first_of_a_runs_end_stays(runs: SqlLearningRuns) -> None:
    runs.begin("r1", tasks=[], reason="asked for", at=1.0)
    runs.finish("r1", "done", {}, at=2.0)
    runs.finish("r1", "failed", {}, at=3.0)
    assert runs.get("r1").state == "done"


def test_a_second_run_is_refused_while_one_is_under_way(runs: SqlLearningRuns, other: psutil.Process) -> None:
    runs.begin("r1", tasks=[], reason=BY_HAND, at=1.0)
    assert runs.claim("r1", other)
    for reason in ("asked for", BY_HAND):
        with pytest.raises(Conflict, match=str(other.pid)):
            runs.begin("r2", tasks=[], reason=reason, at=2.0)


def test_a_run_by_hand_whose_process_is_gone_gives_way_and_one_of_the_sites_only_to_a_person(
    runs: SqlLearningRuns,
) -> None:
    runs.begin("r1", tasks=[], reason=BY_HAND, at=1.0)
    runs.begin("r2", tasks=[], reason="asked for", at=2.0)
    assert runs.get("r1").state == "stopped"
    with pytest.raises(Conflict):
        runs.begin("r3", tasks=[], reason="asked for", at=3.0)
    runs.begin("r4", tasks=[], reason=BY_HAND, at=4.0)
    assert runs.get("r2").state == "stopped"


def test_a_run_belongs_to_one_living_process_at_a_time(runs: SqlLearningRuns, other: psutil.Process) -> None:
    runs.begin("r1", tasks=[], reason="asked for", at=1.0)
    assert runs.claim("r1", other)
    assert process_of(runs.get("r1")) == other
    me = psutil.Process()
    assert not runs.claim("r1", me)
    other.kill()
    other.wait()
    assert process_of(runs.get("r1")) is None
    assert runs.claim("r1", me)
    runs.release("r1")
    assert process_of(runs.get("r1")) is None
    assert runs.get("r1").state == "running"


def test_a_run_that_is_to_stop_or_has_ended_is_taken_by_nobody(runs: SqlLearningRuns) -> None:
    runs.begin("r1", tasks=[], reason="asked for", at=1.0)
    runs.ask_to_stop("r1")
    assert not runs.claim("r1", psutil.Process())
    assert not runs.claim("unknown", psutil.Process())
