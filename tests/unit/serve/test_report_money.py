"""The report's sections on money: what was paid and saved, and where each task is best done."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from shoal.agents.feedback.ledger import Compute, Expense
from shoal.agents.tasks.finder import find_tasks
from shoal.home import Home
from shoal.serve.report import Price, Report, gather, render

from .test_report import NOW, ListRegistry, ListStore, log

PRICE = Price(tokens_in=10, tokens_out=100)


def _report(
    tmp_path: Path, *, price: Price | None = PRICE, stand_in: bool = False, ms: float | None = 5.0
) -> Report:
    traces = log(by_specialist=30)
    (task,) = find_tasks(traces, known=[], seed=0, now=NOW).tasks
    if ms is not None:
        tags = {"task_id": task.id, "compute_ms": ms, "compute_on": "cpu"}
        traces = [replace(t, tags=tags) if t.served_by.startswith("specialist/") else t for t in traces]
    if stand_in:
        traces = [
            replace(t, served_by=t.served_by.replace("big-model", "stand-in-generalist")) for t in traces
        ]
    learning = Expense(kind="learning", task_id=task.id, at=NOW, compute=Compute(cpu_ms=72_000.0))
    return gather(
        Home(tmp_path), ListRegistry([task]), ListStore(traces), price=price, now=NOW, expenses=[learning]
    )


def test_saved_is_less_than_what_was_not_paid(tmp_path: Path) -> None:
    report = _report(tmp_path)
    call = (100 * 10 + 10 * 100) / 1e6
    assert report.saved_usd == pytest.approx(30 * call - 30 * 0.005 / 3600 * 0.05)
    assert report.spent_usd == pytest.approx(90 * call)
    page = render(report)
    assert "Paid, saved and spent so far" in page
    assert "less their compute" in page and "Where each task is best done" in page
    assert "stand-in" not in page


def test_a_stand_ins_money_is_said_to_be_made_up(tmp_path: Path) -> None:
    assert "this money is made up" in render(_report(tmp_path, stand_in=True))


def test_unknown_money_is_unknown_on_the_page(tmp_path: Path) -> None:
    report = _report(tmp_path, price=None)
    assert (report.saved_usd, report.spent_usd) == (None, None)
    page = render(report)
    section = page[page.index("Paid, saved and spent") : page.index("Where each task is best done")]
    assert section.count(">unknown<") >= 4 and ">$0.00<" not in section


def test_answers_that_nobody_measured_are_named(tmp_path: Path) -> None:
    assert "The compute of 30 answers was not measured" in render(_report(tmp_path, ms=None))
