from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from shoal.agents.feedback.expenses import SqlExpenses
from shoal.agents.feedback.ledger import Compute, Expense
from shoal.agents.registry.records import TaskId
from shoal.agents.registry.store import SqlRegistry
from shoal.agents.tasks.finder import find_tasks
from shoal.agents.traces.store import ParquetTraceStore
from shoal.agents.traces.trace import Trace, TraceId
from shoal.cli import main
from shoal.commands._amounts import joules, milliseconds, seconds, usd
from shoal.commands.costs import moment
from shoal.errors import UsageError
from shoal.home import Home

NOW = 1_760_000_000.0


def _call(number: int, by: str, **tags: Any) -> Trace:
    message = {"role": "assistant", "content": ("red", "blue")[number % 2]}
    return Trace(
        id=TraceId(f"t{number}"),
        request={
            "model": "auto",
            "messages": [
                {"role": "system", "content": "Name the colour."},
                {"role": "user", "content": f"{('red', 'blue')[number % 2]} thing {number}"},
            ],
        },
        response={
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 100, "completion_tokens": 10},
        },
        timestamp=NOW + 600 * number,
        served_by=by,
        latency_ms=5.0 if by.startswith("specialist/") else 400.0,
        cost_usd=0.0 if by.startswith("specialist/") else None,
        tags=tags,
    )


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """300 calls of one task, 100 of them answered by a specialist in 2 ms each, and what learning took."""
    found = Home(tmp_path / "home").create()
    calls = [_call(n, "generalist/big") for n in range(200)]
    task = find_tasks(calls, known=[], seed=0, now=0.0).tasks[0]
    calls += [
        _call(n, f"specialist/{task.name}@1", task_id=task.id, compute_ms=2.0, compute_on="cpu")
        for n in range(200, 300)
    ]
    ParquetTraceStore(found).add(calls)
    registry = SqlRegistry(found.database)
    registry.put_tasks([task])
    trained = Expense(kind="learning", task_id=TaskId(task.id), at=NOW, compute=Compute(cpu_ms=36_000.0))
    SqlExpenses(registry.database).add([trained])
    registry.close()
    return found


def _priced(home: Home, **generalist: Any) -> None:
    section = {
        "base_url": "http://big.example/v1",
        "model": "big",
        "price_in": 10,
        "price_out": 100,
        **generalist,
    }
    home.config.write_text(json.dumps({"generalist": section}), encoding="utf-8")


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    return int(stop.value.code or 0), capsys.readouterr().out


def test_costs_say_what_was_paid_saved_and_learnt(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    _priced(home)
    code, text = run(capsys, "costs", "--home", str(home.root), "--json")
    found = json.loads(text)
    total = found["total"]
    assert code == 0
    assert (total["calls"], total["by_specialist"]) == (300, 100)
    assert total["all_generalist_usd"] == pytest.approx(0.6)
    assert total["paid_usd"] == pytest.approx(0.4)
    compute = 100 * 0.002 / 3600 * 0.05
    assert total["saved_usd"] == pytest.approx(0.2 - compute)
    assert total["net_usd"] == pytest.approx(0.2 - compute - 36 / 3600 * 0.05)
    assert total["energy_joules"] is None
    assert total["specialist_p95_ms"] == pytest.approx(5.0, rel=0.011)
    [task] = found["tasks"]
    assert task["advice"]["tier"] == "generalist", "no version is registered"


def test_a_page_for_people_fits_eighty_columns(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    _priced(home, model="stand-in-generalist")
    _, text = run(capsys, "costs", "--home", str(home.root))
    assert max(map(len, text.splitlines())) <= 80
    assert "saved after learning" in text and "unknown" in text
    assert "Where each task is best done" in text


def test_without_a_price_all_money_is_unknown(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    _, text = run(capsys, "costs", "--home", str(home.root), "--json")
    total = json.loads(text)["total"]
    assert [total[n] for n in ("all_generalist_usd", "paid_usd", "avoided_usd", "saved_usd", "net_usd")] == [
        None
    ] * 5
    _, page = run(capsys, "costs", "--home", str(home.root))
    assert "No price is known" in page
    assert "$0.00  " not in "".join(line for line in page.splitlines() if line.startswith(("saved", "paid")))


def test_since_takes_a_day_or_a_while(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    assert moment("2d", NOW) == NOW - 172_800
    assert moment("90m", NOW) == NOW - 5400
    assert moment("1970-01-02", NOW) == 86_400
    with pytest.raises(UsageError, match="--since"):
        moment("yesterday", NOW)
    _, text = run(capsys, "costs", "--home", str(home.root), "--since", "2999-01-01")
    assert "No calls since 2999-01-01" in text


def test_a_tasks_page_has_its_costs_and_says_where_they_are_not_added_up(
    home: Home, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _priced(home)
    registry = SqlRegistry(home.database)
    (task,) = registry.tasks()
    registry.close()
    _, text = run(capsys, "tasks", "show", task.name, "--home", str(home.root), "--json")
    assert json.loads(text)["costs"]["by_specialist"] == 100
    _, page = run(capsys, "tasks", "show", task.name, "--home", str(home.root))
    assert "by the large model alone" in page and "best done" in page


def test_amounts_never_round_to_nothing() -> None:
    assert [usd(v) for v in (None, 0.0, 0.00001, 0.0123, 12.5, -0.5)] == [
        "unknown",
        "$0.00",
        "<$0.0001",
        "$0.0123",
        "$12.50",
        "-$0.5000",
    ]
    assert (milliseconds(None), milliseconds(2.34), milliseconds(2340)) == ("unknown", "2.3 ms", "2.3 s")
    assert (seconds(0.02), seconds(7200), joules(None), joules(2500)) == (
        "0.02 s",
        "2.0 h",
        "unknown",
        "2.5 kJ",
    )
