"""How values said in a conversation become arguments: rules chosen by what the log's calls show. Pure.

Learnt for each argument: of which sort its values are, how dates, times and numbers are written, which changes of case occur,
which values recur and which words stand for them. And for each form of date or time, which of its readings is meant.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from shoal.agents.learning.calls.mentions import DATE, NUMBER, TIME, Mention, Read, shape_of, words_of
from shoal.agents.learning.calls.schema import ArgSpec

CLOSED, TEXT, COMPOUND = "closed", "text", "compound"
#: a value that is made up, not found: a summary, say. Such an argument is never given
MADE_UP = "made up"

_DATES = (
    "%Y-%m-%d",
    "%m/%d/%Y",
    "%d/%m/%Y",
    "%Y/%m/%d",
    "%d.%m.%Y",
    "%B %d, %Y",
    "%b %d, %Y",
    "%d %B %Y",
    "%m-%d-%Y",
    "%d-%m-%Y",
    "%Y%m%d",
)
_TIMES = ("%H:%M", "%H:%M:%S", "%I:%M %p", "%I:%M%p", "%I %p", "%I%p", "%Hh%M")
#: of an argument's values, so many must be dates for it to take dates
_SORT_SHARE = 0.8
_ISO, _CLOCK = "%Y-%m-%d", "%H:%M"
#: a recurring value is one that so many conversations have
_RECURS = 2
#: a value that this share of an argument's calls have is always a candidate
_CONSTANT_SHARE = 0.05
#: outlines of values are relied on from so many conversations on, and where new ones come less often than this
_SHAPED, _NEW_SHAPE = 20, 0.02
_CASES = {"title": str.title, "lower": str.lower, "upper": str.upper, "capital": str.capitalize}


@dataclass(frozen=True, slots=True)
class Known:
    """One argument in one training call: its value, if it has one, and the conversation around it."""

    arg: ArgSpec
    value: Any
    given: bool
    read: Read
    group: str


@dataclass
class Manner:
    """How one argument's values come about.

    Attributes:
        sort: `date`, `time`, `number`, `closed` (its enum), `text`, `compound` or `made up`.
        style: the format of dates and times; for numbers the count of decimals.
        cases: changes of case that occur.
        constants: values always to be considered.
        omitted: some of its calls leave it out.
        recurring: values seen in several conversations, with how many.
        shapes: outlines of its values, where new ones are not to be expected; empty where they are.
    """

    sort: str
    style: str = ""
    cases: tuple[str, ...] = ()
    constants: tuple[Any, ...] = ()
    omitted: bool = True
    recurring: dict[str, int] = field(default_factory=dict)
    shapes: frozenset[str] = frozenset()

    def to_dict(self) -> dict[str, Any]:
        return {
            "sort": self.sort,
            "style": self.style,
            "cases": list(self.cases),
            "constants": list(self.constants),
            "omitted": self.omitted,
            "recurring": self.recurring,
            "shapes": sorted(self.shapes),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Manner:
        return cls(
            sort=str(data["sort"]),
            style=str(data["style"]),
            cases=tuple(map(str, data["cases"])),
            constants=tuple(data["constants"]),
            omitted=bool(data["omitted"]),
            recurring={str(k): int(v) for k, v in data["recurring"].items()},
            shapes=frozenset(map(str, data["shapes"])),
        )


@dataclass
class Readings:
    """Which reading of a date or time is meant, by the expression's form; by its sort where the form was never seen."""

    by_form: dict[str, str] = field(default_factory=dict)
    by_sort: dict[str, str] = field(default_factory=dict)

    def of(self, mention: Mention) -> str:
        """The value that the mention most likely stands for: an ISO date or a 24-hour time."""
        rule = self.by_form.get(f"{mention.kind} {mention.form}") or self.by_sort.get(_sort(mention))
        return mention.readings.get(rule or "") or next(iter(mention.readings.values()))


def learn_readings(known: Iterable[Known], manners: Mapping[str, Manner]) -> Readings:
    """Counts, for each form, the readings that give the value that the log has."""
    forms: dict[str, Counter[str]] = defaultdict(Counter)
    sorts: dict[str, Counter[str]] = defaultdict(Counter)
    seen: set[tuple[str, str, str, str]] = set()
    for one in known:
        manner = manners[one.arg.key]
        if not one.given or manner.sort not in (DATE, TIME):
            continue
        meant = plain_when(str(one.value), manner)
        for mention in one.read.mentions:
            if mention.kind != manner.sort:
                continue
            mark = (one.group, mention.kind, mention.surface, meant)
            if mark in seen:
                continue
            seen.add(mark)
            for rule, value in mention.readings.items():
                if value == meant:
                    forms[f"{mention.kind} {mention.form}"][rule] += 1
                    sorts[_sort(mention)][rule] += 1
    return Readings(
        {f: _most(c) for f, c in sorted(forms.items())}, {s: _most(c) for s, c in sorted(sorts.items())}
    )


def _most(counts: Counter[str]) -> str:
    # of rules that fit equally often, the first that was counted: readings come in the order of their plainness
    return max(counts, key=lambda rule: counts[rule])


def _sort(mention: Mention) -> str:
    return f"{mention.kind} {' '.join(mention.readings)}"


