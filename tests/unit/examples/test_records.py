from __future__ import annotations

import itertools

import pytest

from shoal.examples.sales_report.records import (
    DRIVERS,
    NOVEL_DRIVERS,
    NOVEL_PRODUCTS,
    NOVEL_REGIONS,
    PRODUCTS,
    REGIONS,
    figure_records,
    record_key,
    sentence_records,
)


def test_the_same_seed_gives_the_same_records_and_another_seed_others() -> None:
    assert figure_records(50, seed=3) == figure_records(50, seed=3)
    assert sentence_records(50, seed=3) == sentence_records(50, seed=3)
    assert figure_records(50, seed=3) != figure_records(50, seed=4)
    assert sentence_records(50, seed=3) != sentence_records(50, seed=4)


@pytest.mark.parametrize("novel", [False, True])
def test_records_are_all_different_and_none_is_excluded(novel: bool) -> None:
    first = sentence_records(300, seed=1, novel=novel)
    second = sentence_records(300, seed=1, novel=novel, exclude=first)
    assert len({record_key(record) for record in first + second}) == 600


def test_novel_names_share_nothing_with_known_ones_not_even_as_a_part() -> None:
    for novel, known in (
        (NOVEL_REGIONS, REGIONS),
        (NOVEL_PRODUCTS, PRODUCTS),
        (NOVEL_DRIVERS, DRIVERS),
    ):
        for a, b in itertools.product(novel, known):
            assert a.casefold() not in b.casefold() and b.casefold() not in a.casefold()
    assert {r["region"] for r in sentence_records(200, seed=0, novel=True)} == set(NOVEL_REGIONS)
    assert {r["driver"] for r in sentence_records(200, seed=0, novel=True)} == set(NOVEL_DRIVERS)
    assert {r["product"] for r in figure_records(200, seed=0, novel=True)} == set(NOVEL_PRODUCTS)


def test_growth_goes_up_and_down_in_whole_and_decimal_per_cent_and_is_never_zero() -> None:
    growths = [record["growth"] for record in sentence_records(500, seed=0)]
    assert all(growths) and max(abs(g) for g in growths) <= 75
    assert 100 < sum(g < 0 for g in growths) < 300
    assert 100 < sum(isinstance(g, int) for g in growths) < 400
    assert all(round(g, 1) == g for g in growths)


def test_figures_are_plausible() -> None:
    for record in figure_records(500, seed=0):
        assert "-0.0" not in str(record)
        assert 0 < record["returns_rate"] < 20 and 0 <= record["stock_out_days"] <= 31
        channels = sum(record[name] for name in ("online", "stores", "partners", "price_effect"))
        # what the channels brought is the growth, but for what returns and empty shelves took
        assert abs(record["growth"] - channels) < 0.3 or record["growth"] < channels
