"""Finds personal data of six kinds in a text by its form: e-mail, IBAN, card, IP address, social security number (US), phone. Pure.

Checks decide where there are any (Luhn and issuer ranges, ISO 13616, octets); phones have none, so a bare run of digits counts
only in a form that nothing else has, or beside a word that says so. Dates, prices, times and ids are left alone.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple


class Finding(NamedTuple):
    """A piece of personal data: `text[start:end]`. Two forms of the same thing have the same `identity`."""

    kind: str
    start: int
    end: int
    identity: str


#: a text without any of these holds nothing of the six kinds; quick, because nearly all texts end here
_SEVEN_DIGITS = re.compile(r"\d(?:[ ().x/-]{0,3}\d){6}")
_DOTTED = re.compile(r"\d\.\d{1,3}\.\d{1,3}\.\d")
_COLONS = re.compile(r":[0-9A-Fa-f]{0,4}:")

_EMAIL = re.compile(
    r"(?<![\w.%+-])[\w%+'-][\w.%+'-]{0,63}@(?:[\w](?:[\w-]{0,62})\.){1,8}[^\W\d_]{2,24}(?![\w@-])"
)

_CARD = re.compile(
    r"(?<![\w+])(?<!\d[.,-])(?:\d{12,19}|\d{4}([ -])\d{4}\1\d{4}\1\d{1,7}|\d{4}([ -])\d{6}\2\d{4,5})(?!\w)(?![.,-]\d)"
)
#: issuer ranges by length: Visa, Mastercard, American Express, Diners, Discover, JCB, UnionPay, Maestro
_ISSUERS = {
    12: re.compile(r"50[123]|5[6-8]|6304|6759|676"),
    13: re.compile(r"4|50[123]|5[6-8]|6304|6759|676"),
    14: re.compile(r"30[0-5]|3095|3[689]"),
    15: re.compile(r"3[47]|2131|1800|5018|6304|6759"),
    16: re.compile(
        r"4|5[1-5]|2(?:22[1-9]|2[3-9]|[3-6]|7[01]|720)|6011|64[4-9]|65|62|35|3[068]|50[123]|5[6-8]|6304|67"
    ),
    17: re.compile(r"62|6759|676"),
    18: re.compile(r"62|6759|676"),
    19: re.compile(r"4|62|6011|64[4-9]|65|35|50[123]|5[6-8]|6304|67"),
}
_CARD_WORD = re.compile(
    r"\b(?:card|visa|mastercard|amex|maestro|credit|debit|pan)\b[^\d\n]{0,24}$", re.IGNORECASE
)

_IBAN_START = re.compile(r"(?<![A-Za-z0-9])([A-Za-z]{2})\d{2}(?=[ -]?[A-Za-z0-9])")
_IBAN_LENGTHS = {
    country: int(length)
    for length, countries in (
        line.split(":")
        for line in (
            "15:NO", "16:BE BI", "18:DK FO FI GL NL SD FK", "19:MK SI", "20:AT BA EE KZ XK LT LU MN", "21:CR HR LV LI CH",
            "22:BG BH DE GB GE IE ME RS", "23:AE GI IL IQ TL OM SO", "24:AD CZ MD PK RO SA SE SK ES TN VG DZ",
            "25:LY MZ PT ST", "26:IS TR CM", "27:FR GR IT MC MG MR SM",
            "28:AL AZ CY DO GT HU LB PL NI SV BY BF BJ CI ML SN", "29:BR EG PS QA UA", "30:JO KW MU YE", "31:MT SC",
            "32:LC", "33:RU",
        )
    )
    for country in countries.split()
}  # fmt: skip

_IPV4 = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?!\w)(?!\.\d)")
_IPV6 = re.compile(
    r"(?<![\w:.])[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,7}(?::\d{1,3}(?:\.\d{1,3}){3})?(?![\w:])"
)
_VERSION_WORD = re.compile(
    r"(?:\bv|\bver|\bversion|\brelease|\bsection|\bchapter|\bbuild|§)[.:]?\s{0,2}$", re.IGNORECASE
)

_EXTENSION = r"(?: ?(?:x|ext\.? ?)\d{1,5})?"
_PHONE_FORMS = re.compile(
    r"(?<![\w+])(?<!\d[.,/-])(?:"
    # +46 (0)8 928 571 38
    rf"(?P<international>\+[1-9](?:[ .-]?(?:\(0?\d{{0,4}}\)[ .-]?)?\d){{7,14}}{_EXTENSION})"
    # 001-518-640-0854
    r"|(?P<prefixed>00[1-9]\d{0,2}(?:[ .-]\d{1,8}){2,5})"
    # (707) 538-8338, 1-707-538-8338
    rf"|(?P<american>(?:(?:1[ .-])?(?:\(\d{{3}}\) ?|\d{{3}}[ .-])|\d{{2,3}} \d{{3}} )\d{{3}}[ .-]\d{{4}}{_EXTENSION})"
    # 020 7946 0958
    r"|(?P<trunk>\(?0\d{1,5}\)?(?:[ .-]\d{2,8}){1,4})"
    r")(?!\w)(?![.,/-]\d)"
)
_LOOSE_FORM = re.compile(
    rf"(?<![\w+.,/-])\+?\(?\d(?:[ .-]?[ ()]{{0,2}}\d){{6,14}}{_EXTENSION}(?!\w)(?![.,/]\d)"
)
_WORD_BEFORE = re.compile(
    r"\b(?:(?:tele?phone|phone|mobile|cell(?:phone)?|fax|landline|hotline|whatsapp|sms|tel|call|ring|dial|reach"
    r"|answering|text|contact|messages?|telefono|teléfono|telefon|téléphone|portable|móvil|handy|mobil|rufnummer)s?"
    r"|(?:desk|office|home|work)(?=\s?:))"
    r"(?:[_ ]?(?:number|no|nr|num))?"
    r"(?:\W{1,4}(?:me|us|him|her|them|back|at|on|to|is|my|the|number|no|nr)\b){0,4}[^\w$€£#]{1,5}$",
    re.IGNORECASE,
)
#: `reach my brother on 518 246 281`, `called by 41215472`
_CALLED = re.compile(
    r"\b(?:call|reach|ring|phone|text|dial|contact|message)(?:ed|led|d)?(?:\s\w{1,20}){0,3}\s(?:on|at|by|from)\s$",
    re.IGNORECASE,
)
#: `reach 1500000 users` is no phone, `phone: 1500000` is one
_NAMES_A_NUMBER = re.compile(
    r"(?:\b(?:at|on|is|(?:number|no|nr)(?: to)?)|[:=#|])\W{0,3}$|\b(?:phone|tel)\W{0,3}$", re.IGNORECASE
)
_WORD_AFTER = re.compile(r"[ -]{1,2}(?:office|fax|mobile|cell|home|desk)\b", re.IGNORECASE)
_SOCIAL_SECURITY = re.compile(r"\d{3}-\d{2}-\d{4}")
#: as issued: no area 000, 666 or 9xx, no group 00, no serial 0000
_ISSUED_SECURITY = re.compile(
    r"(?<![\w.,/+-])(?!000|666|9)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\w/-])(?![.,]\d)"
)
_DATE = re.compile(r"(?:\d{4}([./-])\d{1,2}\1\d{1,2}|\d{1,2}([./-])\d{1,2}\2\d{4})(?!\d)")
_THOUSANDS = re.compile(r"\d{1,3}(?:[ .]\d{3})+")
_REMEMBERED_CHARS = 16_384
_NOT_DIGIT = re.compile(r"\D")


def may_hold_personal_data(text: str) -> bool:
    """Whether a text, or the JSON around many, could hold anything of these kinds; quick, and never wrongly False."""
    return (
        "@" in text
        or _SEVEN_DIGITS.search(text) is not None
        or _DOTTED.search(text) is not None
        or _COLONS.search(text) is not None
    )


def find_personal_data(text: str, kinds: Sequence[str]) -> list[Finding]:
    """Findings of the wanted kinds in order of their place; none overlaps another."""
    wanted = tuple(kinds)
    # turns of one conversation repeat its earlier messages
    return _find_again(text, wanted) if len(text) <= _REMEMBERED_CHARS else _find(text, wanted)


def _find(text: str, kinds: tuple[str, ...]) -> list[Finding]:
    has_digits = _SEVEN_DIGITS.search(text) is not None
    found: list[Finding] = []
    for kind in _ORDER:
        if kind not in kinds or not _may_hold(kind, text, has_digits):
            continue
        for finding in _RECOGNISERS[kind](text):
            if all(finding.end <= other.start or finding.start >= other.end for other in found):
                found.append(finding)
    return sorted(found, key=lambda finding: finding.start)


_find_again = lru_cache(maxsize=4096)(_find)


def _may_hold(kind: str, text: str, has_digits: bool) -> bool:
    if kind == "email":
        return "@" in text
    if kind == "ip":
        return _DOTTED.search(text) is not None or _COLONS.search(text) is not None
    return has_digits


def _emails(text: str) -> Iterator[Finding]:
    for match in _EMAIL.finditer(text):
        yield Finding("email", match.start(), match.end(), match.group().lower())


def _cards(text: str) -> Iterator[Finding]:
    for match in _CARD.finditer(text):
        digits = _NOT_DIGIT.sub("", match.group())
        issuer = _ISSUERS.get(len(digits))
        if issuer is None or not passes_luhn(digits):
            continue
        if issuer.match(digits) or _CARD_WORD.search(text, max(0, match.start() - 40), match.start()):
            yield Finding("card", match.start(), match.end(), digits)


def passes_luhn(digits: str) -> bool:
    """ISO/IEC 7812-1, annex B."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (1 + place % 2)
        total += value - 9 * (value > 9)
    return total % 10 == 0 and digits.strip("0") != ""


