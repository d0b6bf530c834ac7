"""The command line: exit codes, lazy imports, help that lists everything."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from shoal.cli import COMMANDS, build_app
from shoal.commands._shared import run_app


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "shoal", *arguments], capture_output=True, text=True, check=False
    )


def test_help_lists_every_command_and_loads_nothing_heavy() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "shoal", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    for name in COMMANDS:
        assert f"  {name} " in done.stdout
    loaded = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines() if "|" in line}
    assert not loaded & {"ray", "torch", "sklearn", "pyarrow", "sqlalchemy"}


def test_an_unknown_command_and_a_missing_home_are_usage_errors(tmp_path: Path) -> None:
    assert run("nonsense").returncode == 2
    done = run("learn", "--home", str(tmp_path / "nowhere"))
    assert done.returncode == 2
    assert "shoal traces import" in done.stderr
    assert not done.stdout


def test_an_error_with_json_is_one_object_on_standard_output(tmp_path: Path) -> None:
    import json

    done = run("specialists", "ls", "--json", "--home", str(tmp_path / "nowhere"))
    assert done.returncode == 2
    assert json.loads(done.stdout)["error"]["code"] == "invalid_usage"


@pytest.mark.parametrize("name", [n for n in COMMANDS])
def test_every_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(build_app(name), [name, "--help"]) == 0
    assert "Usage:" in capsys.readouterr().out
