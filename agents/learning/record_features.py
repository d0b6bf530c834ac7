"""From a record in a prompt to the numbers that decide an answer. Shared by training and serving, so that both see the same.

Numbers are taken as they are and, where they stand side by side, pairwise: rules of business compare figures. Strings count where they
take few values and these go with the answers; names, regions and other open values are left out, so that new ones do not matter.
Lists of any length are summed up. Knows no model.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2_contingency

from shoal.agents.learning.records import Leaf, Scalar, find_record, general_path
from shoal.agents.traces.chat import ChatRequest

Level: TypeAlias = Literal["plain", "pairs", "full"]
LEVELS: tuple[Level, ...] = ("plain", "pairs", "full")

#: numbers that stand side by side are compared pairwise up to this many
_MOST_SIBLINGS = 16
#: as are at most so many for products and ratios
_MOST_FACTORS = 10
_MOST_VALUES = 24
_FREE_VALUES = 3
#: chance of keeping a string that has nothing to do with the answers
_CATEGORY_P = 1e-4
_MOST_NUMBERS = 200
#: what stands for a missing number; below any that records have
_MISSING = -1e12
_BEFORE, _AFTER = "@before", "@after"
_NUMBER = re.compile(
    r"([+-]?)(?:[$€£¥]|[A-Z]{3} )? ?([+-]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?)(?: ?[^\W\d]{1,6}| ?[%°][CF]?)?"
)
_DATE = re.compile(r"(\d{4})-(\d{2})-(\d{2})(?:[T ].*)?")

Record: TypeAlias = Mapping[str, Scalar]
Matrix: TypeAlias = NDArray[np.float32]


def read_record(request: ChatRequest) -> Record | None:
    """The leaves of the record in the newest user message by path, lists summed up; None where it has none."""
    found = find_record(request.last_user_text)
    if found is None:
        return None
    record: dict[str, Scalar] = {leaf.path: leaf.value for leaf in found.leaves}
    record.update(_summaries(found.leaves))
    record[_BEFORE], record[_AFTER] = found.before, found.after
    return record


def _summaries(leaves: Sequence[Leaf]) -> dict[str, Scalar]:
    """Of each place in a list: how many, and the sum, least and greatest of its numbers."""
    lists: dict[str, list[Scalar]] = {}
    for leaf in leaves:
        path = general_path(leaf.path)
        if path != leaf.path:
            lists.setdefault(path, []).append(leaf.value)
    out: dict[str, Scalar] = {}
    for path, values in lists.items():
        out[f"{path}#count"] = len(values)
        numbers = [n for v in values if (n := as_number(v)) is not None]
        if numbers:
            out[f"{path}#sum"] = sum(numbers)
            out[f"{path}#min"] = min(numbers)
            out[f"{path}#max"] = max(numbers)
    return out


def as_number(value: Scalar) -> float | None:
    """A number, also one written with a currency, thousands separators or a unit, or as an ISO date (in days); else None."""
    if value is None or isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        number = float(value)
        return number if math.isfinite(number) else None
    text = value.strip()
    if when := _DATE.fullmatch(text):
        try:
            return float(date(int(when[1]), int(when[2]), int(when[3])).toordinal())
        except ValueError:
            return None
    match = _NUMBER.fullmatch(text)
    if match is None or len(text) > 24:
        return None
    number = float(match[2].replace(",", ""))
    return -number if match[1] == "-" else number


def _parent(path: str) -> str:
    return path.rpartition(".")[0] if "#" not in path else path.rpartition("#")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordSpec:
    """Which columns there are.

    Attributes:
        level: `plain` numbers; `pairs` with differences and which is greatest; `full` with ratios and products too.
        numbers: paths of numbers, in the order of their columns.
        maybe_missing: those of them that are not in every record; each has a flag.
        groups: positions in `numbers` that stand side by side.
        categories: paths of strings and flags with the values that each may take.
    """

    level: Level
    numbers: tuple[str, ...]
    maybe_missing: tuple[str, ...]
    groups: tuple[tuple[int, ...], ...]
    categories: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @classmethod
    def fit(cls, records: Sequence[Record], labels: Sequence[int], level: Level) -> RecordSpec:
        """Decide on the columns from training records and the place of each one's answer."""
        count = len(records)
        present: Counter[str] = Counter()
        numeric: Counter[str] = Counter()
        for record in records:
            for path, value in record.items():
                present[path] += 1
                numeric[path] += as_number(value) is not None
        numbers = [
            path
            for path in sorted(present)
            if numeric[path] >= 0.3 * count
            and numeric[path] >= 0.8 * sum(1 for r in records if r.get(path) is not None)
            and len({as_number(r.get(path)) for r in records}) > 1
        ][:_MOST_NUMBERS]
        chosen = set(numbers)
        categories = {}
        for path in sorted(present):
            if path in chosen or present[path] < 0.3 * count:
                continue
            values = [_category(record.get(path)) for record in records]
            if _telling(values, labels):
                categories[path] = tuple(sorted(set(values)))
        siblings: dict[str, list[int]] = {}
        for i, path in enumerate(numbers):
            # in a small record any two numbers may belong together: an amount and a limit further down
            parent = _parent(path) if len(numbers) > _MOST_SIBLINGS else ""
            siblings.setdefault(parent, []).append(i)
        return cls(
            level=level,
            numbers=tuple(numbers),
            maybe_missing=tuple(p for p in numbers if numeric[p] < count),
            groups=tuple(tuple(g[:_MOST_SIBLINGS]) for g in siblings.values() if len(g) > 1),
            categories=categories,
        )

    def without(self, categories: Sequence[str]) -> RecordSpec:
        kept = {p: v for p, v in self.categories.items() if p not in categories}
        return RecordSpec(
            level=self.level,
            numbers=self.numbers,
            maybe_missing=self.maybe_missing,
            groups=self.groups,
            categories=kept,
        )

    def matrix(self, records: Sequence[Record]) -> Matrix:
        """Shape (records, columns), float32."""
        raw = np.array(
            [[_or_missing(as_number(r.get(p))) for p in self.numbers] for r in records], dtype=np.float64
        ).reshape(len(records), len(self.numbers))
        columns = [raw]
        if self.maybe_missing:
            at = [self.numbers.index(p) for p in self.maybe_missing]
            columns.append((raw[:, at] == _MISSING).astype(np.float64))
        if self.level != "plain":
            columns.append(np.abs(raw))
            columns.extend(self._pairs(raw))
        for path, values in self.categories.items():
            given = [_category(r.get(path)) for r in records]
            columns.append(np.array([[g == v for v in values] for g in given], dtype=np.float64))
        # the forest compares 32-bit numbers, as sklearn's does
        return np.concatenate(columns, axis=1).astype(np.float32)

    def _pairs(self, raw: NDArray[np.float64]) -> list[NDArray[np.float64]]:
        columns = []
        for group in self.groups:
            left, right = (list(side) for side in zip(*itertools.combinations(group, 2), strict=True))
            columns.append(raw[:, left] - raw[:, right])
            columns.append(np.abs(raw[:, left]) - np.abs(raw[:, right]))
            columns.append((raw[:, group] == raw[:, group].max(axis=1, keepdims=True)).astype(np.float64))
            columns.append((raw[:, group] == raw[:, group].min(axis=1, keepdims=True)).astype(np.float64))
            if self.level == "full":
                left, right = (
                    list(side) for side in zip(*itertools.combinations(group[:_MOST_FACTORS], 2), strict=True)
                )
                divisor = np.where(raw[:, right] == 0, 1e-9, raw[:, right])
                columns.append(np.clip(raw[:, left] / divisor, -1e12, 1e12))
                columns.append(np.clip(raw[:, left] * raw[:, right], -1e24, 1e24))
                columns.append(raw[:, left] + raw[:, right])
        return columns

    def column_owners(self, width: int) -> list[str]:
        """For each column the category it belongs to; empty for columns made of numbers."""
        tail = [path for path, values in self.categories.items() for _ in values]
        return [""] * (width - len(tail)) + tail

    def unknown(self, record: Record) -> str:
        """The first category in which this record has a value that training never saw; empty if none."""
        for path, values in self.categories.items():
            if _category(record.get(path)) not in values:
                return path
        return ""

    def missing(self, record: Record) -> str:
        """The first number that every training record had and this one lacks; empty if none."""
        for path in self.numbers:
            if path not in self.maybe_missing and as_number(record.get(path)) is None:
                return path
        return ""

    def to_json(self) -> str:
        return json.dumps(
            {
                "level": self.level,
                "numbers": self.numbers,
                "maybe_missing": self.maybe_missing,
                "groups": self.groups,
                "categories": dict(self.categories),
            },
            ensure_ascii=False,
        )

    @classmethod
    def from_json(cls, text: str) -> RecordSpec:
        data: Any = json.loads(text)
        if data["level"] not in LEVELS:
            raise ValueError(f"level {data['level']!r} is not known")
        return cls(
            level=data["level"],
            numbers=tuple(data["numbers"]),
            maybe_missing=tuple(data["maybe_missing"]),
            groups=tuple(tuple(g) for g in data["groups"]),
            categories={p: tuple(v) for p, v in data["categories"].items()},
        )


def _or_missing(number: float | None) -> float:
    return _MISSING if number is None else number


def _category(value: Scalar) -> str:
    if value is None:
        return ""
    return " ".join(str(value).split()).casefold()


def _telling(values: Sequence[str], labels: Sequence[int]) -> bool:
    """Whether few values are taken and they go with the answers more than chance would have it."""
    different = sorted(set(values))
    if not 2 <= len(different) <= _MOST_VALUES or len(different) > len(values) / 5:
        return False
    answers = sorted(set(labels))
    if len(answers) < 2:
        return False
    table = np.zeros((len(different), len(answers)))
    for value, label in zip(values, labels, strict=True):
        table[different.index(value), answers.index(label)] += 1
    p = float(chi2_contingency(table).pvalue)
    # two or three values cost next to nothing, and may matter only together with a figure
    return p < (_CATEGORY_P if len(different) > _FREE_VALUES else 0.5)
