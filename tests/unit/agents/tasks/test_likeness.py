"""How alike a request's words are to each task's calls."""

from __future__ import annotations

import pytest

from shoal.agents.tasks.likeness import QUANTILES, TextIndex, likeness, quantiles, wording


def test_the_wording_is_the_share_of_calls_without_what_is_rare() -> None:
    calls = [{"my", "card", f"number {n}"} for n in range(8)] + [{"my", "account"}] * 2
    assert wording(calls) == {"my": 1.0, "card": 0.8}


def test_of_many_words_the_most_frequent_are_kept() -> None:
    calls = [{f"w{n}" for n in range(500)}] * 5 + [{"w499"}]
    kept = wording(calls)
    assert len(kept) == 400
    assert next(iter(kept)) == "w499"


def test_a_request_is_nearest_to_the_task_whose_words_it_has() -> None:
    index = TextIndex([{"card": 0.9, "my": 0.9}, {"film": 0.9, "my": 0.9}, {}])
    cosines = index.cosines({"my", "card", "lost"})
    assert cosines.argmax() == 0
    assert cosines[0] > cosines[1] > cosines[2] == 0


def test_words_that_few_tasks_have_count_more() -> None:
    index = TextIndex([{"the": 0.5, "card": 0.5}, {"the": 0.5}, {"the": 0.5}])
    common, rare = index.cosines({"the"})[0], index.cosines({"card"})[0]
    assert rare > common


def test_unknown_words_make_a_request_less_alike() -> None:
    index = TextIndex([{"card": 1.0}])
    assert index.cosines({"card"})[0] == pytest.approx(1.0)
    assert index.cosines({"card", "zebra"})[0] < 0.8
    assert index.cosines({"zebra"}).tolist() == [0.0]


def test_an_index_of_no_tasks_finds_none() -> None:
    assert TextIndex([]).cosines({"card"}).shape == (0,)


def test_likeness_is_the_share_of_own_calls_that_are_no_more_alike() -> None:
    own = quantiles([n / 100 for n in range(101)])
    assert len(own) == QUANTILES
    assert likeness(0.5, own) == pytest.approx(0.5)
    assert likeness(0.013, own) == pytest.approx(0.013)
    assert (likeness(-0.1, own), likeness(2.0, own)) == (0.0, 1.0)


def test_likeness_of_calls_that_are_all_the_same() -> None:
    own = quantiles([0.7] * 30)
    assert (likeness(0.69, own), likeness(0.7, own)) == (0.0, 1.0)
    assert likeness(0.7, []) == 0.0
