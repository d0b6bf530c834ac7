"""The demo's sales database: SQLite, seeded, some 100,000 sales of an invented outdoor shop over twelve quarters.

Owns the world and its tables. In each quarter something moved the sales of each region, and something those of each product; what it was is
written nowhere but shows in the figures. Must not know how questions are asked or answered.

    sales(quarter, day, region, product, channel, units, revenue, returned)
    stock_outs(quarter, region, product, days)
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

REGIONS: Final = (
    "EMEA",
    "APAC",
    "North America",
    "Latin America",
    "Nordics",
    "Iberia",
    "Benelux",
    "Midwest",
    "Greater China",
    "New England",
)
PRODUCTS: Final = (
    "Trail Runner",
    "City Backpack",
    "Rain Jacket",
    "Camp Stove",
    "Yoga Mat",
    "Road Bike",
    "Ski Goggles",
    "Water Bottle",
    "Tent Duo",
    "Fleece Vest",
)
CHANNELS: Final = ("online", "stores", "partners")
YEARS: Final = (2023, 2024, 2025)
QUARTERS: Final = tuple(f"{year}-Q{quarter}" for year in YEARS for quarter in (1, 2, 3, 4))

_PRICES: Final = (89.0, 59.0, 129.0, 45.0, 29.0, 949.0, 69.0, 19.0, 219.0, 75.0)
#: what moves sales: three channels, the price, returned goods, empty shelves
_CAUSES: Final = ("online", "stores", "partners", "price", "returns", "stock")
_WEIGHTS: Final = (0.24, 0.24, 0.24, 0.12, 0.08, 0.08)
#: chance that something happens to a region, or to a product, in a quarter
_HAPPENS: Final = (0.9, 0.4)
_SALES_PER_CELL: Final = 28
#: a level that strayed further from where it began is driven back
_LOW, _HIGH = 0.6, 1.7

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class _World:
    """Relative to the first quarter; shape (quarters, regions, products, channels) or without the last."""

    demand: Array
    price: Array
    returns: Array
    stock_days: NDArray[np.int64]


def build_database(path: Path, *, seed: int = 0) -> int:
    """Write the database, whole or not at all; returns the number of sales. The same seed gives the same sales."""
    rng = np.random.default_rng(seed)
    world = _draw(rng)
    draft = path.with_name(f".{path.name}.draft")
    draft.unlink(missing_ok=True)
    with sqlite3.connect(draft) as connection:
        connection.executescript(
            "PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF;"
            "CREATE TABLE sales (quarter TEXT, day TEXT, region TEXT, product TEXT, channel TEXT,"
            " units INTEGER, revenue REAL, returned INTEGER);"
            "CREATE TABLE stock_outs (quarter TEXT, region TEXT, product TEXT, days INTEGER);"
        )
        count = _write_sales(connection, world, rng)
        rows = [
            (QUARTERS[q], REGIONS[r], PRODUCTS[p], int(world.stock_days[q, r, p]))
            for q, r, p in np.ndindex(*world.stock_days.shape)
        ]
        connection.executemany("INSERT INTO stock_outs VALUES (?, ?, ?, ?)", rows)
        connection.execute("CREATE INDEX by_quarter ON sales (quarter, region, product)")
        connection.execute("CREATE INDEX stock_by_quarter ON stock_outs (quarter)")
    connection.close()
    draft.replace(path)
    return count


def _draw(rng: np.random.Generator) -> _World:
    quarters, regions, products, channels = len(QUARTERS), len(REGIONS), len(PRODUCTS), len(CHANNELS)
    demand = np.ones((quarters, regions, products, channels))
    price = np.ones((quarters, regions, products))
    returns = rng.uniform(0.015, 0.05, (quarters, regions, products))
    stock = rng.integers(0, 5, (quarters, regions, products))
    level = np.ones((regions, products, channels))
    prices = np.ones((regions, products))
    for q in range(1, quarters):
        for axis, count in ((0, regions), (1, products)):
            for n in range(count):
                at = (n, slice(None)) if axis == 0 else (slice(None), n)
                if rng.random() > _HAPPENS[axis]:
                    continue
                cause = rng.choice(len(_CAUSES), p=_WEIGHTS)
                _move(rng, _CAUSES[cause], at, q, level, prices, returns, stock)
        demand[q] = level * rng.uniform(0.985, 1.015, level.shape)
        price[q] = prices
    return _World(demand, price, returns, stock)


def _move(
    rng: np.random.Generator,
    cause: str,
    at: tuple[int | slice, int | slice],
    q: int,
    level: Array,
    prices: Array,
    returns: Array,
    stock: NDArray[np.int64],
) -> None:
    """One thing that happens to a region or a product in a quarter. A tenth of what looks like trouble costs nothing."""
    size = rng.uniform(0.18, 0.34) if rng.random() < 0.5 else rng.uniform(0.4, 0.6)
    if cause in ("returns", "stock"):
        if cause == "returns":
            returns[q][at] = rng.uniform(0.1, 0.18)
        else:
            stock[q][at] = rng.integers(13, 30)
        if rng.random() < 0.9:
            level[at] *= 1 - size / 3
        return
    if cause == "price":
        up = prices[at].mean() < _HIGH and (rng.random() < 0.5 or prices[at].mean() < _LOW)
        prices[at] *= 1 + (size if up else -size) / 2.5
        return
    channel = CHANNELS.index(cause)
    now = level[at][..., channel].mean()
    up = now < _LOW or (now < _HIGH and rng.random() < 0.55)
    level[(*at, channel)] *= 1 + size if up else 1 - size


def _write_sales(connection: sqlite3.Connection, world: _World, rng: np.random.Generator) -> int:
    shape = world.demand.shape
    base = rng.uniform(0.7, 1.3, shape[1:]) * 60
    total = 0
    for q in range(shape[0]):
        year, quarter = QUARTERS[q].split("-Q")
        months = [3 * int(quarter) - 2 + n for n in range(3)]
        rows = []
        for r, p, c in np.ndindex(*shape[1:]):
            units = np.maximum(
                1, np.round(base[r, p, c] * world.demand[q, r, p, c] * rng.uniform(0.8, 1.2, _SALES_PER_CELL))
            ).astype(int)
            unit_price = _PRICES[p] * world.price[q, r, p]
            returned = rng.binomial(units, world.returns[q, r, p])
            days = rng.integers(0, 84, _SALES_PER_CELL)
            rows += [
                (
                    QUARTERS[q],
                    f"{year}-{months[day // 28]:02d}-{day % 28 + 1:02d}",
                    REGIONS[r],
                    PRODUCTS[p],
                    CHANNELS[c],
                    int(count),
                    round(float(count) * unit_price, 2),
                    int(back),
                )
                for count, back, day in zip(units, returned, days.tolist(), strict=True)
            ]
        connection.executemany("INSERT INTO sales VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)
        total += len(rows)
    return total