def learn_manners(known: Sequence[Known]) -> dict[str, Manner]:
    """Each argument's manner, by its key."""
    own: dict[str, list[Known]] = defaultdict(list)
    for one in known:
        own[one.arg.key].append(one)
    return {key: _manner(ones) for key, ones in sorted(own.items())}


def _manner(ones: Sequence[Known]) -> Manner:
    given = [one for one in ones if one.given]
    omitted = len(given) < len(ones)
    sort, style = _sort_of(ones[0].arg, [one.value for one in given])
    groups: dict[str, set[str]] = defaultdict(set)
    counts: Counter[str] = Counter()
    for one in given:
        if isinstance(one.value, str | int | float | bool):
            groups[str(one.value)].add(one.group)
            counts[str(one.value)] += 1
    by_text = {str(one.value): one.value for one in given}
    constants = tuple(
        by_text[text] for text, n in sorted(counts.items()) if n >= max(_RECURS, _CONSTANT_SHARE * len(given))
    )
    if sort in (DATE, TIME, NUMBER, COMPOUND):
        return Manner(sort, style, constants=constants if sort == NUMBER else (), omitted=omitted)
    recurring = {text: len(g) for text, g in sorted(groups.items()) if len(g) >= _RECURS}
    return Manner(
        sort,
        style,
        cases=_cases(given) if sort == TEXT else (),
        constants=constants,
        omitted=omitted,
        recurring=recurring if sort == TEXT else {},
        shapes=_shapes(groups) if sort == TEXT else frozenset(),
    )


def _shapes(groups: Mapping[str, set[str]]) -> frozenset[str]:
    """The values' outlines, if the next conversation will hardly bring a new one (Good's estimate)."""
    owners: dict[str, set[str]] = defaultdict(set)
    for text, own in groups.items():
        owners[shape_of(text)] |= own
    calls = sum(map(len, owners.values()))
    once = sum(len(own) == 1 for own in owners.values())
    return frozenset(owners) if calls >= _SHAPED and once <= _NEW_SHAPE * calls else frozenset()


def _sort_of(arg: ArgSpec, values: Sequence[Any]) -> tuple[str, str]:
    if arg.enum:
        return CLOSED, ""
    if arg.type in ("array", "object"):
        return COMPOUND, ""
    if not values:
        return TEXT, ""
    if any(isinstance(v, dict | list) for v in values):
        return COMPOUND, ""
    texts = [str(v) for v in values]
    for sort, styles in ((DATE, _DATES), (TIME, _TIMES)):
        fits = {style: sum(_when(text, style) is not None for text in texts) for style in styles}
        best = max(styles, key=lambda style: fits[style])
        if fits[best] >= _SORT_SHARE * len(texts):
            return sort, best
    if arg.type in ("integer", "number"):
        return NUMBER, ""
    decimals = Counter(len(t.partition(".")[2]) for t in texts if _is_number(t))
    if decimals.total() >= 0.95 * len(texts) and len(set(texts)) > 1:
        return NUMBER, str(decimals.most_common(1)[0][0]) if len(decimals) == 1 else ""
    return TEXT, ""


def _cases(given: Sequence[Known]) -> tuple[str, ...]:
    """Changes of case without which some values cannot be had from the words that stand there."""
    found: Counter[str] = Counter()
    for one in given:
        surfaces = {m.surface for m in one.read.mentions}
        if str(one.value) in surfaces:
            continue
        for name, change in _CASES.items():
            if any(change(s) == one.value for s in surfaces):
                found[name] += 1
                break
    return tuple(sorted(name for name, n in found.items() if n >= max(_RECURS, 0.01 * len(given))))


def changed(surface: str, manner: Manner) -> list[tuple[str, str]]:
    """(case, text) for every way in which the words may be written."""
    return [(name, _CASES[name](surface)) for name in manner.cases if _CASES[name](surface) != surface]


def _when(text: str, style: str) -> datetime | None:
    try:
        return datetime.strptime(text, style)
    except ValueError:
        return None


def plain_when(text: str, manner: Manner) -> str:
    """A date or time as ISO date or 24-hour time; as it is where it does not have the argument's format."""
    found = _when(text, manner.style)
    return text if found is None else found.strftime(_ISO if manner.sort == DATE else _CLOCK)


def styled(plain: str, manner: Manner) -> str:
    """An ISO date or 24-hour time in the argument's format."""
    found = _when(plain, _ISO if manner.sort == DATE else _CLOCK)
    return plain if found is None else found.strftime(manner.style)


def number(text: str, arg: ArgSpec, manner: Manner) -> Any:
    """A number as the argument takes it; None where it cannot."""
    bare = text.lstrip("$€£#").replace(",", "")
    if not _is_number(bare):
        return None
    if arg.type == "integer":
        return int(float(bare)) if float(bare).is_integer() else None
    if arg.type == "number":
        return int(float(bare)) if float(bare).is_integer() else float(bare)
    return f"{float(bare):.{int(manner.style)}f}" if manner.style else bare


def _is_number(text: str) -> bool:
    try:
        value = float(text)
    except ValueError:
        return False
    return value == value and abs(value) < 1e15


def stands(value: Any, read: Read) -> bool:
    """Whether the value's words stand in the conversation, whatever their case."""
    words = words_of(str(value))
    return bool(words) and bool(read.places(words))
