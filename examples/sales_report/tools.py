"""The demo's tool: sales figures out of the database, read-only, with growth and what made it already computed.

Arguments come from a plan, which a model may have written: they only ever choose among fixed queries and fill their parameters.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from shoal.agents.plans.tools import tool
from shoal.errors import StepFailed
from shoal.examples.sales_report.database import CHANNELS

#: the demo's day: figures must not depend on when it is run
TODAY: Final = "2025-12-15"
_PERIOD = re.compile(r"(\d{4})(?:-Q([1-4]))?")
_MOST = 20

_NUMBER = {"type": "number"}
INPUT: Final = {
    "type": "object",
    "required": ["period", "by"],
    "additionalProperties": False,
    "properties": {
        "period": {
            "type": "string",
            "description": "this quarter, last quarter, this year, last year, 2025 or 2025-Q2",
        },
        "by": {"enum": ["region", "product"]},
        "where": {
            "type": "object",
            "additionalProperties": False,
            "maxProperties": 1,
            "properties": {"region": {"type": "string"}, "product": {"type": "string"}},
        },
        "top": {"type": "integer", "minimum": 1, "maximum": _MOST},
    },
}
OUTPUT: Final = {
    "type": "object",
    "required": ["period", "records"],
    "properties": {
        "period": {"type": "string"},
        "records": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["name", "period", "revenue_k", "growth", *CHANNELS, "price_effect"],
                "properties": {
                    "name": {"type": "string"},
                    "period": {"type": "string"},
                    "revenue_k": _NUMBER,
                    "growth": _NUMBER,
                    **dict.fromkeys(CHANNELS, _NUMBER),
                    "price_effect": _NUMBER,
                    "returns_rate": _NUMBER,
                    "stock_out_days": _NUMBER,
                },
            },
        },
    },
}

#: one query for each filter; columns are never put together from arguments
_SALES: Final = {
    filtered: (
        "SELECT quarter, region, product, channel, SUM(units), SUM(revenue), SUM(returned) FROM sales "
        f"WHERE quarter IN (SELECT value FROM json_each(?)) AND {condition} GROUP BY quarter, region, product, channel"
    )
    for filtered, condition in (("", "? = ''"), ("region", "region = ?"), ("product", "product = ?"))
}
_STOCK: Final = {
    filtered: (
        "SELECT region, product, SUM(days) FROM stock_outs "
        f"WHERE quarter IN (SELECT value FROM json_each(?)) AND {condition} GROUP BY region, product"
    )
    for filtered, condition in (("", "? = ''"), ("region", "region = ?"), ("product", "product = ?"))
}


def quarters_of(period: str, today: str = TODAY) -> tuple[list[str], list[str]]:
    """The quarters of a period, and those of the period before it. Raises StepFailed."""
    year, quarter = int(today[:4]), (int(today[5:7]) - 1) // 3 + 1
    said = period.strip().lower().replace("_", " ")
    if said == "this quarter":
        number = 4 * year + quarter - 1
    elif said == "last quarter":
        number = 4 * year + quarter - 2
    elif said in ("this year", "last year"):
        return _year(year if said == "this year" else year - 1)
    elif match := _PERIOD.fullmatch(period.strip()):
        if match[2] is None:
            return _year(int(match[1]))
        number = 4 * int(match[1]) + int(match[2]) - 1
    else:
        raise StepFailed(
            f"`period` must be this quarter, last quarter, this year, last year, YYYY or YYYY-Qn, got {period[:40]!r}."
        )
    return [_named(number)], [_named(number - 1)]


def _year(year: int) -> tuple[list[str], list[str]]:
    return [f"{year}-Q{n}" for n in (1, 2, 3, 4)], [f"{year - 1}-Q{n}" for n in (1, 2, 3, 4)]


def _named(number: int) -> str:
    return f"{number // 4}-Q{number % 4 + 1}"


@tool(
    description="Sales of a period by region or product against the period before: revenue, growth in per cent, the points of "
    "growth that each channel and the price brought, returns, days out of stock. `where` keeps to one region or product.",
    input=INPUT,
    output=OUTPUT,
    reach="node",
)
def sales_figures(arguments: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """`options`: `database`, a path; `today`, an ISO date."""
    period = str(arguments["period"])
    now, before = quarters_of(period, str(options.get("today", TODAY)))
    where: Mapping[str, str] = arguments.get("where") or {}
    filtered, value = next(iter(where.items()), ("", ""))
    shown = now[0] if len(now) == 1 else now[0][:4]
    with closing(_open(options)) as connection:
        sales = connection.execute(_SALES[filtered], (_json([*now, *before]), value)).fetchall()
        stock = connection.execute(_STOCK[filtered], (_json(now), value)).fetchall()
    records = figures(sales, stock, by=str(arguments["by"]), now=now, period=shown)
    records.sort(key=lambda record: (-abs(record["growth"]), record["name"]))
    return {"period": shown, "records": records[: int(arguments.get("top", 5))]}


def _open(options: Mapping[str, Any]) -> sqlite3.Connection:
    path = Path(str(options.get("database", "")))
    if not path.is_file():
        raise StepFailed(f"There is no sales database at {path}.", remedy="Set the tool's option `database`.")
    connection = sqlite3.connect(f"file:{path.absolute().as_posix()}?mode=ro", uri=True)
    connection.execute("PRAGMA query_only=ON")
    return connection


def _json(names: Sequence[str]) -> str:
    return "[" + ",".join(f'"{name}"' for name in names) + "]"


def figures(
    sales: Sequence[Sequence[Any]],
    stock: Sequence[Sequence[Any]],
    *,
    by: str,
    now: Sequence[str],
    period: str,
) -> list[dict[str, Any]]:
    """Growth of each group and what made it.

    The price's part is what today's units cost more than at the prices before; a channel's part is its change at the prices before.
    So the four parts add up to the growth.

    Args:
        sales: rows of quarter, region, product, channel, units, revenue, returned units, of both periods.
        stock: rows of region, product, days out of stock.
    """
    column = 0 if by == "region" else 1
    cells: dict[tuple[str, str], dict[str, dict[bool, list[float]]]] = {}
    for quarter, region, product, channel, units, revenue, returned in sales:
        sums = (
            cells.setdefault((region, product), {})
            .setdefault(channel, {})
            .setdefault(quarter in now, [0.0, 0.0, 0.0])
        )
        for place, amount in enumerate((units, revenue, returned)):
            sums[place] += amount
    days: dict[str, list[float]] = {}
    for row in stock:
        days.setdefault(row[column], []).append(row[2])
    groups: dict[str, list[dict[str, dict[bool, list[float]]]]] = {}
    for key, channels in cells.items():
        groups.setdefault(key[column], []).append(channels)
    return [
        record
        for name, members in sorted(groups.items())
        if (record := _record(name, members, days.get(name, []), period)) is not None
    ]


def _record(
    name: str,
    members: Sequence[Mapping[str, Mapping[bool, Sequence[float]]]],
    days: Sequence[float],
    period: str,
) -> dict[str, Any] | None:
    nothing = (0.0, 0.0, 0.0)
    before = sum(c.get(False, nothing)[1] for member in members for c in member.values())
    if before <= 0:
        return None  # there is nothing to grow from
    revenue = units = returned = price_part = 0.0
    parts = dict.fromkeys(CHANNELS, 0.0)
    for member in members:
        old_units = sum(c.get(False, nothing)[0] for c in member.values())
        old_price = sum(c.get(False, nothing)[1] for c in member.values()) / old_units if old_units else 0.0
        for channel, sums in member.items():
            old, new = sums.get(False, nothing), sums.get(True, nothing)
            parts[channel] += new[0] * old_price - old[1]
            price_part += new[1] - new[0] * old_price
            revenue, units, returned = revenue + new[1], units + new[0], returned + new[2]

    def points(amount: float) -> float:
        return round(100 * amount / before, 1) + 0.0

    return {
        "name": name,
        "period": period,
        "revenue_k": round(revenue / 1000, 1),
        "growth": points(revenue - before),
        **{channel: points(parts[channel]) for channel in CHANNELS},
        "price_effect": points(price_part),
        "returns_rate": round(100 * returned / units, 1) if units else 0.0,
        "stock_out_days": round(sum(days) / len(days)) if days else 0,
    }