def _ibans(text: str) -> Iterator[Finding]:
    for match in _IBAN_START.finditer(text):
        wanted = _IBAN_LENGTHS.get(match.group(1).upper(), 0)
        plain, place = "", match.start()
        while len(plain) < wanted and place < len(text):
            char = text[place]
            if char.isascii() and char.isalnum():
                plain += char
            elif char not in " -" or not text[place - 1].isalnum():
                break
            place += 1
        ends = place >= len(text) or not text[place].isalnum()
        if wanted and len(plain) == wanted and ends and passes_iban_check(plain.upper()):
            yield Finding("iban", match.start(), place, plain.upper())


def passes_iban_check(iban: str) -> bool:
    """ISO 13616: the rearranged number leaves 1 when divided by 97."""
    return int("".join(str(int(char, 36)) for char in iban[4:] + iban[:4])) % 97 == 1


def _addresses(text: str) -> Iterator[Finding]:
    for match in _IPV4.finditer(text):
        if _VERSION_WORD.search(text, max(0, match.start() - 12), match.start()):
            continue
        address = _address(match.group())
        if address is not None:
            yield Finding("ip", match.start(), match.end(), address)
    for match in _IPV6.finditer(text):
        groups = [group for group in match.group().split(":") if group]
        # `std::ab` and `12:30:45` are no addresses
        if len(groups) < 3 and not re.match(r"(?i)fe80|f[cd][0-9a-f]{2}|2[0-9a-f]{3}", match.group()):
            continue
        address = _address(match.group())
        if address is not None and any(char.isdigit() for char in address):
            yield Finding("ip", match.start(), match.end(), address)


