"""`shoal.yaml` is checked at the edge, with the path to the field."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from shoal.config import Config, load_config, parse_config
from shoal.errors import ConfigError


def test_an_empty_file_gives_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "shoal.yaml"
    path.write_text("")
    assert load_config(path) == Config()


def test_an_unknown_key_is_refused_with_its_path() -> None:
    with pytest.raises(ConfigError, match=r"`rollout\.mood` is not a setting") as caught:
        parse_config({"rollout": {"mood": "auto"}}, source="shoal.yaml")
    assert caught.value.param == "rollout.mood"
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("raw", "path"),
    [
        ({"contract": {"alpha": 5}}, "contract.alpha"),
        ({"rollout": {"mode": "fast"}}, "rollout.mode"),
        ({"generalist": {"base_url": "ftp://x", "model": "m"}}, "generalist.base_url"),
        ({"generalist": {"base_url": "http://x"}}, "generalist.model"),
        ({"serve": {"port": 70000}}, "serve.port"),
        ({"contract": {"tasks": {"t": {"delta": 0}}}}, "contract.tasks.t.delta"),
        ({"contract": {"tasks": {"t": {"loss": "taste"}}}}, "contract.tasks.t.loss"),
        ({"contract": {"tasks": {"t": {"loss": "judge"}}}}, "contract.tasks.t.loss"),
    ],
)
def test_a_bad_value_is_refused_with_its_path(raw: dict[str, object], path: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(raw, source="shoal.yaml")
    assert caught.value.param == path


def test_broken_yaml_and_a_missing_file_are_named(tmp_path: Path) -> None:
    path = tmp_path / "shoal.yaml"
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(path)
    path.write_text("a: [")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_config(path)
    path.write_text("- a list")
    with pytest.raises(ConfigError, match="mapping of sections, got list"):
        load_config(path)


def test_a_task_may_have_its_own_contract() -> None:
    config = parse_config({"contract": {"alpha": 0.1, "tasks": {"t": {"alpha": 0.02}}}}, source="x")
    assert config.contract.for_task("t") == (0.02, 0.05)
    assert config.contract.for_task("other") == (0.1, 0.05)
    assert not config.contract.judged("t")
    judge = {"base_url": "http://x", "model": "m"}
    config = parse_config({"judge": judge, "contract": {"tasks": {"t": {"loss": "judge"}}}}, source="x")
    assert config.contract.judged("t") and not config.contract.judged("other")


def test_the_documented_example_is_valid() -> None:
    text = (Path(__file__).parents[3] / "docs" / "configuration.md").read_text(encoding="utf-8")
    block = text.split("```yaml\n", 1)[1].split("```", 1)[0]
    import yaml

    config = parse_config(yaml.safe_load(block), source="docs/configuration.md")
    assert config.generalist is not None and config.generalist.outputs_may_train is True
    assert config.contract.for_task("sort-customer-questions") == (0.02, 0.05)


def test_a_key_variable_that_is_not_set_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    config = parse_config(
        {"generalist": {"base_url": "http://x", "model": "m", "api_key_env": "SHOAL_TEST_KEY"}}, source="x"
    )
    assert config.generalist is not None
    monkeypatch.delenv("SHOAL_TEST_KEY", raising=False)
    with pytest.raises(ConfigError, match="SHOAL_TEST_KEY, which is not set"):
        config.generalist.api_key()
    monkeypatch.setenv("SHOAL_TEST_KEY", "k")
    assert config.generalist.api_key() == "k"


def test_plans_are_named_as_seen_from_the_file_that_names_them(tmp_path: Path) -> None:
    path = tmp_path / "shoal.yaml"
    path.write_text("plans: [ticket.yaml, /elsewhere/other.yaml]", encoding="utf-8")
    assert load_config(path).plans == (tmp_path / "ticket.yaml", Path("/elsewhere/other.yaml"))


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ({"contract": {"alpha": 5}}, "`contract.alpha` must be less than 1, got 5"),
        ({"rollout": {"mode": "fast"}}, "`rollout.mode` must be 'manual' or 'auto', got 'fast'"),
        ({"learning": {"min_calls": "many"}}, "`learning.min_calls` must be a whole number, got 'many'"),
        ({"learning": 3}, "`learning` must be a mapping of settings, got 3"),
        ({"tls": {"certificate": "a"}}, "`tls.private_key` is needed here"),
        ({"tools": {"t": {"python": "x y"}}}, "`tools.t.python` must be of the form"),
    ],
)
def test_a_bad_value_is_told_by_its_rule_and_what_was_there(raw: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(raw, source="shoal.yaml")
    assert said in caught.value.message
    assert "Input should" not in caught.value.message


def test_a_misspelt_setting_is_told_which_one_was_meant() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config({"learning": {"time_limit": 3}}, source="shoal.yaml")
    assert caught.value.remedy == "Did you mean `time_limit_min`?"
    with pytest.raises(ConfigError) as caught:
        parse_config({"learnin": {}}, source="shoal.yaml")
    assert caught.value.remedy == "Did you mean `learning`?"
