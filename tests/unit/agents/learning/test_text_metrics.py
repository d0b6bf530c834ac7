from __future__ import annotations

import pytest

pytest.importorskip("sacrebleu")

import sacrebleu

from shoal.agents.learning.text_metrics import bleu, chrf, slot_error, values_error

TEXTS = ["The Mill is a cheap pub by the river.", "Nothing here matches.", "Clowns serves Chinese food."] * 5
REFERENCES = [
    ["The Mill is a pub by the river. It is cheap.", "the mill is a cheap pub near the river."],
    ["Green Man is an expensive restaurant in the city centre."],
    ["Clowns serves Chinese food.", "Clowns has Chinese food.", "There is Chinese food at Clowns."],
] * 5


def test_bleu_and_its_casing_are_sacrebleus_own_with_an_interval_around() -> None:
    streams = [[own[i] if i < len(own) else None for own in REFERENCES] for i in range(3)]
    for lowercase in (True, False):
        wanted = sacrebleu.BLEU(lowercase=lowercase).corpus_score(TEXTS, streams).score
        figure = bleu(TEXTS, REFERENCES, lowercase=lowercase)
        assert figure.value == pytest.approx(wanted, abs=1e-6)
        assert figure.low < figure.value < figure.high
        assert figure.count == 15
    assert bleu(TEXTS, REFERENCES) == bleu(TEXTS, REFERENCES)


def test_an_empty_text_costs_bleu_and_chrf() -> None:
    emptied = ["", *TEXTS[1:]]
    assert bleu(emptied, REFERENCES).value < bleu(TEXTS, REFERENCES).value
    assert chrf(emptied, REFERENCES).value < chrf(TEXTS, REFERENCES).value


def test_chrf_takes_the_likest_reference() -> None:
    figure = chrf(["Clowns serves Chinese food."], [["Something else.", "Clowns serves Chinese food."]])
    assert figure.value == figure.low == figure.high == 100.0


def test_slot_errors_count_texts_and_values() -> None:
    by_text = slot_error([["missing name"], [], ["missing area", "invented near"], []])
    assert by_text.value == 0.5 and by_text.low < 0.5 < by_text.high
    by_value = values_error([1, 0, 2, 0], [4, 4, 4, 4])
    assert by_value.value == 3 / 16 and by_value.low < 3 / 16 < by_value.high


def test_texts_without_references_are_refused_with_the_count() -> None:
    with pytest.raises(ValueError, match="1 of them empty"):
        bleu(["a", "b"], [["a"], []])
    with pytest.raises(ValueError, match="got none"):
        values_error([0], [0])
