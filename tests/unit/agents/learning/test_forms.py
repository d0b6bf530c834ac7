from __future__ import annotations

import pytest

from shoal.agents.learning.forms import (
    carries,
    digit_groups,
    find_spans,
    forms,
    read_number,
    source_groups,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("-12", "revenue fell by 12% last quarter"),
        ("12.50", "it grew 12.5%"),
        ("12.0", "it grew 12%"),
        ("1234567", "sold 1,234,567 units"),
        ("1234567", "sold 1.23 million units"),
        ("12.3456", "about 12.3%"),
        ("0.12", "up 12%"),
        ("12%", "by 12 per cent"),
        ("online_sales", "driven by online sales"),
        ("online sales", "Online sales drove it"),
        ("ticket", "two tickets"),
        ("3", "there are three of them"),
        ("$15,670.49", "a balance of $15,670.49."),
    ],
)
def test_a_value_is_recognised_in_its_usual_forms(value: str, text: str) -> None:
    assert carries(text, value)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("1", "there are 12 of them"),
        ("1", "1.5 and 1,500 and 2.1"),
        ("EMEA", "the EMEAX region"),
        ("-12", "rooms 5-120"),
        ("online sales", "online wholesales"),
        ("12", "by 13%"),
    ],
)
def test_a_value_inside_a_longer_word_or_number_does_not_count(value: str, text: str) -> None:
    assert not carries(text, value)


def test_numbers_are_read_with_sign_currency_and_per_cent() -> None:
    number = read_number("-$1,200.50")
    assert number is not None and float(number.value) == -1200.5 and number.currency == "$"
    assert read_number("1 out of 5") is None
    assert forms("-12%")["abs"] == "12%"
    assert forms("-12%")["bare"] == "12"


def test_spans_are_given_for_each_occurrence() -> None:
    assert find_spans("EMEA, not EMEAX, but EMEA", "EMEA") == [(0, 4), (21, 25)]


def test_digit_groups_are_normalised() -> None:
    assert digit_groups("1,200.50 of 3, 24/7 and 12.0") == ["1200.5", "3", "24", "7", "12"]


def test_a_digit_inside_a_name_says_no_number() -> None:
    assert digit_groups("T1 of HAT030, day_2, 5of5 and 7pm") == ["t1", "hat030", "day_2", "5", "5", "7"]
    assert not carries("Gate T1", "1") and not carries("Flight HAT030", "30")
    assert carries("at 7pm in 3rd place, for £20", "7") and carries("第5个", "5")
    assert source_groups("T12") == {"t12", "12"}, "what a prompt names may be told in other words"
