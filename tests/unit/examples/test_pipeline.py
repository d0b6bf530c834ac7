"""The whole pipeline without a site: questions through the plan, the tool and the stand-in, and the figures that come of it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from shoal.agents.fakes import FunctionPerformer
from shoal.agents.plans.runner import PlanRunner
from shoal.agents.plans.store import SqlRuns
from shoal.agents.registry.database import Database
from shoal.examples.sales_report import scoring, standin
from shoal.examples.sales_report.agent import sales_report
from shoal.examples.sales_report.database import build_database
from shoal.examples.sales_report.questions import questions
from shoal.examples.sales_report.scoring import Part, parts_of
from shoal.examples.sales_report.tools import sales_figures
from shoal.nodes.spool import SystemClock


async def runs(folder: Path, count: int, performer: str, spoil: str = "") -> list[dict[str, Any]]:
    """Questions answered by the stand-in's functions under a performer's name; `spoil` is a skill that answers wrongly."""
    build_database(folder / "sales.db")
    options = {"database": str(folder / "sales.db")}

    def answer(body: Mapping[str, Any]) -> str:
        said = standin.reply(body["messages"], 0)
        if spoil and spoil in body["messages"][0]["content"] and body["model"] != "generalist":
            return (
                "no plan"
                if spoil == "planner"
                else said.replace("sales", "ghosts").replace("pricing", "ghosts")
            )
        return said

    fake = FunctionPerformer(
        answer=answer,
        tools={"sales_figures": lambda arguments: sales_figures(dict(arguments), options)},
        infos={"sales_figures": sales_figures.info},
        performer=performer,
    )
    ids = itertools.count()
    runner = PlanRunner(
        store=SqlRuns(Database(folder / "runs.db")),
        performer=fake,
        clock=SystemClock(),
        ids=lambda: f"r{next(ids)}",
    )
    plan = sales_report()
    started = [await runner.start(plan, {"question": q.text}) for q in questions(count, seed=4)]
    return [await runner.result(run_id) for run_id in started]


def references(views: list[dict[str, Any]]) -> dict[str, Any]:
    found = {}
    for part in (part for view in views for part in parts_of(view)):
        if part.step == "plan":
            found[part.key] = standin.plan(part.given)
        elif part.step == "analyse":
            found[part.key] = standin.analyse(part.given)
    return found


def told(views: list[dict[str, Any]], tier: str = "edge") -> dict[str, Any]:
    for view in views:
        for step in view["steps"]:
            for part in step["parts"]:
                part["tier"] = tier if step["use"] == "skill/write" else "local"
    return scoring.summary(
        generalist={"model": "m", "stand_in": True, "stated_price_usd_per_million_tokens": None},
        first=views,
        second=views,
        references=references(views),
        concurrency=(6, 3),
        specialists=[],
        placement=None,
        seconds={"total": 100.0},
    )


async def test_a_round_by_specialists_keeps_every_promise(tmp_path: Path) -> None:
    result = told(await runs(tmp_path, 12, "specialist/x@1"))
    assert result["broken_promises"] == []
    assert (result["demo_specialist_share"], result["demo_structured_agreement"]) == (1.0, 1.0)
    assert result["quality"]["write"]["true_all"] == 1.0
    assert json.loads(json.dumps(result))["rounds"][1]["steps"]["write"]["tiers"] == {"edge": 96}


async def test_a_round_by_the_generalist_keeps_none_of_the_shares(tmp_path: Path) -> None:
    result = told(await runs(tmp_path, 4, "generalist/big"))
    assert [text.split(":")[0] for text in result["broken_promises"]] == ["plan", "analyse", "write"]
    assert result["demo_structured_agreement"] is None


async def test_plans_that_are_none_are_counted_and_written_by_the_generalist(tmp_path: Path) -> None:
    views = await runs(tmp_path, 4, "specialist/x@1", spoil="planner")
    assert all(view["status"] == "done" for view in views)
    result = told(views)
    assert result["quality"]["plan"]["valid"] == 0.0
    assert any("were valid" in text for text in result["broken_promises"])


async def test_wrong_analyses_and_sentences_that_are_not_true_are_seen(tmp_path: Path) -> None:
    result = told(await runs(tmp_path, 4, "specialist/x@1", spoil="analyst"))
    assert any("agreement" in text for text in result["broken_promises"])
    assert result["quality"]["analyse"]["disagreements"][0]["generalist"]["driver"]
    wrong = (
        told(await runs(tmp_path / "b", 4, "specialist/x@1", spoil="writer"))
        if (tmp_path / "b").mkdir() is None
        else {}
    )
    assert any("true to their records" in text for text in wrong["broken_promises"])


async def test_a_writer_on_another_tier_breaks_its_promise(tmp_path: Path) -> None:
    result = told(await runs(tmp_path, 2, "specialist/x@1"), tier="cloud")
    assert any("promised edge nodes" in text for text in result["broken_promises"])


@pytest.mark.parametrize(
    ("sentence", "true"),
    [
        ("Revenue for Andes rose by 12.5%, thanks to pricing.", True),
        ("Revenue for Andes rose by 12,50 %, thanks to pricing.", True),
        ("Revenue for Andes fell by 12.5%, thanks to pricing.", False),
        ("Revenue for Andes rose by 112.5%, thanks to pricing.", False),
        ("Revenue for Alps rose by 12.5%, thanks to pricing.", False),
        ("Revenue for Andes rose by 12.5%.", False),
        ("Für Andes stieg der Umsatz um 12.5 %, dank pricing.", False),
    ],
)
def test_a_sentence_is_true_with_its_values_its_direction_and_its_language(sentence: str, true: bool) -> None:
    record = {"name": "Andes", "growth": 12.5, "driver": "pricing", "tone": "formal", "language": "English"}
    assert (
        scoring.is_true(Part(step="write", given=record, said=sentence, performer="specialist/w@1")) is true
    )
