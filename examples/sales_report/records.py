"""Seeded sales records for the demo: what a sales-report assistant is given.

Owns the two shapes of record (figures to analyse, facts to write as a sentence) and the names in them. Must not know what
a good answer is: neither the stand-in's rules nor the evaluation's checks are imported here, nor these there.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

Record: TypeAlias = dict[str, Any]

REGIONS = (
    "EMEA",
    "APAC",
    "North America",
    "Latin America",
    "Nordics",
    "Iberia",
    "Benelux",
    "Midwest",
    "Pacific Northwest",
    "Greater China",
    "DACH",
    "Southern Europe",
    "Middle East",
    "New England",
    "India",
    "Japan",
)
PRODUCTS = (
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
DRIVERS = (
    "online sales",
    "store sales",
    "partner sales",
    "new customers",
    "repeat orders",
    "the loyalty programme",
    "price changes",
    "product returns",
    "stock shortages",
    "seasonal demand",
    "the spring campaign",
    "corporate accounts",
    "faster delivery",
    "bundle offers",
)

#: names that the log never has
NOVEL_REGIONS = (
    "Baltics",
    "Andes",
    "East Africa",
    "Central Asia",
    "South Island",
    "Caribbean",
    "Québec",
    "Maghreb",
    "Western Balkans",
    "São Paulo State",
    "Gulf Coast",
    "Hokkaido",
)
NOVEL_PRODUCTS = (
    "Kayak Paddle",
    "Head Torch",
    "Climbing Rope",
    "Picnic Set",
    "Thermo Mug",
    "Scooter Pro",
    "Hammock",
    "Trekking Pole",
)
NOVEL_DRIVERS = (
    "gift cards",
    "marketplace listings",
    "subscription renewals",
    "airport kiosks",
    "the referral scheme",
    "wholesale contracts",
    "school uniforms",
    "influencer videos",
    "currency effects",
    "click and collect",
    "the warehouse move",
    "spare parts",
)


CAUSES = ("online", "stores", "partners", "price_effect", "returns_rate", "stock_out_days")
CAUSE_WEIGHTS = (20, 20, 20, 20, 10, 10)


def record_key(record: Record) -> str:
    """One text for one record, whatever the order of its fields."""
    return json.dumps(record, sort_keys=True, ensure_ascii=False)


def figure_records(
    count: int, *, seed: int, novel: bool = False, exclude: Iterable[Record] = ()
) -> list[Record]:
    """`count` different records of sales figures, none of them in `exclude`.

    Fields: `region`, `product`, `period`, `revenue_k` (thousand USD), `growth` (per cent), `online`, `stores`, `partners`,
    `price_effect` (points of growth that each brought), `returns_rate` (per cent of units), `stock_out_days` (in the
    quarter). `novel` takes regions and products that a log made without it never has.
    """
    rng = random.Random(f"figures:{seed}:{novel}")
    regions, products = (NOVEL_REGIONS, NOVEL_PRODUCTS) if novel else (REGIONS, PRODUCTS)
    return _distinct(count, lambda: _figures(rng, regions, products), exclude)


def sentence_records(
    count: int, *, seed: int, novel: bool = False, exclude: Iterable[Record] = ()
) -> list[Record]:
    """`count` different records `{"region", "growth", "driver"}` to be written as a sentence, none of them in `exclude`.

    `growth` is a whole number or has one decimal, and is never 0. `novel` takes regions and drivers that a log made without
    it never has.
    """
    rng = random.Random(f"sentences:{seed}:{novel}")
    regions, drivers = (NOVEL_REGIONS, NOVEL_DRIVERS) if novel else (REGIONS, DRIVERS)

    def draw() -> Record:
        return {
            "region": rng.choice(regions),
            "growth": _growth(rng),
            "driver": rng.choice(drivers),
        }

    return _distinct(count, draw, exclude)


def _distinct(count: int, draw: Callable[[], Record], exclude: Iterable[Record]) -> list[Record]:
    seen = {record_key(record) for record in exclude}
    records: list[Record] = []
    while len(records) < count:
        record = draw()
        if (key := record_key(record)) not in seen:
            seen.add(key)
            records.append(record)
    return records


def _growth(rng: random.Random) -> int | float:
    """Per cent: mostly single and low double digits, up or down, half of them whole numbers."""
    size = min(0.5 + rng.expovariate(1 / 11), 75.0)
    sign = 1 if rng.random() < 0.6 else -1
    return _percent(sign * size, whole=rng.random() < 0.5)


def _percent(value: float, *, whole: bool) -> int | float:
    """Rounded as reports do; never 0."""
    if whole:
        return round(value) or (1 if value >= 0 else -1)
    rounded = round(value, 1)
    return rounded if rounded else (0.1 if value >= 0 else -0.1)


def _figures(rng: random.Random, regions: tuple[str, ...], products: tuple[str, ...]) -> Record:
    """A quarter in which one thing moved the sales, among smaller movements and some red herrings."""
    cause = rng.choices(CAUSES, weights=CAUSE_WEIGHTS)[0]
    trouble = cause in ("returns_rate", "stock_out_days")
    sign = -1.0 if trouble else rng.choice((1.0, -1.0))
    main = sign * (rng.uniform(3.0, 7.5) if rng.random() < 0.5 else rng.uniform(12.5, 20.0))
    points = {
        name: rng.uniform(-0.16, 0.16) * main for name in ("online", "stores", "partners", "price_effect")
    }
    if not trouble:
        points[cause] = main
    returns_rate, stock_out_days = rng.uniform(1.0, 6.0), rng.randint(0, 6)
    if cause == "returns_rate" or rng.random() < 0.3:
        returns_rate = rng.uniform(9.0, 16.0)
    if cause == "stock_out_days" or rng.random() < 0.3:
        stock_out_days = rng.randint(12, 30)
    # what returns and empty shelves cost is in no channel's figure, but in the total
    total = sum(points.values()) + (main if trouble else 0.0)
    return {
        "region": rng.choice(regions),
        "product": rng.choice(products),
        "period": f"{rng.choice((2023, 2024, 2025))}-Q{rng.randint(1, 4)}",
        "revenue_k": rng.randint(120, 9800),
        "growth": _percent(total, whole=False),
        # adding 0 turns a negative zero into a plain one
        **{name: round(value, 1) + 0.0 for name, value in points.items()},
        "returns_rate": round(returns_rate, 1),
        "stock_out_days": stock_out_days,
    }
