"""`shoal tasks`, on a data folder with a small log."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from shoal.agents.feedback.novelty import NovelCall
from shoal.agents.registry.novelty import SqlNovelty
from shoal.agents.registry.store import SqlRegistry
from shoal.agents.tasks.finder import find_tasks
from shoal.agents.traces.store import ParquetTraceStore
from shoal.agents.traces.trace import Trace, TraceId
from shoal.commands._shared import run_app
from shoal.commands.tasks import app
from shoal.home import Home

PROMPTS = {"Sort the complaints of our shop's customers.": "late", "Name the mood of the message.": "angry"}


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "site").create()
    traces = []
    for prompt, label in PROMPTS.items():
        for n in range(30):
            messages = [
                {"role": "system", "content": prompt},
                {"role": "user", "content": f"My {'lamp' if n % 3 else 'tent'} number {n} is late"},
            ]
            traces.append(
                Trace(
                    id=TraceId(f"{label}-{n}"),
                    request={"model": "big", "messages": messages},
                    response={"choices": [{"message": {"role": "assistant", "content": label}}]},
                    timestamp=float(n),
                )
            )
    stray = {"model": "big", "messages": [{"role": "user", "content": "Hello"}]}
    traces.append(Trace(id=TraceId("stray"), request=stray, response=traces[0].response, timestamp=99.0))
    store = ParquetTraceStore(home)
    store.add(traces)
    registry = SqlRegistry(home.database)
    registry.put_tasks(find_tasks(store.scan(), known=(), seed=0, now=1.0).tasks)
    registry.close()
    return home


def shoal_tasks(home: Home, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Any]:
    """Exit code and what was printed; read, where it is JSON."""
    code = run_app(app, [*arguments, "--home", str(home.root)])
    printed = capsys.readouterr().out
    return code, json.loads(printed) if "--json" in arguments else printed


def names(home: Home, capsys: pytest.CaptureFixture[str]) -> set[str]:
    return {task["name"] for task in shoal_tasks(home, capsys, "ls", "--json")[1]["tasks"]}


def test_ls_fits_a_terminal_and_names_every_task(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    code, printed = shoal_tasks(home, capsys, "ls")
    assert code == 0
    assert max(len(line) for line in printed.splitlines()) <= 80
    for name in names(home, capsys):
        assert name in printed


def test_show_tells_how_calls_are_recognised(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    for name in names(home, capsys):
        code, printed = shoal_tasks(home, capsys, "show", name)
        assert code == 0
        assert "templates" in printed
        assert shoal_tasks(home, capsys, "show", name, "--json")[1]["match"]["inputs"] == ["text"]


def test_export_has_a_line_for_every_trace(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    file = home.root / "tasks.csv"
    code, told = shoal_tasks(home, capsys, "export", "--out", str(file), "--json")
    assert (code, told) == (0, {"file": str(file), "traces": 61, "clustered": 60})
    rows = {row["id"]: row["task"] for row in csv.DictReader(file.open(encoding="utf-8"))}
    assert rows.pop("stray") == "-"
    assert {task for trace, task in rows.items() if trace.startswith("late")} == {rows["late-0"]}
    assert set(rows.values()) == names(home, capsys)


def test_corrections_are_stored_and_exported(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = sorted(names(home, capsys))
    assert shoal_tasks(home, capsys, "rename", first, "mood")[0] == 0
    assert shoal_tasks(home, capsys, "split", "mood", "--name", "tents", "--contains", "tent")[0] == 0
    assert shoal_tasks(home, capsys, "exclude", second)[0] == 0
    assert names(home, capsys) == {"mood", second, "tents"}
    file = home.root / "tasks.csv"
    shoal_tasks(home, capsys, "export", "--out", str(file))
    rows = [row["task"] for row in csv.DictReader(file.open(encoding="utf-8"))]
    assert {name: rows.count(name) for name in ("mood", second, "tents", "-")} == {
        "mood": 20,
        second: 30,
        "tents": 10,
        "-": 1,
    }
    assert shoal_tasks(home, capsys, "merge", second, "mood")[0] == 0
    assert names(home, capsys) == {second, "tents"}


def test_a_wrong_name_is_one_clear_error(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    code, told = shoal_tasks(home, capsys, "show", "nobody", "--json")
    assert code == 1
    assert told["error"]["message"] == "There is no task 'nobody'."
    name = min(names(home, capsys))
    assert shoal_tasks(home, capsys, "rename", name, "Not a slug")[0] == 2
    assert run_app(app, ["ls", "--home", str(home.root / "elsewhere")]) == 2


def test_show_tells_share_examples_and_suitability(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    name = sorted(names(home, capsys))[0]
    _, task = shoal_tasks(home, capsys, "show", name, "--json")
    assert task["calls_share"] == pytest.approx(30 / 61)
    assert 0.3 < task["cost_share"] < 0.6
    assert (task["cost_usd"], task["cost_by"], task["tokens_guessed"]) == (None, "tokens", True)
    assert len(task["examples"]) == 3
    assert task["suitable"] == "no"
    assert task["suitable_because"][0] == "too few calls: 30; training takes 200"
    _, printed = shoal_tasks(home, capsys, "show", name)
    assert max(len(line) for line in printed.splitlines()) <= 80
    assert "49.2% of all calls" in printed
    assert task["examples"][0] in printed
    _, listed = shoal_tasks(home, capsys, "ls", "--json")
    assert {row["suitable"] for row in listed["tasks"]} == {"no"}


def test_cost_is_of_money_where_prices_are_configured(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    home.config.write_text(
        "generalist: {base_url: 'http://127.0.0.1:1/v1', model: big, price_in: 2.0, price_out: 8.0}\n",
        encoding="utf-8",
    )
    name = sorted(names(home, capsys))[0]
    _, task = shoal_tasks(home, capsys, "show", name, "--json")
    assert task["cost_by"] == "USD"
    assert task["cost_usd"] == pytest.approx((2.0 * task["tokens_in"] + 8.0 * task["tokens_out"]) / 1e6)


def test_unknown_work_is_told_with_the_kinds_that_recur(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "Unknown work" not in shoal_tasks(home, capsys, "ls")[1]
    registry = SqlRegistry(home.database)
    near = registry.tasks()[0]
    calls = [
        NovelCall(trace_id=f"late-{n}", at=float(n), why="system_prompt", near=near.id, kind="shop-lamp")
        for n in range(25)
    ]
    calls.append(NovelCall(trace_id="stray", at=99.0, why="system_prompt"))
    SqlNovelty(registry.database).add(calls, most=100)
    registry.close()
    told = shoal_tasks(home, capsys, "ls", "--json")[1]["unknown_work"]
    assert told == {
        "calls": 26,
        "kinds": [
            {"name": "shop-lamp", "calls": 25, "near": near.name, "first_words": "My tent number 24 is late"}
        ],
    }
    shown = " ".join(shoal_tasks(home, capsys, "ls")[1].split())
    assert "Unknown work: 26 calls that no task covers." in shown
    assert f"25 of a recurring kind, shop-lamp, like {near.name}: My tent number 24 is late" in shown
