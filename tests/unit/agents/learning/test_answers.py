import pytest

from shoal.agents.learning.answers import AnswerSet, answer_key
from shoal.errors import DataError


def test_the_wording_that_is_given_most_stands_for_an_answer() -> None:
    contents = ["Approve"] * 5 + ["approve"] * 3 + ["reject "] * 4
    answers = AnswerSet.fit(contents)
    assert answers.keys == ("approve", "reject")
    assert answers.texts == ("Approve", "reject ")


def test_json_answers_are_one_whatever_their_key_order_and_white_space() -> None:
    contents = ['{"a": 1, "b": "x"}'] * 4 + ['{"b":"x","a":1}'] * 3 + ['{"a": 2, "b": "x"}'] * 3
    answers = AnswerSet.fit(contents)
    assert len(answers.keys) == 2
    assert answers.texts[0] == '{"a": 1, "b": "x"}'
    assert answers.indices(['{"b": "x", "a": 1.0}', '{"a": 9}']) == [0, -1]


def test_open_answers_are_refused_in_figures() -> None:
    with pytest.raises(DataError, match="100 different ones in 100 calls"):
        AnswerSet.fit([f"answer {i}" for i in range(100)])


def test_answers_given_once_or_twice_are_left_out_of_a_closed_set() -> None:
    answers = AnswerSet.fit(["yes"] * 60 + ["no"] * 40 + ["maybe"] * 2)
    assert answers.keys == ("yes", "no")


def test_one_single_answer_is_a_closed_set() -> None:
    assert AnswerSet.fit(["ok"] * 20).keys == ("ok",)


def test_an_answer_set_survives_its_json() -> None:
    answers = AnswerSet.fit(["ä"] * 4 + ["b"] * 3)
    assert AnswerSet.from_json(answers.to_json()) == answers


def test_a_label_that_looks_like_a_bracket_is_still_a_label() -> None:
    assert answer_key("[none") == "[none"
