from __future__ import annotations

import json

import pytest

from shoal.agents.contract.measures import call_measures, json_measures, label_measures, text_measures


def test_labels_macro_f1_is_the_mean_over_labels_and_confusions_are_counted() -> None:
    expected = ["a"] * 90 + ["b"] * 10
    given = ["A "] * 85 + ["b"] * 5 + ["b"] * 5 + [None] * 5
    measures = label_measures(expected, given)
    f1_a, f1_b = 2 * 85 / (90 + 85), 2 * 5 / (10 + 10)
    assert measures.figures["accuracy"].value == 0.9
    macro = measures.figures["macro_f1"]
    assert macro.value == pytest.approx((f1_a + f1_b) / 2)
    assert macro.low < macro.value < macro.high
    assert measures.confusions == [("a", "b", 5), ("b", "(none)", 5)]


def test_an_answer_that_only_one_call_has_is_not_named() -> None:
    measures = label_measures(["a", "a", "a", "secret of one call"], ["a", "a", "a", "a"])
    assert measures.confusions == [("(another)", "a", 1)]
    named = label_measures(["a", "a", "a", "Rare"], ["a", "a", "a", "a"], known=["rare"])
    assert named.confusions == [("rare", "a", 1)]


def test_json_is_measured_by_validity_whole_and_field() -> None:
    expected = [json.dumps({"who": "Ann", "n": [1, 2], "ok": True})] * 4
    given = [
        '{"ok": true, "n": [1, 2.0], "who": "Ann"}',  # the same, written otherwise
        '```json\n{"who": "Bob", "n": [1, 3], "ok": 1}\n```',  # one of four fields right: 1 is not true
        "no JSON",
        '{"who": "Ann", "n": [1, 2], "ok": true, "more": 0}',
    ]
    figures = json_measures(expected, given).figures
    assert figures["json_valid"].value == 0.75
    assert figures["json_exact"].value == 0.25
    assert figures["fields_right"].value == pytest.approx((4 + 1 + 0 + 4) / 16)
    assert figures["fields_added"].value == pytest.approx(1 / 13)
    fields = json_measures(expected, given).fields
    assert (fields["n[]"].value, fields["n[]"].count) == (pytest.approx(5 / 8), 8)


def test_function_calls_are_measured_by_call_function_and_arguments() -> None:
    book = ("book", '{"city":"Rome","day":3}')
    expected = [[book], [book], [book], [], [], [("find", "{}")]]
    given = [[book], [("book", '{"city":"Rome","day":4}')], [], [], [book], [("book", "{}")]]
    measures = call_measures(expected, given)
    figures = {name: (f.value, f.count) for name, f in measures.figures.items()}
    assert figures["call_or_not"] == (pytest.approx(4 / 6), 6)
    assert figures["no_call"] == (0.5, 2)
    assert figures["function"] == (pytest.approx(2 / 3), 3)
    assert figures["arguments"] == (0.5, 2)
    assert figures["argument_values"] == (0.75, 2)
    assert figures["call_exact"] == (0.25, 4)
    assert measures.functions["book"]["exact"].count == 3
    assert measures.confusions == [("book", "no call", 1), ("find", "book", 1), ("no call", "book", 1)]


def test_texts_are_measured_by_what_they_drop_and_invent_and_by_likeness() -> None:
    expected = [f"Sales in region {n} rose by {n} per cent this quarter." for n in range(20)]
    given: list[str | None] = [*expected[:15], *["Nothing of the kind is known to me at all."] * 4, None]
    errors = [[]] * 15 + [["missing region: 3"]] * 2 + [["invented number: 9"]] * 2 + [[]]
    figures = text_measures(expected, given, errors).figures
    assert (figures["slot_error"].value, figures["slot_error"].count) == (pytest.approx(4 / 19), 19)
    assert figures["slots_missing"].value == figures["slots_invented"].value == pytest.approx(2 / 19)
    pytest.importorskip("sacrebleu")
    bleu = figures["bleu"]
    assert 0.5 < bleu.low < bleu.value < bleu.high < 1
    assert "slot_error" not in text_measures(expected, given, None).figures
