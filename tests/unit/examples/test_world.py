"""The demo's database, its tool and its questions."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from shoal.agents.plans.schema import breaks
from shoal.errors import StepFailed
from shoal.examples.sales_report import standin
from shoal.examples.sales_report.database import CHANNELS, PRODUCTS, QUARTERS, REGIONS, build_database
from shoal.examples.sales_report.questions import questions
from shoal.examples.sales_report.tools import OUTPUT, figures, quarters_of, sales_figures


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("world") / "sales.db"
    assert build_database(path, seed=0) == 100_800
    return path


def ask(database: Path, **arguments: Any) -> dict[str, Any]:
    found: dict[str, Any] = sales_figures(arguments, {"database": str(database)})
    return found


def test_the_same_seed_gives_the_same_sales(database: Path, tmp_path: Path) -> None:
    build_database(tmp_path / "again.db", seed=0)
    build_database(tmp_path / "other.db", seed=1)

    def total(path: Path) -> Any:
        with sqlite3.connect(path) as connection:
            return connection.execute("SELECT COUNT(*), SUM(revenue), SUM(returned) FROM sales").fetchone()

    assert total(database) == total(tmp_path / "again.db") != total(tmp_path / "other.db")


def test_every_answer_keeps_the_tools_schema_and_its_parts_add_up_to_the_growth(database: Path) -> None:
    for quarter in QUARTERS[1:]:
        for by in ("region", "product"):
            answer = ask(database, period=quarter, by=by, top=10)
            assert breaks(answer, OUTPUT) == []
            assert len(answer["records"]) == 10
            for record in answer["records"]:
                parts = sum(record[name] for name in (*CHANNELS, "price_effect"))
                assert record["growth"] == pytest.approx(parts, abs=0.25)


def test_growth_is_what_the_rows_say(database: Path) -> None:
    with sqlite3.connect(database) as connection:
        query = "SELECT SUM(revenue) FROM sales WHERE quarter = ? AND region = ? AND product = ?"
        old, new = (
            connection.execute(query, (quarter, "Iberia", "Yoga Mat")).fetchone()[0]
            for quarter in ("2025-Q1", "2025-Q2")
        )
    found = ask(database, period="2025-Q2", by="region", where={"product": "Yoga Mat"}, top=10)["records"]
    [record] = [r for r in found if r["name"] == "Iberia"]
    assert record["growth"] == pytest.approx(100 * (new - old) / old, abs=0.051)
    assert record["revenue_k"] == pytest.approx(new / 1000, abs=0.051)


def test_figures_of_a_tiny_shop_by_hand() -> None:
    sales = [
        # 10 units at 2.00 before; 10 units at 3.00 now: all of it is the price
        ("old", "EMEA", "Mat", "online", 10, 20.0, 0),
        ("new", "EMEA", "Mat", "online", 10, 30.0, 1),
        # 10 units at 5.00 before; 20 at 5.00 now: all of it is the channel
        ("old", "APAC", "Mat", "stores", 10, 50.0, 0),
        ("new", "APAC", "Mat", "stores", 20, 100.0, 4),
    ]
    emea, apac = sorted(
        figures(sales, [("EMEA", "Mat", 3)], by="region", now=["new"], period="new"),
        key=lambda r: -ord(r["name"][0]),
    )
    assert (emea["growth"], emea["price_effect"], emea["online"], emea["returns_rate"]) == (
        50.0,
        50.0,
        0.0,
        10.0,
    )
    assert (apac["growth"], apac["price_effect"], apac["stores"], apac["returns_rate"]) == (
        100.0,
        0.0,
        100.0,
        20.0,
    )
    assert (emea["stock_out_days"], apac["stock_out_days"]) == (3, 0)


def test_every_driver_and_action_occurs_and_none_dominates(database: Path) -> None:
    answers: dict[tuple[str, ...], int] = {}
    for quarter in QUARTERS[1:]:
        for product in PRODUCTS:
            for record in ask(database, period=quarter, by="region", where={"product": product}, top=8)[
                "records"
            ]:
                key = tuple(standin.analyse(record).values())
                answers[key] = answers.get(key, 0) + 1
    assert len(answers) == 13
    assert max(answers.values()) < 0.35 * sum(answers.values())


@pytest.mark.parametrize(
    ("period", "now", "before"),
    [
        ("this quarter", ["2025-Q4"], ["2025-Q3"]),
        ("last quarter", ["2025-Q3"], ["2025-Q2"]),
        ("2025-Q1", ["2025-Q1"], ["2024-Q4"]),
        ("last year", [f"2024-Q{n}" for n in range(1, 5)], [f"2023-Q{n}" for n in range(1, 5)]),
        ("2025", [f"2025-Q{n}" for n in range(1, 5)], [f"2024-Q{n}" for n in range(1, 5)]),
    ],
)
def test_periods_are_compared_with_the_period_before(period: str, now: list[str], before: list[str]) -> None:
    assert quarters_of(period) == (now, before)


@pytest.mark.parametrize("period", ["2025-Q5", "tomorrow", "' OR 1=1 --", ""])
def test_an_unknown_period_is_refused(database: Path, period: str) -> None:
    with pytest.raises(StepFailed, match="period"):
        ask(database, period=period, by="region")


def test_arguments_are_never_part_of_the_query(database: Path) -> None:
    assert ask(database, period="2025-Q1", by="region", where={"product": "x' OR '1'='1"})["records"] == []
    with sqlite3.connect(database) as connection:
        assert connection.execute("SELECT COUNT(*) FROM sales").fetchone()[0] == 100_800


def test_a_missing_database_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(StepFailed, match="no sales database"):
        ask(tmp_path / "none.db", period="2025-Q1", by="region")


def test_no_unseen_question_is_in_the_log_and_all_kinds_occur() -> None:
    log = questions(100, seed=0)
    unseen = questions(50, seed=1, exclude=[question.text for question in log])
    texts = {question.text for question in log}
    assert len(texts) == 100 and not texts & {question.text for question in unseen}
    assert questions(100, seed=0) == log
    assert {(q.tone, q.language) for q in unseen} == {
        (t, la) for t in ("formal", "casual") for la in ("English", "German")
    }
    assert any(region in q.text for q in log for region in REGIONS)
