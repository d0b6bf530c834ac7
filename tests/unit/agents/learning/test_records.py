from __future__ import annotations

import time

import pytest

from shoal.agents.learning.records import Leaf, find_record, general_path, parse_record


def pairs(text: str) -> list[tuple[str, object]] | None:
    leaves = parse_record(text)
    return None if leaves is None else [(leaf.path, leaf.value) for leaf in leaves]


def test_a_json_object_is_read_in_its_own_order_with_its_types() -> None:
    assert pairs('{"region": "EMEA", "growth": -12, "share": 0.50, "new": true, "note": null}') == [
        ("region", "EMEA"),
        ("growth", -12),
        ("share", 0.5),
        ("new", True),
        ("note", None),
    ]


def test_the_text_of_a_number_is_the_way_the_prompt_writes_it() -> None:
    assert parse_record('{"a": 12.50, "b": 1e3}') == [Leaf("a", 12.5, "12.50"), Leaf("b", 1000.0, "1e3")]


def test_nested_lists_carry_positions_that_general_path_leaves_out() -> None:
    leaves = parse_record(
        '{"actions": [{"act": "OFFER", "values": ["a", "b"]}, {"act": "BYE", "values": []}]}'
    )
    assert leaves is not None
    assert [leaf.path for leaf in leaves] == [
        "actions[0].act",
        "actions[0].values[0]",
        "actions[0].values[1]",
        "actions[1].act",
        "actions[1].values",
    ]
    assert general_path(leaves[2].path) == "actions[].values[]"


def test_json_within_prose_is_found_and_the_prose_kept() -> None:
    found = find_record('Write this up, please [1]: {"a": {"b": "x"}} as one sentence.')
    assert found is not None
    assert found.leaves == [Leaf("a.b", "x", "x")]
    assert (found.before, found.after) == ("Write this up, please [1]:", "as one sentence.")


def test_bracketed_lists_are_read_with_keys_of_several_words() -> None:
    assert pairs("name[The Eagle], customer rating[1 out of 5], near[]") == [
        ("name", "The Eagle"),
        ("customer rating", "1 out of 5"),
        ("near", ""),
    ]


def test_colon_lines_are_read_below_a_heading() -> None:
    found = find_record("Figures:\nregion: EMEA\n- growth: 12\nsold: 4.5 %\n\nBe brief.")
    assert found is not None
    assert [(leaf.path, leaf.value) for leaf in found.leaves] == [
        ("region", "EMEA"),
        ("growth", 12),
        ("sold", "4.5 %"),
    ]
    assert (found.before, found.after) == ("Figures:", "Be brief.")


def test_colon_pairs_on_one_line_are_read() -> None:
    assert pairs("region: EMEA, growth: 12, driver: online sales") == [
        ("region", "EMEA"),
        ("growth", 12),
        ("driver", "online sales"),
    ]


@pytest.mark.parametrize(
    "text", ["region=EMEA growth=-3 driver='online sales'", "region=EMEA; growth=-3; driver=online sales"]
)
def test_equals_pairs_are_read(text: str) -> None:
    assert pairs(text) == [("region", "EMEA"), ("growth", -3), ("driver", "online sales")]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Can you make exchanges using the EUR?",
        "user: hello\nassistant: hi\nuser: bye",
        "Note: this is a remark, nothing more.",
        "see [1] and [2, 3]",
        "what does items[0] mean here?",
        "{not json}",
        '{"a": NaN}',
        "{}",
        "{" * 5000,
        "[" * 5000,
    ],
)
def test_text_without_a_record_gives_none(text: str) -> None:
    assert parse_record(text) is None


@pytest.mark.parametrize(
    "text", ["aB3_" * 50_000, "Ab " * 50_000, "a=" * 50_000, "a: " * 50_000, '{"a":' * 50_000]
)
def test_endless_text_is_read_in_no_time(text: str) -> None:
    started = time.monotonic()
    parse_record(text)
    assert time.monotonic() - started < 2


def test_a_key_that_comes_twice_gets_positions() -> None:
    assert pairs("tag[a], tag[b]") == [("tag[0]", "a"), ("tag[1]", "b")]


def test_numbers_with_leading_zeros_stay_text() -> None:
    assert pairs("code[007], count[7]") == [("code", "007"), ("count", 7)]
