"""`eval` and `explain` say what is wrong with what they are given, before any work."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from shoal.cli import main
from shoal.home import Home


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return Home(tmp_path / "home").create().root


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return int(ended.value.code or 0)


def test_explain_says_that_a_file_is_not_utf8_or_not_json(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    request = tmp_path / "request.json"
    for raw, said in ((b"\xff\xfe{", "is not UTF-8"), (b"{", "is not JSON")):
        request.write_bytes(raw)
        assert run("explain", str(request), "--json", "--home", str(home)) == 1
        assert said in json.loads(capsys.readouterr().out)["error"]["message"]


def test_a_request_of_no_known_task_goes_to_the_generalist(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    request = tmp_path / "request.json"
    request.write_text(json.dumps({"messages": [{"role": "user", "content": "Hello"}]}))
    assert run("explain", str(request), "--json", "--home", str(home)) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["served_by"], result["task"]) == ("generalist", None)


def test_eval_refuses_a_place_for_predictions_that_is_not_there(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "nowhere" / "predictions.jsonl"
    assert run("eval", str(tmp_path / "log.jsonl"), "--out", str(out), "--json", "--home", str(home)) == 2
    assert "there is no folder" in json.loads(capsys.readouterr().out)["error"]["message"]


def test_learn_without_traces_says_how_to_get_some(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("learn", "--home", str(home)) == 1
    assert "shoal traces import" in capsys.readouterr().err


def test_a_wrong_value_with_json_is_one_object_too(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("learn", "--time-limit", "abc", "--json", "--home", str(home)) == 2
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "invalid_usage"