def _address(text: str) -> str | None:
    """The address in its canonical form; None where it is none, or says nothing about anybody (loopback, any, broadcast)."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if (
        address.is_loopback
        or address.is_unspecified
        or address.is_multicast
        or str(address) == "255.255.255.255"
    ):
        return None
    return str(address)


def _social_security(text: str) -> Iterator[Finding]:
    for match in _ISSUED_SECURITY.finditer(text):
        yield Finding("ssn", match.start(), match.end(), _NOT_DIGIT.sub("", match.group()))


def _phones(text: str) -> Iterator[Finding]:
    for match in _PHONE_FORMS.finditer(text):
        form, number = match.lastgroup or "", match.group()
        count = len(_digits(number))
        bounds = {"international": (8, 15), "prefixed": (10, 15), "american": (10, 13), "trunk": (9, 12)}[
            form
        ]
        if not bounds[0] <= count <= bounds[1] or _is_other_number(number):
            continue
        if form == "international" and number[1:].isdigit() and count < 10:
            continue  # `+12000000` is a change
        yield Finding("phone", match.start(), match.end(), _phone_identity(number))
    for match in _LOOSE_FORM.finditer(text):
        number = match.group()
        if not 7 <= len(_digits(number)) <= 15 or _is_other_number(number):
            continue
        before = text[max(0, match.start() - 48) : match.start()]
        named_before = _WORD_BEFORE.search(before) and (
            len(number) >= 10 or not number.isdigit() or _NAMES_A_NUMBER.search(before)
        )
        named_after = not (number.isdigit() or _THOUSANDS.fullmatch(number)) and _WORD_AFTER.match(
            text, match.end()
        )
        if named_before or named_after or _CALLED.search(before):
            yield Finding("phone", match.start(), match.end(), _phone_identity(number))


def _is_other_number(number: str) -> bool:
    return bool(_DATE.match(number.lstrip("(+")) or _SOCIAL_SECURITY.fullmatch(number))


def _digits(number: str) -> str:
    return _NOT_DIGIT.sub("", re.split(r" ?(?:x|ext)", number, maxsplit=1)[0])


def _phone_identity(number: str) -> str:
    """The last nine digits: a number is the same with and without its country's prefix."""
    return _digits(number)[-9:]


_RECOGNISERS: Mapping[str, Callable[[str], Iterator[Finding]]] = {
    "email": _emails,
    "iban": _ibans,
    "card": _cards,
    "ip": _addresses,
    "ssn": _social_security,
    "phone": _phones,
}
#: what has a check comes before what has none
_ORDER = ("email", "iban", "card", "ip", "ssn", "phone")
