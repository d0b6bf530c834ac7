from __future__ import annotations

from shoal.agents.learning.consensus import agreements

DRAFTS = [
    "The Mill is a cheap pub by the river.",
    "The Mill is a cheap pub near the river.",
    "The Mill is a pub by the river, and cheap.",
    "Cheap!",
]


def test_the_draft_that_shares_most_with_the_others_is_agreed_on_most() -> None:
    scores = agreements(DRAFTS, DRAFTS)
    assert max(range(4), key=lambda n: scores[n]) == 0
    assert min(range(4), key=lambda n: scores[n]) == 3
    assert all(0 <= score <= 1 for score in scores)


def test_what_many_wrote_weighs_more() -> None:
    many = [*DRAFTS, *["Cheap!"] * 20]
    assert agreements(["Cheap!"], many)[0] > agreements(DRAFTS[:1], many)[0]


def test_equal_texts_agree_wholly_and_nothing_with_nothing() -> None:
    assert agreements(["a b c d e"], ["A b c d e"]) == [1.0]
    assert agreements([""], [""]) == [1.0]
    assert agreements(["a b"], [""]) == [0.0]
    assert agreements(["a b"], []) == [0.0]
