"""`shoal learn --background`, and what `shoal status` says of learning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from shoal.agents.feedback.learning_runs import SqlLearningRuns
from shoal.agents.registry.store import SqlRegistry
from shoal.commands._learning import recorded_run
from shoal.commands._shared import run_app
from shoal.commands.learn import app
from shoal.commands.site import learning_line
from shoal.errors import Conflict
from shoal.home import Home

LAST = {
    "state": "done",
    "reason": "asked for",
    "error": "",
    "outcomes": {"sort": "pass", "write": "fail"},
    "ended_at": 1_700_000_000.0,
}


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home").create()


def test_without_a_site_there_is_nobody_to_learn_in_the_background(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_app(app, ["--background", "--home", str(home.root)]) == 1
    assert "shoal up" in capsys.readouterr().err


def test_settings_that_are_the_sites_own_are_refused_in_the_background(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_app(app, ["--background", "--seed", "3", "--home", str(home.root)]) == 2
    assert "--seed" in capsys.readouterr().err


def test_a_run_by_hand_keeps_others_away_and_is_remembered(home: Home) -> None:
    registry = SqlRegistry(home.database)
    runs = SqlLearningRuns(registry.database)
    with recorded_run(registry, ["sort"]) as note:
        with pytest.raises(Conflict, match="under way"), recorded_run(registry, None):
            pass
        note({"tasks": [], "interrupted": False})
    with pytest.raises(ValueError, match="broken"), recorded_run(registry, None):
        raise ValueError("broken")
    done, failed = runs.all()
    assert (done.state, done.tasks, done.by_hand) == ("done", ("sort",), True)
    assert (failed.state, failed.report["error"]) == ("failed", "broken")


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ({}, "never yet"),
        (
            {"running": {"reason": "asked for", "fraction": 0.25, "text": "sort: classifier"}},
            "25% sort: classifier (asked for)",
        ),
        ({"running": {"reason": "asked for"}}, "0% starting (asked for)"),
        ({"contradicted": {"sort": 3}}, "never yet; 3 contradicted answers of sort"),
        ({"unknown": 2}, "never yet; feedback on 2 calls that nobody knows"),
        ({"trouble": "(away)"}, "never yet (away)"),
    ],
)
def test_the_status_says_in_a_line_what_is_learnt(said: dict[str, Any], line: str) -> None:
    assert (
        learning_line(
            {"running": None, "last": None, "contradicted": {}, "unknown": 0, "trouble": "", **said}
        )
        == line
    )


def test_the_status_says_what_was_learnt_last_or_why_it_was_not() -> None:
    said = {"running": None, "last": LAST, "contradicted": {}, "unknown": 0, "trouble": ""}
    assert learning_line(said).endswith(": done, 1 passed (asked for)")
    said["last"] = {**LAST, "state": "failed", "error": "There are no traces."}
    assert learning_line(said).endswith(": failed, There are no traces.")


def test_the_status_line_tells_of_unknown_work() -> None:
    said: dict[str, Any] = {
        "running": None,
        "last": None,
        "contradicted": {},
        "unknown": 0,
        "trouble": "",
        "novel": 412,
        "kinds": {"weather-record": 60},
    }
    assert learning_line(said) == (
        "never yet; unknown work: 412 calls, 60 of a recurring kind, weather-record"
    )
