"""How a value of a prompt may be written in an answer, and where it stands there.

Owns the normal forms of a value (absolute number, thousands separators, rounded, without `%`, underscores as spaces,
letter case) and the search for them at word boundaries. Pure; knows nothing of records, tasks or models.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal

_NUMBER = re.compile(r"([$€£¥]?)([-+−]?)([$€£¥]?)(\d[\d,]*(?:\.\d+)?|\.\d+)(\s?%?)")
#: letters that make a name with the digits after them (`T1`); scripts without letter case write numbers inside running text
_LETTER = "A-Za-z\u00aa-\u024f\u0370-\u03ff\u0400-\u04ff_"
_DIGITS = re.compile(rf"(?<![{_LETTER}\d])[{_LETTER}]+\d\w*|\d+(?:[,.]\d+)*")
_INSIDE = re.compile(r"\d+")
_IS_LETTER = re.compile(f"[{_LETTER}]")
_SPACES = re.compile(r"[ \t\u00a0]+")
_FLAGS = frozenset({"true", "false", "yes", "no", "none", "null", "n/a", "unknown", ""})
#: number words by their value
NUMBER_WORDS = (
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
)

AS_IS = "="
WORD = "word"


@dataclass(frozen=True, slots=True)
class Number:
    """A number as a prompt writes it: `-$1,200.50` has currency `$`, suffix `` and value -1200.50."""

    value: Decimal
    digits: str
    currency: str
    suffix: str


def read_number(text: str) -> Number | None:
    """The number that all of `text` is, with an optional sign, currency and per cent sign; else None."""
    match = _NUMBER.fullmatch(text.strip())
    if match is None or len(text) > 40:
        return None
    value = Decimal(match[4].replace(",", ""))
    negative = match[2] in ("-", "−")
    return Number(-value if negative else value, match[4], match[1] or match[3], match[5])


def is_flag(text: str) -> bool:
    """Whether the value only says yes, no or nothing, so that a sentence hardly ever quotes it."""
    return text.strip().lower() in _FLAGS


def forms(text: str) -> dict[str, str]:
    """Every way in which the value may be written, by the name of the form. Several names may give the same text."""
    number = read_number(text)
    return _text_forms(text) if number is None else _number_forms(text.strip(), number)


def _text_forms(text: str) -> dict[str, str]:
    text = _SPACES.sub(" ", text).strip()
    spaced = text.replace("_", " ")
    out = {AS_IS: text, "lower": text.lower(), "upper": text.upper(), "cap": text[:1].upper() + text[1:]}
    out["uncap"] = text[:1].lower() + text[1:]
    if text.islower() or "_" in text:
        out["title"] = spaced.title()
    if spaced != text:
        out |= {"spaced": spaced, "spaced lower": spaced.lower()}
        out["spaced cap"] = spaced[:1].upper() + spaced[1:].lower()
    if text.endswith("%"):
        out["bare"] = text[:-1].strip()
    return {name: form for name, form in out.items() if form}


def _number_forms(text: str, number: Number) -> dict[str, str]:
    size = abs(number.value)
    around = f"{number.currency}{{}}{number.suffix.strip()}"
    out = {"abs": around.format(number.digits), AS_IS: text, "bare": number.digits}
    out["trim"] = around.format(_plain(size))
    out["sep"] = around.format(f"{size:,f}")
    out["trim sep"] = around.format(f"{Decimal(_plain(size)):,f}")
    if number.suffix or number.currency:
        out["bare sep"] = f"{size:,f}"
    if size != size.to_integral_value():
        for places in (0, 1, 2):
            rounded = size.quantize(Decimal(1).scaleb(-places), ROUND_HALF_UP)
            out[f"round{places}"] = around.format(f"{rounded:,f}")
        if size < 1:
            out["pct"] = _plain(size * 100)
    for name, unit in (("thousands", 3), ("millions", 6), ("billions", 9)):
        if size >= Decimal(10) ** unit:
            out[name] = number.currency + _plain(round(size.scaleb(-unit), 2))
    if size == size.to_integral_value() and size < len(NUMBER_WORDS):
        out[WORD] = NUMBER_WORDS[int(size)]
    return out


def _plain(value: Decimal) -> str:
    """Without exponent and trailing zeros."""
    return f"{value:f}".rstrip("0").rstrip(".") if "." in f"{value:f}" else f"{value:f}"


def find_spans(text: str, needle: str) -> list[tuple[int, int]]:
    """Where `needle` stands in `text` as a word of its own: not inside a longer word or number. A plural s may follow."""
    spans = []
    at = text.find(needle)
    while needle and at >= 0:
        end = at + len(needle)
        if _starts_clean(text, at) and _ends_clean(text, end):
            spans.append((at, end))
        at = text.find(needle, at + 1)
    return spans


def _starts_clean(text: str, at: int) -> bool:
    if at == 0:
        return True
    first, before = text[at], text[at - 1]
    if first.isdigit():
        if before.isdigit() or _IS_LETTER.match(before):
            return False  # `T1` does not say 1
        return not (before in ".," and at >= 2 and text[at - 2].isdigit())
    if first.isalnum():
        return not (before.isalnum() or before == "_")
    # a sign or currency must not belong to a number or word before it
    return not (first in "+-−" and before.isalnum())


def _ends_clean(text: str, end: int) -> bool:
    if end == len(text):
        return True
    last, after = text[end - 1], text[end]
    if last.isdigit():
        return not (after.isdigit() or (after in ".," and end + 1 < len(text) and text[end + 1].isdigit()))
    if last.isalnum():
        if after == "s" and (end + 1 == len(text) or not text[end + 1].isalnum()):
            return True
        return not (after.isalnum() or after == "_")
    return True


def carries(text: str, value: str) -> bool:
    """Whether any form of `value` stands in `text`, letter case aside."""
    low = text.lower()
    return any(find_spans(low, form.lower()) for form in forms(value).values())


def digit_groups(text: str) -> list[str]:
    """The numbers that a text writes in digits, without separators and trailing zeros: `1,200.50` gives `1200.5`.

    Digits after letters are part of a name, which is given whole and in lower case: `T1` gives `t1`.
    """
    out = []
    for group in _DIGITS.findall(text):
        if not group[0].isdigit():
            out.append(group.lower())
            continue
        parts = group.split(",")
        thousands = len(parts) > 1 and all(len(part.split(".")[0]) == 3 for part in parts[1:])
        pieces = ["".join(parts)] if thousands else parts
        out += [_plain(Decimal(p)) if p.count(".") < 2 else p for p in pieces]
    return out


def source_groups(text: str) -> set[str]:
    """What a text is a source of: its `digit_groups`, and the numbers inside its names (`T1` may be told as `terminal 1`)."""
    groups = digit_groups(text)
    inside = [n for name in groups if not name[0].isdigit() for n in _INSIDE.findall(name)]
    return {*groups, *digit_groups(" ".join(inside))}


def tidy(text: str) -> str:
    """Runs of spaces as one; lines kept."""
    return "\n".join(_SPACES.sub(" ", line).strip() for line in text.strip().split("\n"))
