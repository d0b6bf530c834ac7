"""The outward shape of inputs and answers, and languages."""

from __future__ import annotations

import pytest

from shoal.agents.tasks.language import language_of
from shoal.agents.tasks.shapes import Structure, could_be_label, json_answer_keys, label_style, structure_of


@pytest.mark.parametrize(
    ("text", "structure", "keys"),
    [
        ("", Structure.EMPTY, ()),
        ('{"region": "EMEA", "growth": 12}', Structure.JSON, ("region", "growth")),
        ('[{"id": 1}, {"id": 2}]', Structure.JSON, ("id",)),
        ("{not json}", Structure.TEXT, ()),
        (
            "name[The Mill], eatType[pub], near[Café Adriatic]",
            Structure.KEY_LIST,
            ("name", "eatType", "near"),
        ),
        ("colour=red; size=XL", Structure.KEY_LIST, ("colour", "size")),
        ("name: Mill\narea: river\nfood: Thai", Structure.LINES, ("name", "area", "food")),
        ("Describe this place:\nname: Mill\narea: river", Structure.LINES, ("name", "area")),
        ("user: hello", Structure.TRANSCRIPT, ()),
        ("user: hello\nassistant: hi there\nuser: a table for two", Structure.TRANSCRIPT, ()),
        ("Ann: hello\nBen: hi\nAnn: so\nBen: well", Structure.TRANSCRIPT, ()),
        ("Why was my card declined?", Structure.TEXT, ()),
        ("I have one question: why was my card declined?", Structure.TEXT, ()),
        ('Summarise this record:\n{"region": "EMEA"}', Structure.WITH_JSON, ()),
    ],
)
def test_the_structure_of_an_input_is_told_from_its_layout(
    text: str, structure: Structure, keys: tuple[str, ...]
) -> None:
    assert structure_of(text) == (structure, keys)


@pytest.mark.parametrize(
    ("label", "style"),
    [
        ("card_arrival", "lower"),
        ("billing", "lower"),
        ("Refund_not_shown", "lower"),
        ("top-up", "lower"),
        ("FindMovies", "camel"),
        ("WAIT", "upper"),
        ("Positive", "title"),
        ("7/10", "number"),
    ],
)
def test_label_styles_are_few_and_broad(label: str, style: str) -> None:
    assert label_style(label) == style


def test_sentences_are_no_labels() -> None:
    assert could_be_label("reverted_card_payment?")
    assert could_be_label("very positive")
    assert not could_be_label("Have a nice day.")
    assert not could_be_label("one\ntwo")
    assert not could_be_label("a sentence that goes on for quite some words")


def test_a_json_answer_is_read_also_inside_a_code_fence() -> None:
    assert json_answer_keys('```json\n{"a": 1}\n```') == ("a",)
    assert json_answer_keys("[1, 2]") == ()
    assert json_answer_keys("a: 1") is None


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Why was my card declined in Rio de Janeiro?", "en"),
        ("I need mastercard as well as visa", ""),
        ("Wie kann ich meine Karte aktivieren?", "de"),
        ("Pourquoi ma carte a-t-elle été refusée ?", "fr"),
        ("Карта не работает", "cyrillic"),
        ("我的卡不能用", "han"),
        ("Karte verloren", ""),
        ("ok", ""),
        ("", ""),
    ],
)
def test_a_language_is_named_only_on_plain_evidence(text: str, language: str) -> None:
    assert language_of(text) == language
