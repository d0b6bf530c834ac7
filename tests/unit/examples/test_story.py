from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
import typer

from shoal.commands import _shared, demo
from shoal.commands._shared import run_app
from shoal.errors import GeneralistUnavailable, UsageError
from shoal.examples.sales_report import run

RUN = {
    "id": "r1",
    "plan": "sales-report",
    "status": "done",
    "input": {"question": "What drove sales by region in last quarter?"},
    "output": ["Revenue for Andes rose by 4%, thanks to pricing."],
    "error": None,
    "label": "internal",
    "created_at": 1.0,
    "ended_at": 1.4,
    "cost_usd": 0.0001,
    "steps": [],
}


def step(share: float | None, tier: str) -> dict[str, Any]:
    return {
        "calls": 400,
        "specialist_calls": 400,
        "specialist_share": share,
        "nodes": {f"{tier}-1": 400},
        "tiers": {tier: 400},
        "specialist_tiers": {tier: 400},
        "latency_p50_ms": 137.2,
        "latency_p95_ms": 215.0,
        "cost_usd_per_1000": None if share is None else 1.07,
    }


def found_round(name: str) -> dict[str, Any]:
    tiers = {"plan": "local", "query": "local", "analyse": "local", "write": "edge"}
    steps = {key: step(None if key == "query" else 1.0, tier) for key, tier in tiers.items()}
    figures = {"answer_p50_ms": 550.1, "answer_p95_ms": 732.0, "cost_usd_per_1000": 15.68}
    return {
        "name": name,
        "questions": 50,
        "failed": 0,
        "calls": 850,
        "concurrency": 3,
        **figures,
        "steps": steps,
    }


def result(*, specialists: bool = True) -> dict[str, Any]:
    quality = {
        name: {"specialist_calls": 400 if specialists else 0, "agreement": 0.99, "disagreements": []}
        for name in ("plan", "analyse", "write")
    }
    price = {"in": 2.5, "out": 10.0}
    return {
        "generalist": {
            "model": "stand-in-generalist",
            "stand_in": True,
            "stated_price_usd_per_million_tokens": price,
        },
        "rounds": [found_round("log"), found_round("unseen")],
        "quality": quality,
        "specialists": [],
        "placement": None,
        "example": RUN,
        "errors": [],
        "broken_promises": [] if specialists else ["plan: too few", "write: too few"],
        "seconds": {"learn": 60.0, "total": 99.5},
        "demo_seconds": 99.5,
        "home": None,
        "report": "/tmp/demo.html",
    }


def test_the_story_says_who_the_stand_in_is_what_was_broken_and_where_to_look(
    capsys: pytest.CaptureFixture[str],
) -> None:
    told = _tell(result(specialists=False), capsys)
    assert "stand-in-generalist (a stand-in)" in told and "stated price 2.50/10.00" in told
    assert told.count("not as promised") == 2
    assert "/tmp/demo.html" in told and "shoal traces import" in told and "--keep" in told
    assert "simulated" in told and "run r1 of sales-report: done" in told
    assert max(map(len, told.splitlines())) <= 80, told
    kept = _tell({**result(), "home": "/tmp/kept"}, capsys)
    assert "shoal tasks ls --home /tmp/kept" in kept and "not as promised" not in kept


def _tell(said: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> str:
    demo.tell_result(said)
    return capsys.readouterr().out


@pytest.fixture
def story(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """Replaces the slow part of the demo by `outcome`, a result or an exception."""
    box: dict[str, Any] = {"outcome": result()}

    def told(home: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        home.create()
        box["home"], box["generalist"] = home.root, args[0]
        if isinstance(box["outcome"], BaseException):
            raise box["outcome"]
        outcome: dict[str, Any] = box["outcome"]
        return outcome

    monkeypatch.setattr(run, "run_demo", told)
    monkeypatch.setattr(demo, "_write_report", lambda home, page: page.write_text("page"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return box


def call(*arguments: str) -> int:
    app = typer.Typer()
    app.command("demo")(demo.demo)
    app.command("other")(lambda: None)
    return run_app(app, ["demo", *arguments])


REAL = ("--generalist", "http://127.0.0.1:9/v1", "--model", "big")


def test_with_json_there_is_one_object_and_the_own_folder_is_removed(
    story: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("--json", *REAL) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["home"] is None and Path(said["report"]).read_text() == "page"
    assert not story["home"].exists() and story["generalist"].model == "big"


def test_a_kept_or_named_folder_stays(
    story: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("--json", "--keep", *REAL) == 0
    kept = json.loads(capsys.readouterr().out)
    assert Path(kept["report"]) == story["home"] / "report.html" and story["home"].is_dir()
    assert call("--json", "--home", str(tmp_path / "mine"), *REAL) == 0
    assert json.loads(capsys.readouterr().out)["home"] == str(tmp_path / "mine")


@pytest.mark.parametrize(
    ("outcome", "exit_code", "stays"),
    [
        (result(specialists=False), 1, False),
        ({**result(), "rounds": [{"failed": 2}]}, 1, False),
        (KeyboardInterrupt(), _shared.EXIT_STOPPED, False),
        (GeneralistUnavailable("It is away.", remedy="Wake it."), 1, True),
    ],
)
def test_what_went_wrong_is_the_exit_code(
    story: dict[str, Any], outcome: Any, exit_code: int, stays: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    story["outcome"] = outcome
    assert call("--json", *REAL) == exit_code
    assert story["home"].exists() == stays
    capsys.readouterr()


def test_a_promise_that_a_real_model_breaks_is_told_but_no_failure(
    story: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    broken = {**result(), "broken_promises": ["analyse: 90% agreement"]}
    story["outcome"] = {**broken, "generalist": {**broken["generalist"], "stand_in": False}}
    assert call("--json", *REAL) == 0
    assert json.loads(capsys.readouterr().out)["broken_promises"]
    story["outcome"] = broken
    assert call("--json", *REAL) == 1
    capsys.readouterr()


@pytest.mark.parametrize(
    "arguments",
    [
        ("--model", "big"),
        ("--generalist", "http://127.0.0.1:9/v1"),
        ("--price", "1", "2"),
        ("--generalist", "ftp://x", "--model", "big"),
        (*REAL, "--api-key-env", "SHOAL_TEST_NOT_SET"),
        (*REAL, "--price", "-1", "2"),
    ],
)
def test_wrong_usage_exits_2_before_anything_starts(
    story: dict[str, Any], arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(*arguments) == 2
    assert "home" not in story
    capsys.readouterr()


def test_a_folder_that_holds_something_is_refused(tmp_path: Path) -> None:
    (tmp_path / "shoal.db").write_text("")
    with pytest.raises(UsageError, match="not empty"):
        demo._folder(tmp_path)
