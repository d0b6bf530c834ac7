"""`shoal specialists`: versions in training, the owner's word, and what happened."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from postgres import Server

from shoal.agents.registry.records import OutputKind, Task, TaskId, Version, VersionState
from shoal.agents.registry.store import SqlRegistry
from shoal.cli import build_app
from shoal.commands._shared import run_app
from shoal.home import Home


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home").create()


@pytest.fixture
def shoal(home: Home, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    def call(*words: str, code: int = 0) -> Any:
        assert run_app(build_app(words[0]), [*words, "--home", str(home.root)]) == code
        printed = capsys.readouterr()
        return json.loads(printed.out) if "--json" in words else printed.out

    return call


def fill(registry: SqlRegistry) -> SqlRegistry:
    registry.put_tasks([Task(id=TaskId("t1"), name="greet", output_kind=OutputKind.LABEL, calls=12)])
    for number, state in ((1, VersionState.SERVING), (2, VersionState.SHADOW), (3, VersionState.REJECTED)):
        registry.add_version(
            Version(
                task_id=TaskId("t1"),
                number=number,
                kind="classifier",
                state=state,
                folder=f"t1/{number}",
                sha256="0" * 64,
                threshold=0.9,
                alpha=0.05,
                delta=0.05,
                reason="why",
            )
        )
    return registry


def test_a_version_in_training_stands_in_the_list(home: Home, shoal: Callable[..., Any]) -> None:
    registry = fill(SqlRegistry(home.database))
    registry.begin_training(TaskId("t1"), 4)
    assert "greet@4" in (text := shoal("specialists", "ls")) and "training for 0 min" in text
    states = {s["specialist"]: s["state"] for s in shoal("specialists", "ls", "--json")["specialists"]}
    assert states == {"greet@1": "serving", "greet@2": "shadow", "greet@3": "rejected", "greet@4": "training"}
    registry.end_training(TaskId("t1"), 4, reason="stopped")
    assert "greet@4" not in shoal("specialists", "ls")
    registry.close()


def test_the_owners_word_is_carried_out_and_told_as_the_owners(home: Home, shoal: Callable[..., Any]) -> None:
    fill(SqlRegistry(home.database)).close()
    shoal("specialists", "promote", "greet@2")
    assert shoal("specialists", "rollback", "greet", "--json") == {"task": "greet", "served_by": "greet@1"}
    events = shoal("specialists", "history", "greet@2", "--json")["events"]
    assert [(e["from"], e["to"], e["asker"]) for e in events] == [
        ("", "shadow", "gate"),
        ("shadow", "serving", "owner"),
        ("serving", "paused", "owner"),
    ]
    told = shoal("specialists", "history")
    assert "greet@1" in told and "serving -> retired (owner): replaced by t1@2" in told
    assert shoal("specialists", "history", "--since", "2999-01-01") == "Nothing has happened.\n"
    shoal("specialists", "history", "--since", "yesterday", code=2)
    shoal("specialists", "promote", "greet@3", code=1)


def test_a_configured_database_is_the_data_folders_also_for_who_does_not_know_the_configuration(
    home: Home, shoal: Callable[..., Any], postgres: Server, tmp_path: Path
) -> None:
    url = postgres.create("commands")
    elsewhere = tmp_path / "shoal.yaml"
    elsewhere.write_text(yaml.safe_dump({"storage": {"database": url}}), encoding="utf-8")
    shoal("status", "--config", str(elsewhere), "--json", code=1)
    assert home.database == url and home.database_url.stat().st_mode & 0o777 == 0o600
    fill(SqlRegistry(url)).close()
    assert "greet@2" in shoal("specialists", "ls")
    assert not (home.root / "shoal.db").exists()


def test_the_configuration_in_the_data_folder_counts_for_every_command(
    home: Home, shoal: Callable[..., Any], postgres: Server
) -> None:
    url = postgres.create("configured")
    fill(SqlRegistry(url)).close()
    home.config.write_text(yaml.safe_dump({"storage": {"database": url}}), encoding="utf-8")
    assert "greet@1" in shoal("specialists", "ls")
