from shoal.agents.curation.duplicates import Said, find_duplicates
from shoal.agents.traces.chat import ChatRequest

LONG = " ".join(f"word{i}" for i in range(40))


def _said(text: str, answer: str = "yes", *, before: str = "", system: str = "Judge.") -> Said:
    earlier = [{"role": "user", "content": before}, {"role": "assistant", "content": "ok"}] if before else []
    messages = [{"role": "system", "content": system}, *earlier, {"role": "user", "content": text}]
    return Said.of(ChatRequest(body={"messages": messages}), answer)


def _kept(*calls: Said, one_answer: bool = True) -> list[int]:
    found = find_duplicates(calls, one_answer=one_answer)
    assert not found.exact & found.near
    return [place for place in range(len(calls)) if place not in found.exact | found.near]


def test_of_exact_copies_the_first_stays() -> None:
    found = find_duplicates([_said("a"), _said("b"), _said("a")], one_answer=True)
    assert (found.exact, found.near) == ({2}, set())


def test_of_a_request_s_several_answers_the_most_frequent_stays_where_one_is_right() -> None:
    calls = [_said("a", "no"), _said("a", "yes"), _said("a", "yes")]
    assert _kept(*calls) == [1]
    assert _kept(*calls, one_answer=False) == [0, 1]


def test_near_copies_go_and_what_differs_in_answer_number_or_system_prompt_stays() -> None:
    assert _kept(_said(f"{LONG}."), _said(f"{LONG.upper()}!")) == [0]
    assert _kept(_said(LONG), _said(f"{LONG} end")) == [0]
    assert _kept(_said(LONG), _said(f"{LONG} end", "no")) == [0, 1]
    assert _kept(_said(f"{LONG} 12"), _said(f"{LONG} 13")) == [0, 1]
    assert _kept(_said(LONG), _said(f"{LONG} end", system="Write.")) == [0, 1]


def test_texts_that_share_less_than_four_fifths_stay() -> None:
    assert _kept(
        _said(LONG), _said(f"{LONG} and quite another end to it that goes on for as long as a quarter")
    ) == [0, 1]


def test_turns_of_one_long_conversation_are_no_copies_of_each_other() -> None:
    history = " ".join(f"long{i}" for i in range(400))
    assert _kept(_said("yes please", before=history), _said("no thanks", before=history)) == [0, 1]


def test_the_same_calls_give_the_same_answer_again() -> None:
    calls = [_said(f"{LONG} {word}") for word in ("one", "two", "three") for _ in range(2)]
    first = find_duplicates(calls, one_answer=True)
    assert first == find_duplicates(calls, one_answer=True)
    assert (first.exact, first.near) == ({1, 3, 5}, {2, 4})
