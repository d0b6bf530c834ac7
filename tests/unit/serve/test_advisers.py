from __future__ import annotations

import pytest

from shoal.config import Config, parse_config
from shoal.errors import ConfigError
from shoal.serve.advisers import second_opinions

BIG = {"base_url": "http://127.0.0.1:9/v1", "model": "big"}


def test_nobody_is_asked_unless_the_owner_says_so() -> None:
    quiet = second_opinions(parse_config({"generalist": BIG}, source="test"))
    assert quiet.again is None and quiet.judge is None


def test_the_command_overrules_how_often_the_generalist_is_asked_twice() -> None:
    config = parse_config(
        {"generalist": {**BIG, "local": True}, "learning": {"ask_twice": 30}}, source="test"
    )
    again = second_opinions(config).again
    assert again is not None and (again.calls, again.local) == (30, True)
    assert second_opinions(config, ask_twice=0).again is None
    assert (second_opinions(config, ask_twice=5).again or again).calls == 5


def test_a_judge_needs_no_generalist_and_its_key_must_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    config = parse_config({"judge": {**BIG, "api_key_env": "JUDGE_KEY_OF_TEST", "pairs": 7}}, source="test")
    monkeypatch.delenv("JUDGE_KEY_OF_TEST", raising=False)
    with pytest.raises(ConfigError, match=r"judge\.api_key_env"):
        second_opinions(config)
    monkeypatch.setenv("JUDGE_KEY_OF_TEST", "k")
    judge = second_opinions(config).judge
    assert judge is not None and judge.calls == 7 and not judge.may_see(True)


def test_asking_twice_without_a_generalist_is_one_clear_error() -> None:
    with pytest.raises(ConfigError, match="none is configured"):
        second_opinions(Config(), ask_twice=3)
