from __future__ import annotations

import random

from shoal.agents.learning.wording import Wording, learn_wording, words_of

PRICES = {
    "low": ["cheap", "inexpensive"],
    "high": ["expensive", "pricey"],
    "middle": ["moderately priced", "of moderate price"],
}


def answers(count: int) -> list[tuple[list[str], str, list[str]]]:
    rng = random.Random(0)
    out = []
    for _ in range(count):
        name, price = rng.choice(["Zum Wirt", "Cocum"]), rng.choice([*PRICES, None])
        children = rng.choice(["yes", None])
        tags = [f"price={price}"] if price else []
        tags += [f"children={children}"] if children else []
        text = f"{name} is a {rng.choice(PRICES[price]) if price else 'nice'} place in town"
        text += ", and kids are welcome." if children else "."
        out.append((tags, text, [name]))
    return out


WORDING = learn_wording(answers(600))


def test_an_answer_is_asked_for_the_path_and_for_the_value() -> None:
    hints = WORDING.hints(["price=low"], "Cocum is a cheap place in town.")
    assert hints == []
    assert WORDING.hints(["price=low"], "Cocum is a nice place in town.") == ["price=low"]
    assert WORDING.hints(["price=low"], "Cocum is a moderately priced place in town.") == ["price=low"]


def test_what_nobody_asked_for_is_noticed() -> None:
    said = "Cocum is a cheap place in town, and kids are welcome."
    assert WORDING.hints(["price=low", "children=yes"], said) == []
    assert WORDING.hints(["price=low"], said) == ["no children"]


def test_carried_values_are_no_evidence() -> None:
    known = {word for words in WORDING.evidence.values() for word in words}
    assert known and not {"cocum", "wirt"} & {part for word in known for part in word.split()}
    assert words_of("At Zum Wirt in town", ["Zum Wirt"]) == {"at", "in", "town", "in town"}


def test_values_that_go_together_do_not_lend_each_other_their_words() -> None:
    rng = random.Random(1)
    rows: list[tuple[list[str], str, list[str]]] = []
    for _ in range(400):
        price = rng.choice(["low", "high", None])
        # what is cheap is rated well nine times in ten
        rated = "good" if price == "low" and rng.random() < 0.9 else rng.choice(["good", "bad", None])
        tags = ([f"price={price}"] if price else []) + ([f"rating={rated}"] if rated else [])
        text = f"It is {'cheap' if price == 'low' else 'expensive' if price else 'there'}"
        rows.append(
            (
                tags,
                f"{text}, with {'top marks' if rated == 'good' else 'poor marks' if rated else 'seats'}.",
                [],
            )
        )
    wording = learn_wording(rows)
    assert "cheap" in wording.telling["price=low"]
    assert not {"top", "marks"} & wording.evidence["price=low"]


def test_the_wording_survives_json_and_none_hints_at_nothing() -> None:
    assert Wording.from_dict(WORDING.to_dict()) == WORDING
    assert Wording().hints(["price=low"], "") == []
    assert learn_wording([]) == Wording()
