"""The generalist asked twice, and a judge model over pairs in both orders. Fakes answer; nothing goes over a network."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import pytest

from shoal.agents.contract.calibrate import calibrate
from shoal.agents.contract.gate import HeldOut, decide
from shoal.agents.fakes import FunctionGeneralist
from shoal.agents.learning.second_opinions import Adviser, agreed, ask_again, prefer, question, read_choice
from shoal.agents.learning.training import Example
from shoal.agents.registry.records import OutputKind
from shoal.agents.traces.chat import ChatRequest
from shoal.errors import GeneralistUnavailable


def example(number: int, content: str) -> Example:
    body = {"messages": [{"role": "user", "content": f"call {number}"}], "metadata": {"conversation_id": "x"}}
    return Example(id=f"e{number}", request=ChatRequest(body=body), content=content, group=f"e{number}")


def adviser(says: Callable[[ChatRequest], str], *, calls: int = 10) -> tuple[Adviser, FunctionGeneralist]:
    fake = FunctionGeneralist(says)
    return Adviser(open=lambda: nullcontext(fake), calls=calls), fake


def test_the_generalists_second_answer_is_judged_by_its_first_and_stands_beside_the_specialists() -> None:
    examples = [example(n, "yes") for n in range(30)]
    held = [HeldOut(confidence=0.9, wrong=n < 2) for n in range(30)]
    who, fake = adviser(lambda r: "No" if r.last_user_text in ("call 3", "call 4") else " YES ", calls=20)
    judged = ask_again(who, OutputKind.LABEL, examples, held, calling=frozenset())
    assert [h.again_wrong for h in judged] == [n in (3, 4) for n in range(20)] + [None] * 10
    assert len(fake.requests) == 20 and "metadata" not in fake.requests[0].body
    calibration = calibrate([0.9] * 200, [False] * 200, 0.05, 0.05)
    verdict = decide(OutputKind.LABEL, judged, calibration)
    assert (verdict.figures["self_agreement"].value, verdict.figures["self_agreement"].count) == (0.9, 20)
    against = verdict.against["generalist_again"]
    assert (against.wins, against.losses, against.difference.value) == (2, 2, 0.0)


def test_a_generalist_that_does_not_answer_leaves_its_calls_out() -> None:
    who, fake = adviser(lambda r: "yes")
    fake.error = GeneralistUnavailable("gone", remedy="")
    held = [HeldOut(confidence=1.0, wrong=False)]
    assert ask_again(who, OutputKind.LABEL, [example(0, "yes")], held, calling=frozenset()) == held


def test_a_text_where_a_call_is_due_is_another_answer() -> None:
    who, _ = adviser(lambda r: "text")
    call = example(0, '[["find", "{}"]]')
    (judged,) = ask_again(
        who, OutputKind.LABEL, [call], [HeldOut(confidence=1.0, wrong=False)], calling=frozenset({"e0"})
    )
    assert judged.again_wrong is True


def by_text(better: str) -> Callable[[ChatRequest], str]:
    """A judge that sees which text is better, wherever it stands."""

    def says(request: ChatRequest) -> str:
        first, second = request.last_user_text.split("Answer A:")[1].split("Answer B:")
        return "A" if better in first else "B" if better in second else "T"

    return says


@pytest.mark.parametrize(
    ("says", "shares"),
    [
        (by_text("short"), (1.0, 0.0, 0.0)),
        (by_text("long"), (0.0, 0.0, 1.0)),
        (lambda r: "A", (0.0, 1.0, 0.0)),  # whoever prefers a place prefers nobody
        (lambda r: "Both are fine.", (0.0, 1.0, 0.0)),
    ],
)
def test_a_verdict_counts_only_where_both_orders_agree(
    says: Callable[[ChatRequest], str], shares: tuple[float, ...]
) -> None:
    who, fake = adviser(says, calls=3)
    examples = [example(n, "long") for n in range(5)]
    said = prefer(who, examples, ["short", None, "short", "short", "short"])
    assert said is not None and len(fake.requests) == 6
    assert tuple(f["value"] for f in said.values()) == shares
    assert said["tied"]["count"] == 3 and said["tied"]["low"] < said["tied"]["high"]


def test_a_judge_that_is_away_says_nothing() -> None:
    who, fake = adviser(lambda r: "A")
    fake.error = GeneralistUnavailable("gone", remedy="")
    assert prefer(who, [example(0, "x")], ["y"]) is None


@pytest.mark.parametrize(
    ("ahead", "behind", "verdict"),
    [
        ("first", "second", "first"),
        ("second", "first", "second"),
        ("first", "first", "tie"),
        ("second", "second", "tie"),
        ("first", "tie", "tie"),
        ("tie", "tie", "tie"),
    ],
)
def test_orders_agree_only_where_the_swapped_place_is_named(ahead: str, behind: str, verdict: str) -> None:
    assert agreed(ahead, behind) == verdict  # type: ignore[arg-type]


def test_the_judges_letter_is_read_with_its_trimmings_and_the_question_names_both() -> None:
    assert [read_choice(t) for t in ("A", " **B**.", "(a)", "T", "A or B", "", None)] == [
        "first",
        "second",
        "first",
        "tie",
        "tie",
        "tie",
        "tie",
    ]
    text = question(example(0, "x").request, "one", "two").last_user_text
    assert text.index("call 0") < text.index("one") < text.index("two")


def test_local_only_calls_go_only_to_whom_may_see_them() -> None:
    who, _ = adviser(lambda r: "")
    assert who.may_see(False) and not who.may_see(True)
    assert Adviser(open=who.open, calls=1, local=True).may_see(True)
