from __future__ import annotations

from datetime import date

import pytest

from shoal.agents.learning.calls.when import dates_in, times_in, today_in

TODAY = date(2024, 5, 15)  # a Wednesday


@pytest.mark.parametrize(
    ("text", "form", "reading"),
    [
        ("on March 5th please", "<m> <n>", "2024-03-05"),
        ("the 14th of June", "<n> of <m>", "2024-06-14"),
        ("April 12, 2001", "<m> <n>, <n>", "2001-04-12"),
        ("the 7th of this month", "<n> of this month", "2024-05-07"),
        ("make it the 20th", "<n>", "2024-05-20"),
        ("next Monday", "next <w>", "2024-05-20"),
        ("Friday this week", "<w> this week", "2024-05-17"),
        ("tomorrow", "tomorrow", "2024-05-16"),
        ("2024-06-01", "<n>-<n>-<n>", "2024-06-01"),
        ("3/4/2024", "<n>/<n>/<n>", "2024-04-03"),
    ],
)
def test_a_date_has_its_form_and_every_reading(text: str, form: str, reading: str) -> None:
    [found] = dates_in(text, TODAY)
    assert found.form == form
    assert reading in found.readings.values()


def test_relative_dates_need_a_stated_day() -> None:
    assert list(dates_in("next Monday or tomorrow", None)) == []
    assert today_in("Be kind. Today is 2019-03-01. Call one function.") == date(2019, 3, 1)
    assert today_in("The current time is May 15, 2024 15:00.") == TODAY
    assert today_in("Founded on 2019-03-01.") is None


@pytest.mark.parametrize(
    ("text", "form", "reading"),
    [
        ("5:30 in the evening", "evening", "17:30"),
        ("at 7 am", "am", "07:00"),
        ("half past 4 in the afternoon", "afternoon", "16:30"),
        ("a quarter to six pm", "pm", "17:45"),
        ("around evening 6", "evening", "18:00"),
        ("13:15 sharp", "plain late", "13:15"),
        ("at noon", "noon", "12:00"),
    ],
)
def test_a_time_has_its_form_and_every_reading(text: str, form: str, reading: str) -> None:
    [found] = times_in(text)
    assert found.form == form
    assert reading in found.readings.values()
