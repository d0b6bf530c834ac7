from __future__ import annotations

import json
from typing import Any

import pytest

from shoal.examples.sales_report.prompts import ANALYSE, WRITE
from shoal.examples.sales_report.scoring import (
    Price,
    Row,
    broken_promises,
    call_site_figures,
    direction_kept,
    flat_figures,
    percentile,
    round_figures,
    same_json,
    values_carried,
)

RECORD = {"region": "São Paulo State", "growth": -3.5, "driver": "gift cards"}
SENTENCE = "Revenue in São Paulo State fell 3.5%, mainly on account of gift cards."
SPECIALIST, GENERALIST = "specialist/sales@1", "generalist/stand-in-generalist"


def write_row(answer: str | None, served_by: str = SPECIALIST, **more: Any) -> Row:
    return Row(call_site=WRITE, record=RECORD, answer=answer, served_by=served_by, **more)


def analyse_row(answer: str, served_by: str = SPECIALIST, **more: Any) -> Row:
    reference = json.dumps({"driver": "pricing", "action": "x"})
    return Row(
        call_site=ANALYSE,
        record={"growth": 1},
        answer=answer,
        served_by=served_by,
        reference=reference,
        **more,
    )


@pytest.mark.parametrize(
    ("sentence", "region", "growth", "driver"),
    [
        (SENTENCE, True, True, True),
        ("são paulo state: GIFT CARDS, 3.50 per cent", True, True, True),
        ("Revenue in Sao Paulo fell 3.5% on gift vouchers.", False, True, False),
        ("Revenue in São Paulo State fell 13.5%: gift cards.", True, False, True),
        ("Revenue in São Paulo State fell 3.51%: gift cards.", True, False, True),
        ("Revenue in São Paulo State fell 3%: gift cards.", True, False, True),
        ("", False, False, False),
        (None, False, False, False),
    ],
)
def test_values_count_only_when_they_stand_whole_in_the_sentence(
    sentence: str | None, region: bool, growth: bool, driver: bool
) -> None:
    assert values_carried(RECORD, sentence) == {"region": region, "growth": growth, "driver": driver}


def test_a_whole_number_is_not_found_inside_another() -> None:
    record = {"region": "EMEA", "growth": 12, "driver": "online sales"}
    assert values_carried(record, "EMEA grew 12%.")["growth"]
    assert values_carried(record, "EMEA grew by 12.")["growth"]
    assert not values_carried(record, "EMEA grew 12.5%.")["growth"]
    assert not values_carried(record, "EMEA grew 112%.")["growth"]
    assert not values_carried(record, "EMEA grew 0.12%.")["growth"]


def test_direction_is_read_outside_the_records_own_values() -> None:
    record = {"region": "Upper Falls", "growth": 4, "driver": "lower prices"}
    assert direction_kept(record, "Upper Falls rose 4% on lower prices.")
    assert not direction_kept(record, "Upper Falls fell 4% on lower prices.")
    assert not direction_kept(record, "Upper Falls, 4%, lower prices.")
    assert direction_kept({**record, "growth": -4}, "Upper Falls shrank 4% on lower prices.")


def test_json_is_compared_as_values_not_as_text() -> None:
    assert same_json('{"a": 1, "b": 2}', '{"b":2,"a":1}')
    assert not same_json('{"a": 1}', '{"a": 2}')
    assert not same_json("not JSON", "not JSON")
    assert not same_json(None, "{}")


def test_percentiles_are_values_that_occurred() -> None:
    values = [float(n) for n in range(1, 101)]
    assert (percentile(values, 0.5), percentile(values, 0.95), percentile([7.0], 0.95)) == (50, 95, 7)
    assert percentile([], 0.5) is None


def test_a_specialist_costs_no_tokens_and_the_generalist_its_stated_price() -> None:
    rows = [
        write_row(SENTENCE, GENERALIST, prompt_tokens=1000, completion_tokens=100, latency_ms=120),
        write_row(SENTENCE, SPECIALIST, prompt_tokens=1000, completion_tokens=100, latency_ms=20),
    ]
    figures = round_figures("after", rows, Price(2.5, 10))
    assert figures["cost_usd_per_1000"] == pytest.approx(1.75)
    assert figures["specialist_share"] == 0.5 and figures["specialist_latency_p50_ms"] == 20
    assert figures["call_sites"][WRITE]["calls"] == 2 and figures["call_sites"][ANALYSE]["calls"] == 0


def test_quality_counts_what_specialists_answered_and_shows_what_was_wrong() -> None:
    right, wrong = '{"action": "x", "driver": "pricing"}', '{"driver": "online sales", "action": "x"}'
    rows = [
        analyse_row(right),
        analyse_row(right, novel=True),
        analyse_row(wrong, novel=True),
        analyse_row(right, GENERALIST),
        write_row(SENTENCE, novel=True),
        write_row("Nothing here.", GENERALIST),
    ]
    figures = call_site_figures(rows)
    assert figures[ANALYSE]["specialist_share"] == 0.75
    assert figures[ANALYSE]["specialist_share_novel"] == 1.0
    assert figures[ANALYSE]["agreement"] == pytest.approx(2 / 3)
    assert figures[ANALYSE]["agreement_all"] == pytest.approx(3 / 4)
    assert [d["answer"] for d in figures[ANALYSE]["disagreements"]] == [wrong]
    assert figures[WRITE]["values_carried"] == 1.0 and figures[WRITE]["values_carried_all"] == 0.5
    assert flat_figures(figures, 123.44) == {
        "demo_seconds": 123.4,
        "demo_specialist_share": 0.5,
        "demo_structured_agreement": pytest.approx(2 / 3),
    }
    assert [text.partition(":")[0] for text in broken_promises(figures, 0)] == [WRITE, ANALYSE, WRITE]


def test_a_call_site_that_no_specialist_answered_has_no_agreement_and_breaks_the_promise() -> None:
    rows = [analyse_row("{}", GENERALIST), write_row(None, "", error="connection refused")]
    figures = call_site_figures(rows)
    assert figures[ANALYSE]["agreement"] is None
    assert "demo_structured_agreement" not in flat_figures(figures, 1)
    broken = broken_promises(figures, 1)
    assert broken[0] == "1 calls got no answer" and len(broken) == 4
    assert round_figures("after", rows, Price(0, 0))["failed"] == 1
