from __future__ import annotations

from typing import Any

from shoal.agents.learning.model_card import card_facts, card_text
from shoal.agents.registry.records import OutputKind, Task, TaskId

FIGURE = {"value": 0.9876, "low": 0.95, "high": 0.9991, "count": 1234}


def facts(**changed: Any) -> dict[str, Any]:
    evidence = {
        "calls": {"train": 1790, "choose": 224, "calibration": 224},
        "seed": 3,
        "gate": {
            "outcome": "pass",
            "reasons": ["Answers most of it. " * 9],
            "figures": {"right_answered": FIGURE, "coverage": FIGURE},
            "against": {
                "floor": {
                    "value": 0.1,
                    "low": 0.05,
                    "high": 0.15,
                    "count": 90,
                    "wins": 12,
                    "losses": 3,
                    "p": 0.03,
                }
            },
        },
        "measures": {"figures": {"macro_f1": FIGURE, "nothing": {**FIGURE, "count": 0}}},
    }
    task = Task(
        id=TaskId("t1"),
        name="sort-mail-" + "x" * 40,
        output_kind=OutputKind.LABEL,
        calls=2238,
        description="Sorts mail " * 20,
    )
    given: dict[str, Any] = {
        "kind": "classifier",
        "task": task,
        "number": 2,
        "contract": {"alpha": 0.05, "delta": 0.05, "threshold": 0.93},
        "data_sha256": "ab" * 32,
        "outputs_may_train": True,
        "details": {"parents": ["HuggingFaceTB/SmolLM2-135M"], "licences": {"base": "Apache-2.0"}},
        "evidence": evidence,
    }
    return card_facts(**{**given, **changed})


def test_a_card_has_data_parents_metrics_contract_and_licences() -> None:
    card = facts()
    assert card["data"]["sha256"] == "ab" * 32 and card["parents"] == ["HuggingFaceTB/SmolLM2-135M"]
    assert card["licences"] == {"base": "Apache-2.0"} and card["outputs_may_train"] is True
    assert card["contract"]["threshold"] == 0.93 and set(card["metrics"]) == {
        "coverage",
        "right_answered",
        "macro_f1",
    }
    assert facts(details={})["base"] == "trained from nothing"


def test_the_text_says_all_of_it_within_80_columns() -> None:
    text = card_text(facts())
    assert max(map(len, text.splitlines())) <= 80
    for part in (
        "# sort-mail-",
        "## Contract",
        "At most 5.0%",
        "98.8%",
        "12 that only",
        "ab" * 32,
        "SmolLM2",
        "yes, says",
    ):
        assert part in " ".join(text.split())
    assert text.index("answered by it") < text.index("right, of those") < text.index("macro-F1")


def test_a_version_that_did_not_pass_promises_nothing() -> None:
    text = card_text(facts(contract={"alpha": 0.05, "delta": 0.05, "threshold": 2.0}, outputs_may_train=None))
    assert "never answers" in text and "not said" in text and "At most" not in text


def test_costs_stand_on_the_card_where_they_are_known() -> None:
    even = {"calls": 1200, "days": 2.5, "saved_per_call_usd": 0.0021}
    costs = {"core_seconds": 300, "core_hour_usd": 0.05, "answer_ms": 1.5, "break_even": even}
    known = facts()
    known["evidence"]["costs"] = costs
    text = " ".join(card_text(known).split())
    assert "1,200 calls, 2.5 days" in text and "2.1 USD in 1,000 calls" in text
    costs["break_even"] = None
    assert "generalist has no price" in card_text(known)
