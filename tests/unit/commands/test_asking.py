"""`eval` and `explain` say what is wrong with what they are given, before any work."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from shoal.agents.registry.store import SqlRegistry
from shoal.agents.tasks.finder import find_tasks
from shoal.agents.traces.store import ParquetTraceStore
from shoal.agents.traces.trace import Trace, TraceId
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


def test_an_explanation_shows_task_novelty_and_the_nearest_calls(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    traces = [
        Trace(
            id=TraceId(f"c{n}"),
            request={
                "messages": [
                    {"role": "system", "content": "Sort the ticket by what it is about."},
                    {"role": "user", "content": f"My {'lamp' if n % 2 else 'tent'} number {n} is late"},
                ]
            },
            response={"choices": [{"message": {"role": "assistant", "content": "late"}}]},
            timestamp=float(n),
        )
        for n in range(40)
    ]
    ParquetTraceStore(Home(home)).add(traces)
    registry = SqlRegistry(Home(home).database)
    [task] = find_tasks(traces, known=(), seed=0, now=1.0).tasks
    registry.put_tasks([task])
    registry.close()
    asked = tmp_path / "request.json"
    asked.write_text(json.dumps({"messages": [{"role": "user", "content": "My tent number 8 is late"}]}))
    command = ("explain", str(asked), "--nearest", "2", "--home", str(home))
    assert run(*command, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["task"], told["how"], told["novelty"]) == (task.name, "wording", "system_prompt")
    # numbers are masked, so all tents are equally alike
    assert told["nearest_calls"][0] == {"id": "c0", "likeness": 1.0, "text": "My tent number 0 is late"}
    assert len(told["nearest_calls"]) == 2
    assert run(*command) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "served by generalist" in shown
    assert f"task {task.name} (wording, confidence 1.00)" in shown
    assert "novelty system prompt" in shown
    assert "nearest calls 1.00 c0: My tent number 0 is late" in shown
