import numpy as np
import pytest

from shoal.agents.learning.text_features import Reading, Vocabulary, encode_all, has_context
from shoal.agents.traces.chat import ChatRequest


def _request(text: str, *before: tuple[str, str], system: str = "") -> ChatRequest:
    messages = [{"role": "system", "content": system}] if system else []
    messages += [{"role": role, "content": said} for role, said in before]
    return ChatRequest(body={"messages": [*messages, {"role": "user", "content": text}]})


TEXTS = ["my card is lost", "my card was stolen", "send money abroad", "money sent to a friend"]


def _vocabulary(*, reading: Reading | None = None, max_rows: int = 1000) -> Vocabulary:
    requests = [_request(t) for t in TEXTS]
    return Vocabulary.fit(requests, [-1] * 4, reading=reading or Reading(), min_calls=2, max_rows=max_rows)


def test_only_ngrams_of_several_calls_are_known() -> None:
    vocabulary = _vocabulary()
    assert {"my", "card", "my card", "money"} == set(vocabulary.terms["w"])
    assert " card " not in vocabulary.terms["c"]
    assert " car" in vocabulary.terms["c"]


def test_each_field_has_norm_one() -> None:
    vocabulary = _vocabulary()
    rows, weights, _ = vocabulary.encode(_request("my card card"), -1)
    words = np.isin(rows, list(vocabulary.terms["w"].values()))
    assert np.sum(weights[words] ** 2) == pytest.approx(1.0, abs=1e-5)
    assert np.sum(weights[~words] ** 2) == pytest.approx(1.0, abs=1e-5)


def test_a_text_without_a_known_ngram_has_no_rows() -> None:
    rows, weights, known = _vocabulary().encode(_request("хорошо"), -1)
    assert (len(rows), len(weights), known) == (0, 0, 0.0)


def test_the_share_of_known_ngrams_falls_for_strange_texts() -> None:
    vocabulary = _vocabulary()
    plain = vocabulary.encode(_request("my card"), -1)[2]
    strange = vocabulary.encode(_request("my xylophone"), -1)[2]
    assert plain > 2 * strange > 0


def test_letter_case_width_and_white_space_do_not_count() -> None:
    vocabulary = _vocabulary()
    for text in ("MY   Card", "my\ncard", "ｍｙ card"):
        rows, weights, _ = vocabulary.encode(_request(text), -1)
        wanted_rows, wanted, _ = vocabulary.encode(_request("my card"), -1)
        assert rows.tolist() == wanted_rows.tolist()
        assert weights.tolist() == wanted.tolist()


def test_what_was_said_before_counts_only_where_it_is_read() -> None:
    requests = [
        _request("yes", ("user", "hello"), ("assistant", f"book {w}?"))
        for w in ("taxi", "taxi", "room", "room")
    ]
    assert has_context(requests[0]) and not has_context(_request("yes", system="s"))
    blind = Vocabulary.fit(requests, [-1] * 4, reading=Reading(), min_calls=2, max_rows=99)
    seeing = Vocabulary.fit(requests, [-1] * 4, reading=Reading(context=True), min_calls=2, max_rows=99)
    assert "x" not in blind.terms
    assert {"taxi", "room"} <= set(seeing.terms["x"])


def test_the_place_of_a_prompt_is_an_ngram_of_its_own() -> None:
    requests = [_request("a b"), _request("a b")]
    vocabulary = Vocabulary.fit(requests, [0, 1], reading=Reading(), min_calls=1, max_rows=99)
    assert set(vocabulary.terms["p"]) == {"0", "1"}


def test_the_most_frequent_ngrams_are_kept_where_there_are_too_many() -> None:
    assert len(_vocabulary(max_rows=5).idf) == 5


def test_long_messages_are_read_at_both_ends() -> None:
    request = _request("start " + "filler " * 5000 + "finish")
    vocabulary = Vocabulary.fit(
        [request, request, _request("start"), _request("finish")],
        [-1] * 4,
        reading=Reading(),
        min_calls=2,
        max_rows=999,
    )
    assert {"start", "finish"} <= set(vocabulary.terms["w"])
    assert sum(len(g) for g in vocabulary.terms["c"]) < 2000


def test_a_vocabulary_survives_its_json() -> None:
    vocabulary = _vocabulary()
    again = Vocabulary.from_json(vocabulary.to_json(), vocabulary.idf)
    assert again.terms == vocabulary.terms
    with pytest.raises(ValueError, match="weights"):
        Vocabulary.from_json(vocabulary.to_json(), vocabulary.idf[:-1])


def test_many_requests_encode_as_one_by_one() -> None:
    vocabulary = _vocabulary()
    requests = [_request(t) for t in (*TEXTS, "nothing known: хорошо")]
    features, known = encode_all(vocabulary, requests, [-1] * 5)
    assert features.shape == (5, len(vocabulary.idf))
    rows, weights, share = vocabulary.encode(requests[1], -1)
    dense = np.zeros(len(vocabulary.idf))
    dense[rows] = weights
    assert features[1].toarray()[0] == pytest.approx(dense)
    assert known[1] == share
    assert encode_all(vocabulary, [], [])[0].shape == (0, len(vocabulary.idf))
