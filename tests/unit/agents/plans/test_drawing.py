from __future__ import annotations

from typing import Any

from shoal.agents.plans.drawing import draw_run


def view(**more: Any) -> dict[str, Any]:
    step = {
        "id": "ask",
        "use": "tool/look",
        "status": "failed",
        "error": {"message": "the table is gone"},
        "parts": [],
        "each": False,
        "started_at": 1.0,
        "ended_at": 2.0,
        "performer": "tool/look",
        "needs": [],
        "node": "a",
    }
    run = {
        "id": "r1",
        "plan": "p",
        "status": "failed",
        "created_at": 1.0,
        "ended_at": 2.0,
        "label": "internal",
    }
    return {**run, "cost_usd": 0.0, "error": {"message": "ask: the table is gone"}, "steps": [step], **more}


def test_why_a_step_failed_is_told_once_and_another_reason_beside_it() -> None:
    assert draw_run(view()).count("the table is gone") == 1
    other = draw_run(view(error={"message": "the run was cut off"}))
    assert "ask failed: the table is gone" in other and "error: the run was cut off" in other


def test_a_run_that_cost_nothing_shows_no_price() -> None:
    assert "USD" not in draw_run(view())
    assert "0.002000 USD" in draw_run(view(cost_usd=0.002))
