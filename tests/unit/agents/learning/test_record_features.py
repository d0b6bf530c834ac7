import json

import pytest

from shoal.agents.learning.record_features import LEVELS, RecordSpec, as_number, read_record
from shoal.agents.traces.chat import ChatRequest


def _request(text: str) -> ChatRequest:
    return ChatRequest(body={"messages": [{"role": "user", "content": text}]})


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (3, 3.0),
        (True, None),
        (None, None),
        ("12%", 12.0),
        ("$1,200.50", 1200.5),
        ("-7", -7.0),
        ("7 days", 7.0),
        ("-$5", -5.0),
        ("EUR 3.5", 3.5),
        ("70 °C", 70.0),
        ("Q1", None),
        ("2024-Q1", None),
        ("SN123456789", None),
        ("2024-01-02", 738887.0),
        ("2024-13-02", None),
        ("red", None),
        (float("inf"), None),
    ],
)
def test_numbers_are_read_however_they_are_written(value: object, number: float | None) -> None:
    assert as_number(value) == number  # type: ignore[arg-type]


def test_lists_are_summed_up() -> None:
    record = read_record(_request('{"items": [{"price": 2}, {"price": 5}]}'))
    assert record is not None
    assert {k: v for k, v in record.items() if "#" in k} == {
        "items[].price#count": 2,
        "items[].price#sum": 7.0,
        "items[].price#min": 2.0,
        "items[].price#max": 5.0,
    }


def test_a_text_without_a_record_has_none() -> None:
    assert read_record(_request("hello there")) is None


RECORDS = [
    {"name": f"n{i}", "kind": "ab"[i % 2], "x": i, "y": 100 - i, "deep": {"z": i % 7}}
    | ({} if i % 4 else {"gap": i})
    for i in range(100)
]
READ = [r for record in RECORDS if (r := read_record(_request(json.dumps(record)))) is not None]
LABELS = [i % 2 for i in range(100)]


def test_open_strings_are_left_out_and_telling_ones_kept() -> None:
    spec = RecordSpec.fit(READ, LABELS, "plain")
    assert spec.numbers == ("deep.z", "x", "y")
    assert dict(spec.categories) == {"kind": ("a", "b")}


def test_strings_that_have_nothing_to_do_with_the_answers_are_left_out() -> None:
    records = [{**r, "region": f"r{i % 9}"} for i, r in enumerate(READ)]
    assert "region" not in RecordSpec.fit(records, LABELS, "plain").categories


def test_numbers_that_may_be_missing_have_a_flag() -> None:
    records = [{"x": i} if i % 2 else {"x": i, "gap": i} for i in range(100)]
    spec = RecordSpec.fit(records, LABELS, "plain")
    assert spec.maybe_missing == ("gap",)
    flags = spec.matrix(records)[:, -1]
    assert flags.tolist() == [float(i % 2) for i in range(100)]
    assert spec.missing({"x": 1}) == ""
    assert spec.missing({"gap": 1}) == "x"


def test_pairs_hold_differences_and_which_is_greatest() -> None:
    records = [{"a": a, "b": b} for a, b in ((1, 5), (4, 2), (3, 3))]
    spec = RecordSpec.fit(records, [0, 1, 1], "pairs")
    rows = spec.matrix(records).tolist()
    # a, b, |a|, |b|, a - b, |a| - |b|, greatest a b, least a b
    assert rows[0] == [1, 5, 1, 5, -4, -4, 0, 1, 1, 0]
    assert rows[1] == [4, 2, 4, 2, 2, 2, 1, 0, 0, 1]
    assert rows[2] == [3, 3, 3, 3, 0, 0, 1, 1, 1, 1]


def test_an_unknown_value_of_a_telling_string_is_named() -> None:
    spec = RecordSpec.fit(READ, LABELS, "plain")
    assert spec.unknown({**READ[0], "kind": "c"}) == "kind"
    assert spec.unknown({**READ[0], "name": "new"}) == ""
    assert spec.without(["kind"]).unknown({**READ[0], "kind": "c"}) == ""


@pytest.mark.parametrize("level", LEVELS)
def test_a_spec_survives_its_json_and_gives_the_same_columns(level: str) -> None:
    spec = RecordSpec.fit(READ, LABELS, level)  # type: ignore[arg-type]
    again = RecordSpec.from_json(spec.to_json())
    assert again == spec
    assert (again.matrix(READ) == spec.matrix(READ)).all()
    assert len(spec.column_owners(spec.matrix(READ).shape[1])) == spec.matrix(READ).shape[1]


def test_a_record_of_large_numbers_stays_finite() -> None:
    records = [{"a": 10**30 * (i + 1), "b": i} for i in range(20)]
    spec = RecordSpec.fit(records, [i % 2 for i in range(20)], "full")
    import numpy as np

    assert np.isfinite(spec.matrix(records)).all()
