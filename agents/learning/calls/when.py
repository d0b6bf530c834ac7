"""Finds dates and times of day in a text, and what each may mean. Which meaning is right is learnt (`normal.py`). Pure.

An expression has a form, its words with what varies taken out (`next <w>`), and readings: named rules that give a value each.
So "next Monday" is read as the coming Monday by one rule and as Monday of next week by others, and training counts which
rule agrees with the log. English.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, timedelta

_MONTHS = [
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
]
_DAYS = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]
_MONTH = {name: n + 1 for n, name in enumerate(_MONTHS)} | {m[:3]: n + 1 for n, m in enumerate(_MONTHS)}
_MONTH["sept"] = 9
_DAY = {name: n for n, name in enumerate(_DAYS)} | {d[:3]: n for n, d in enumerate(_DAYS)}
_DAY |= {"tues": 1, "thur": 3, "thurs": 3}
_ORDINALS = [
    "first",
    "second",
    "third",
    "fourth",
    "fifth",
    "sixth",
    "seventh",
    "eighth",
    "ninth",
    "tenth",
    "eleventh",
    "twelfth",
    "thirteenth",
    "fourteenth",
    "fifteenth",
    "sixteenth",
    "seventeenth",
    "eighteenth",
    "nineteenth",
    "twentieth",
]
_ORDINAL = {name: n + 1 for n, name in enumerate(_ORDINALS)} | {
    f"twenty{sep}{name}": 20 + n + 1 for n, name in enumerate(_ORDINALS[:9]) for sep in ("-", " ")
}
_ORDINAL |= {"thirtieth": 30, "thirty-first": 31, "thirty first": 31}
_HOURS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
_HOUR = {name: n + 1 for n, name in enumerate(_HOURS)}

_M = "(?:" + "|".join(sorted(_MONTH, key=len, reverse=True)) + r")\b\.?"
_O = "|".join(sorted(_ORDINAL, key=len, reverse=True))
_N = rf"(?:\d{{1,2}}(?:st|nd|rd|th)?|{_O})"
_W = "(?:" + "|".join(sorted(_DAY, key=len, reverse=True)) + r")\b"
_DATE = re.compile(
    rf"""\b(?:
    (?P<iso>\d{{4}}-\d{{2}}-\d{{2}})
  | (?P<slash>\d{{1,2}}/\d{{1,2}}(?:/\d{{2,4}})?)
  | (?P<m1>{_M})\s+(?:the\s+)?(?P<n1>{_N})\b(?!\s*:)(?:,?\s+(?P<y1>\d{{4}}))?
  | (?P<n2>{_N})\s+(?:of\s+)?(?P<m2>{_M})(?:,?\s+(?P<y2>\d{{4}}))?
  | (?P<n3>{_N})\s+(?:of\s+)?(?P<rel>(?:this|the|next|current)\s+month)
  | (?P<pre>(?:this\s+coming|this|next|coming|following|upcoming|last)\s+)?(?P<w>{_W})(?P<post>\s+(?:of\s+)?(?:this|next|the\s+following)\s+week)?
  | (?P<word>day\s+after\s+tomorrow|day\s+after|tomorrow|tonight|today|yesterday|(?:a\s+|next\s+)week\s+from\s+(?:today|now)|(?:in\s+)?(?:two|three|four|five|six|\d)\s+days(?:\s+from\s+(?:now|today))?|next\s+week)
  | (?P<n4>\d{{1,2}}(?:st|nd|rd|th)\b(?!\s+(?:st|street|ave|avenue|floor|row)\b)|(?<=the\s)(?:{_O})\b(?!\s+[a-z]))
    )""",
    re.IGNORECASE | re.VERBOSE,
)
_TIME = re.compile(
    rf"""\b(?:
    (?P<part>half\s+past|quarter\s+past|quarter\s+to|half)\s+(?P<ph>\d{{1,2}}|{"|".join(_HOURS)})\b
  | (?P<early>morning|afternoon|evening|night)\s+(?:at\s+|around\s+)?(?P<h4>\d{{1,2}}|{"|".join(_HOURS)})(?:[:.](?P<m4>[0-5]\d))?\b
  | (?P<h>\d{{1,2}})[:.](?P<m>[0-5]\d)(?::[0-5]\d)?
  | (?P<h2>\d{{1,2}}|{"|".join(_HOURS)})(?=\s*(?:[ap]\.?m\b|o['"’]?\s?clock|in\s+the\s+(?:morning|afternoon|evening)|at\s+night))
  | (?<=at\s)(?P<h3>\d{{1,2}}|{"|".join(_HOURS)})\b(?!\s*(?:/|-|\d|%|\$|people|street|st\b))
  | (?P<word>noon|midnight|midday)
    )(?:\s*o['"’]?\s?clock)?(?:\s*(?P<half>[ap])\.?m\b\.?)?(?:\s*(?:in\s+the\s+|at\s+|this\s+)?(?P<day>morning|afternoon|evening|night))?""",
    re.IGNORECASE | re.VERBOSE,
)
_STATED = re.compile(
    rf"(?:today(?:'s date)?|current (?:date|time|day)|now|date)\W{{1,4}}(?:is\W{{1,4}})?(?:{_W},?\s+)?",
    re.IGNORECASE,
)
_ANY_DATE = re.compile(
    rf"(?P<iso>\d{{4}}-\d{{2}}-\d{{2}})|(?P<m1>{_M})\s+(?P<n1>{_N}),?\s+(?P<y1>\d{{4}})|(?P<n2>{_N})\s+(?P<m2>{_M}),?\s+(?P<y2>\d{{4}})",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Expression:
    """A date or a time of day in a text. `readings`: what it may mean, by the rule's name; ISO dates, 24-hour times."""

    start: int
    end: int
    form: str
    readings: Mapping[str, str]


def today_in(system: str) -> date | None:
    """The date that a system prompt states as today's."""
    for mark in _STATED.finditer(system):
        found = _ANY_DATE.match(system, mark.end())
        if found and (day := _stated(found)):
            return day
    return None


def _stated(found: re.Match[str]) -> date | None:
    group = found.groupdict()
    if group.get("iso"):
        return _iso(group["iso"])
    for n in ("1", "2"):
        if group.get(f"m{n}"):
            return _day(int(group[f"y{n}"]), _month(group[f"m{n}"]), _number(group[f"n{n}"]))
    return None


def dates_in(text: str, today: date | None) -> Iterator[Expression]:
    """All dates of a text; relative ones only where `today` is known."""
    for found in _DATE.finditer(text):
        readings = {rule: day.isoformat() for rule, day in _date_readings(found, today) if day is not None}
        if readings:
            yield Expression(found.start(), found.end(), _form(found), readings)


def _date_readings(found: re.Match[str], today: date | None) -> Iterator[tuple[str, date | None]]:
    group = found.groupdict()
    if group["iso"]:
        yield "iso", _iso(group["iso"])
        return
    if group["slash"]:
        yield from _slashed(group["slash"], today)
        return
    for n in ("1", "2"):
        if group[f"m{n}"]:
            month, number = _month(group[f"m{n}"]), _number(group[f"n{n}"])
            if group[f"y{n}"]:
                yield "full", _day(int(group[f"y{n}"]), month, number)
            elif today:
                this = _day(today.year, month, number)
                yield "this year", this
                yield (
                    "next time",
                    this if this is None or this >= today else _day(today.year + 1, month, number),
                )
            return
    if today is None:
        return
    number = _number(group["n3"] or group["n4"]) if group["n3"] or group["n4"] else 0
    if number:
        following = (today.replace(day=1) + timedelta(days=32)).replace(day=1)
        yield "this month", _day(today.year, today.month, number)
        yield "next month", _day(following.year, following.month, number)
    elif group["w"]:
        yield from _weekday(_DAY[group["w"].lower()], today)
    elif group["word"]:
        word = " ".join(group["word"].lower().split())
        counted = re.search(r"\b(two|three|four|five|six|\d)\s+days", word)
        if counted:
            days = int(counted[1]) if counted[1].isdigit() else _HOUR[counted[1]]
            yield "counted", today + timedelta(days=days)
        for days in (0, 1, 2, 7, -1):
            yield f"today {days:+d}", today + timedelta(days=days)


def _weekday(day: int, today: date) -> Iterator[tuple[str, date | None]]:
    ahead = (day - today.weekday()) % 7
    monday = today - timedelta(days=today.weekday())
    sunday = today - timedelta(days=(today.weekday() + 1) % 7)
    yield "from today", today + timedelta(days=ahead)
    yield "after today", today + timedelta(days=ahead or 7)
    yield "a week on", today + timedelta(days=ahead + 7)
    for name, first, offset in (("monday", monday, day), ("sunday", sunday, (day + 1) % 7)):
        yield f"this week from {name}", first + timedelta(days=offset)
        yield f"next week from {name}", first + timedelta(days=offset + 7)


def _slashed(text: str, today: date | None) -> Iterator[tuple[str, date | None]]:
    parts = [int(p) for p in text.split("/")]
    if len(parts) == 3:
        year = parts[2] + 2000 if parts[2] < 100 else parts[2]
    elif today is not None:
        year = today.year
    else:
        return
    yield "month first", _day(year, parts[0], parts[1])
    yield "day first", _day(year, parts[1], parts[0])


def _form(found: re.Match[str]) -> str:
    text = " ".join(found[0].lower().split())
    text = re.sub(_W, "<w>", text)
    text = re.sub(_M, "<m>", text)
    text = re.sub(_O, "<n>", text)
    return re.sub(r"\d+(?:st|nd|rd|th)?", "<n>", text)


def times_in(text: str) -> Iterator[Expression]:
    """All times of day of a text."""
    for found in _TIME.finditer(text):
        group = found.groupdict()
        if group["word"]:
            readings = {"named": "00:00" if group["word"].lower() == "midnight" else "12:00"}
            yield Expression(found.start(), found.end(), group["word"].lower(), readings)
            continue
        said = (group["ph"] or group["h"] or group["h2"] or group["h3"] or group["h4"]).lower()
        hour = int(said) if said.isdigit() else _HOUR[said]
        minute = int(group["m"] or group["m4"] or 0)
        part = " ".join((group["part"] or "").lower().split())
        minute = 45 if part == "quarter to" else 15 if part == "quarter past" else 30 if part else minute
        hour = hour - 1 if part == "quarter to" else hour
        half, day = (group["half"] or "").lower(), (group["day"] or group["early"] or "").lower()
        if hour > 23:
            continue
        rules = {"as it stands": hour, "morning": hour % 12, "afternoon": hour % 12 + 12}
        readings = {rule: f"{h:02d}:{minute:02d}" for rule, h in rules.items() if 0 <= h < 24}
        form = f"{half}m" if half else day if day else f"plain {hour if hour < 13 else 'late'}"
        yield Expression(found.start(), found.end(), form, readings)


def _month(text: str) -> int:
    return _MONTH[text.lower().rstrip(".")]


def _number(text: str) -> int:
    text = " ".join(text.lower().split())
    return _ORDINAL[text] if text in _ORDINAL else int(re.sub(r"\D", "", text))


def _iso(text: str) -> date | None:
    return _day(*(int(p) for p in text.split("-")))


def _day(year: int, month: int, day: int) -> date | None:
    try:
        return date(year, month, day)
    except ValueError:
        return None
