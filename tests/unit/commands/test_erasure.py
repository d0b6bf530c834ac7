"""Erasing calls: what the commands say of the specialists that were trained on them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from shoal.agents.feedback.erasure import after_erasure
from shoal.agents.feedback.learning_runs import SqlLearningRuns
from shoal.agents.learning.learnt_calls import write_learnt_calls
from shoal.agents.registry.records import OutputKind, Task, TaskId, Version, VersionState
from shoal.agents.registry.store import SqlRegistry
from shoal.agents.traces.store import ParquetTraceStore
from shoal.agents.traces.trace import Trace, TraceId
from shoal.cli import build_app
from shoal.commands._shared import run_app
from shoal.home import Home


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """Twelve calls; version 1 knows c0-c5, version 2 knows c6-c11."""
    home = Home(tmp_path / "home").create()
    response = {"choices": [{"message": {"role": "assistant", "content": "yes"}}]}
    request = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
    ParquetTraceStore(home).add(
        Trace(id=TraceId(f"c{n}"), request=request, response=response, timestamp=float(n)) for n in range(12)
    )
    registry = SqlRegistry(home.database)
    registry.put_tasks([Task(id=TaskId("t1"), name="greet", output_kind=OutputKind.LABEL, calls=12)])
    for number in (1, 2):
        folder = home.models / "t1" / str(number)
        folder.mkdir(parents=True)
        write_learnt_calls(folder, [f"c{n}" for n in range(6 * number - 6, 6 * number)])
        registry.add_version(
            Version(
                task_id=TaskId("t1"),
                number=number,
                kind="classifier",
                state=VersionState.SHADOW,
                folder=f"t1/{number}",
                sha256="0" * 64,
                threshold=0.9,
                alpha=0.05,
                delta=0.05,
            )
        )
    registry.add_feedback("c1", correction={"role": "assistant", "content": "ask Eve"})
    registry.add_feedback("c7", score=1)
    registry.close()
    return home


def test_versions_that_know_erased_calls_are_named_until_the_calls_are_back(
    home: Home, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def shoal(*words: str) -> Any:
        code = run_app(build_app(words[0]), [*words, "--home", str(home.root)])
        printed = capsys.readouterr()
        assert code == 0, printed.err
        return json.loads(printed.out) if "--json" in words else printed.out

    def erased() -> dict[str, int]:
        found = shoal("specialists", "ls", "--json")["specialists"]
        return {s["specialist"]: s["erased_calls"] for s in found}

    assert erased() == {"greet@1": 0, "greet@2": 0}
    log = tmp_path / "log.jsonl"
    shoal("traces", "export", "--out", str(log))
    gone = shoal("traces", "delete", "--id", "c0", "--id", "c1", "--json")
    assert gone == {"deleted": 2, "calls": 10, "to_learn_again": {"greet@1": 2}}
    assert erased() == {"greet@1": 2, "greet@2": 0}
    assert "trained on 2 erased calls; learn again" in shoal("specialists", "show", "greet@1")
    assert "erased calls" not in shoal("specialists", "show", "greet@2")
    assert [said["trace_id"] for said in SqlRegistry(home.database).feedback()] == ["c7"]
    shoal("traces", "import", str(log), "--json")
    assert erased() == {"greet@1": 0, "greet@2": 0}


def test_calls_past_their_days_go_with_what_was_said_of_them_also_without_a_site(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    home.config.write_text("storage: {retention_days: 30}\n")
    assert run_app(build_app("traces"), ["traces", "stats", "--json", "--home", str(home.root)]) == 0
    assert json.loads(capsys.readouterr().out)["calls"] == 0
    assert SqlRegistry(home.database).feedback() == []
    assert run_app(build_app("specialists"), ["specialists", "ls", "--json", "--home", str(home.root)]) == 0
    found = json.loads(capsys.readouterr().out)["specialists"]
    assert [s["erased_calls"] for s in found] == [6, 6]


def test_what_was_refused_or_left_unfinished_goes_with_the_calls_that_it_knew(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    registry = SqlRegistry(home.database)
    for number, knows in ((3, "c0"), (4, "c9")):
        folder = home.models / "t1" / str(number)
        write_learnt_calls_in(folder, [knows])
        registry.add_version(
            replace(registry.versions()[0], number=number, folder=f"t1/{number}", state=VersionState.REJECTED)
        )
    for name, knows in (("t1-aa", "c0"), ("t1-bb", "c9")):
        write_learnt_calls_in(home.work / "training" / name, [knows])
    (home.work / "training" / "t1-cc").mkdir()
    assert run_app(build_app("traces"), ["traces", "delete", "--id", "c0", "--home", str(home.root)]) == 0
    assert "greet@1 was trained on 1 erased calls" in capsys.readouterr().out
    left = sorted(str(p.relative_to(home.root)) for p in home.root.glob("[mw]*/*/*") if p.is_dir())
    assert left == ["models/t1/1", "models/t1/2", "models/t1/4", "work/training/t1-bb"]
    assert (
        run_app(build_app("specialists"), ["specialists", "show", "greet@3", "--home", str(home.root)]) == 0
    )
    assert "removed: it was refused" in capsys.readouterr().out


def test_a_learning_run_under_way_keeps_its_checkpoints(home: Home) -> None:
    registry = SqlRegistry(home.database)
    runs = SqlLearningRuns(registry.database)
    write_learnt_calls_in(home.work / "training" / "t1-aa", ["c0"])
    ParquetTraceStore(home).erase(ids=["c0"])
    runs.begin("r1", tasks=(), reason="by hand", at=1.0)
    assert runs.claim("r1", psutil.Process())
    assert after_erasure(home, registry, {"c0"}) == []
    runs.finish("r1", "done", {}, at=2.0)
    assert after_erasure(home, registry, {"c0"}) == ["t1-aa"]


def write_learnt_calls_in(folder: Path, ids: list[str]) -> None:
    folder.mkdir(parents=True)
    write_learnt_calls(folder, ids)
