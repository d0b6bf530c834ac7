"""Where the data folder is looked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from shoal.errors import ConfigError
from shoal.home import Home, find_home


def test_the_option_wins_over_the_environment_and_the_nearest_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = tmp_path / "project" / "deep"
    inner.mkdir(parents=True)
    (tmp_path / "project" / ".shoal").mkdir()
    monkeypatch.chdir(inner)
    monkeypatch.delenv("SHOAL_HOME", raising=False)
    assert find_home().root == tmp_path / "project" / ".shoal"
    monkeypatch.setenv("SHOAL_HOME", str(tmp_path / "environment"))
    assert find_home().root == tmp_path / "environment"
    assert find_home(tmp_path / "option").root == tmp_path / "option"


def test_a_new_home_is_for_its_owner_only(tmp_path: Path) -> None:
    home = Home(tmp_path / "home").create()
    assert home.root.stat().st_mode & 0o777 == 0o700
    assert all(folder.is_dir() for folder in (home.spool, home.traces, home.models, home.work, home.logs))


def test_a_home_that_cannot_be_made_is_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be made"):
        Home(tmp_path / "file" / "home").create()
