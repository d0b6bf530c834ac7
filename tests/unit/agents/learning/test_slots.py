from __future__ import annotations

import json
import random
import time

import pytest

from shoal.agents.learning.delex import Neighbours, delexicalise, learn_neighbours, missing, relexicalise
from shoal.agents.learning.slots import Ref, Role, SlotRules, learn_slot_rules, read_prompt
from shoal.agents.learning.training import Example
from shoal.agents.traces.chat import ChatRequest


def ask(content: str, system: str = "Write it as a sentence.") -> ChatRequest:
    messages = [{"role": "system", "content": system}, {"role": "user", "content": content}]
    return ChatRequest(body={"model": "auto", "messages": messages})


def example(content: str, answer: str, system: str = "Write it as a sentence.") -> Example:
    return Example(id=content, request=ask(content, system), content=answer, group=content)


def weather(count: int, seed: int = 0) -> list[Example]:
    rng = random.Random(seed)
    out = []
    for _ in range(count):
        town, change = rng.choice(["Ulm", "Bad Tölz", "Kiel"]), rng.choice([-7, -3, 2, 5, 11])
        tone = rng.choice(["dry", "warm"])
        verb = "rises" if change > 0 else "falls"
        start = "Dear friends, in" if tone == "warm" else "In"
        record = {"town": town, "change": change, "tone": tone, "checked": True}
        out.append(
            example(json.dumps(record), f"{start} {town} the temperature {verb} by {abs(change)} degrees.")
        )
    return out


def dialogue(count: int) -> list[Example]:
    rng = random.Random(1)
    out = []
    for _ in range(count):
        city, open_now = rng.choice(["Rome", "Oslo", "Lima", "Cork"]), rng.choice(["True", "False"])
        actions = [
            {"act": "INFORM", "slot": "city", "values": [city]},
            {"act": "INFORM", "slot": "is_open", "values": [open_now]},
        ]
        answer = f"It is in {city} and {'open' if open_now == 'True' else 'closed'}."
        out.append(example(json.dumps({"actions": actions}), answer))
    return out


def test_carried_values_become_slots_and_steering_values_do_not() -> None:
    rules = learn_slot_rules(weather(120))
    assert {key: rule.role for key, rule in rules.keys.items()} == {
        "town": Role.REQUIRED,
        "change": Role.REQUIRED,
        "tone": Role.LITERAL,
        "checked": Role.LITERAL,
    }
    assert "tone" in rules.closed


def test_within_lists_the_closed_siblings_decide_what_is_carried() -> None:
    rules = learn_slot_rules(dialogue(80))
    request = ask(json.dumps({"actions": [{"act": "INFORM", "slot": "city", "values": ["Graz"]}]}))
    assert [slot.leaf.text for slot in rules.slots(rules.prompt(request))] == ["Graz"]
    request = ask(json.dumps({"actions": [{"act": "INFORM", "slot": "is_open", "values": ["True"]}]}))
    assert rules.slots(rules.prompt(request)) == []


def test_an_answer_with_unseen_values_is_clean_when_it_carries_them() -> None:
    rules = learn_slot_rules(weather(120))
    request = ask('{"town": "Nîmes (old)", "change": -40, "tone": "dry", "checked": true}')
    assert rules.errors(request, "In Nîmes (old) the temperature falls by 40 degrees.") == []


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ("The temperature falls by 40 degrees.", "missing town: Nîmes"),
        ("In Nîmes the temperature falls.", "missing change: -40"),
        ("In Nîmes the temperature falls by 40 degrees, 3 less.", "invented number: 3"),
        ("In Nîmes, not in Bad Tölz, the temperature falls by 40 degrees.", "invented value: Bad Tölz"),
        ("In Nîmes the temperature rises by 40 degrees.", "change is -40: rises"),
    ],
)
def test_what_an_answer_misses_or_makes_up_is_named(answer: str, error: str) -> None:
    rules = learn_slot_rules(weather(200))
    request = ask('{"town": "Nîmes", "change": -40, "tone": "dry", "checked": true}')
    assert rules.errors(request, answer) == [error]


def test_digits_of_a_name_neither_satisfy_a_number_nor_pass_for_one() -> None:
    examples = [
        example(json.dumps({"gate": f"T{n % 9}", "bags": n % 7 + 20}), f"{n % 7 + 20} bags for T{n % 9}.")
        for n in range(120)
    ]
    rules = learn_slot_rules(examples)
    asked = ask(json.dumps({"gate": "T1", "bags": 1}))
    assert rules.errors(asked, "1 bags for T1.") == []
    assert rules.errors(asked, "Some bags for T1.") == ["missing bags: 1"]
    assert rules.errors(asked, "1 bags for T1, not T3.") == ["invented number: t3"]


def test_an_answer_that_passes_over_a_steering_value_is_noticed() -> None:
    rng = random.Random(2)
    examples = []
    for n in range(120):
        record: dict[str, object] = {"name": f"Inn {n}x"}
        answer = f"Inn {n}x is a fine house"
        if rng.random() < 0.7:
            record["pets"] = rng.choice(["yes", "no"])
            dogs = rng.choice(["dogs", "pets"])
            answer += f" where {dogs} are welcome" if record["pets"] == "yes" else f", but without {dogs}"
        examples.append(example(json.dumps(record), answer + "."))
    rules = learn_slot_rules(examples)
    prompt = rules.prompt(ask('{"name": "Ox", "pets": "yes"}'))
    assert rules.unheeded(prompt, "Ox is a fine house.") == ["pets=yes"]
    assert rules.unheeded(prompt, "Ox is a fine house, but without dogs.") == ["pets=yes"]
    assert rules.unheeded(prompt, "Ox is a fine house where dogs are welcome.") == []
    assert rules.unheeded(rules.prompt(ask('{"name": "Ox"}')), "Ox is a fine house.") == []


def test_rules_survive_json() -> None:
    rules = learn_slot_rules(weather(120) + dialogue(40))
    assert SlotRules.from_dict(json.loads(json.dumps(rules.to_dict()))) == rules


def test_no_examples_require_nothing() -> None:
    assert learn_slot_rules([]).errors(ask('{"a": "b"}'), "anything") == []


def test_numbers_that_answers_write_by_habit_are_not_invented() -> None:
    examples = [example(json.dumps({"town": f"Town {n}x"}), f"Town {n}x is open 24/7.") for n in range(30)]
    assert learn_slot_rules(examples).errors(ask('{"town": "Ulm"}'), "Ulm is open 24/7.") == []


def test_what_varies_in_the_system_prompt_is_part_of_the_prompt() -> None:
    examples = [
        example('{"a": "x"}', "x", system=f"Write. Today is {day}. Be brief.") for day in ("Monday", "Friday")
    ]
    rules = learn_slot_rules(examples)
    assert rules.prompt(ask('{"a": "x"}', "Write. Today is Sunday. Be brief.")).parts[0] == "Sunday."


def test_free_text_gives_numbers_quotes_and_names_as_values() -> None:
    prompt = read_prompt(ask('Remind Anna Lee Smith of "the big one" at 10:30 for $1,200.50 please'))
    assert prompt.free
    assert [leaf.text for leaf in prompt.leaves] == [
        "Anna Lee Smith",
        "the big one",
        "10",
        "30",
        "$1,200.50",
    ] or [leaf.text for leaf in prompt.leaves] == [
        "Remind Anna Lee Smith",
        "the big one",
        "10",
        "30",
        "$1,200.50",
    ]


@pytest.mark.parametrize("text", ["aB3" * 50_000, "Ab " * 50_000, '"' * 50_000, "1" * 50_000, "1,2" * 30_000])
def test_endless_prompts_and_answers_are_checked_in_no_time(text: str) -> None:
    rules = learn_slot_rules(weather(40))
    started = time.monotonic()
    rules.errors(ask(text), text)
    assert time.monotonic() - started < 5


def delexed(record: dict[str, object], answer: str) -> tuple[list[str | Ref], str, list[str]]:
    rules = learn_slot_rules([example(json.dumps(record), answer)] * 10)
    slots = rules.slots(rules.prompt(ask(json.dumps(record))))
    parts = delexicalise(answer, slots, Neighbours())
    return parts, relexicalise(parts, slots), missing(parts, slots)


def test_a_value_inside_a_longer_value_does_not_break_it() -> None:
    parts, back, _ = delexed({"city": "York", "area": "New York City"}, "New York City, not York.")
    assert parts == [Ref("area", "="), ", not ", Ref("city", "="), "."]
    assert back == "New York City, not York."


def test_forms_are_kept_and_restored() -> None:
    parts, back, _ = delexed(
        {"growth": -1200.5, "cause": "online_sales"}, "Online sales cost us 1,200.5 euros."
    )
    assert back == "Online sales cost us 1,200.5 euros."
    assert [part.slot for part in parts if isinstance(part, Ref)] == ["cause", "growth"]


def test_equal_values_go_to_the_slots_whose_neighbours_fit() -> None:
    pairs = [({"rooms": n, "guests": n + 1}, f"{n + 1} guests want {n} rooms.") for n in range(2, 12)]
    rules = learn_slot_rules([example(json.dumps(record), answer) for record, answer in pairs])
    slotted = [(answer, rules.slots(rules.prompt(ask(json.dumps(record))))) for record, answer in pairs]
    neighbours = learn_neighbours(slotted)
    slots = rules.slots(rules.prompt(ask('{"rooms": 3, "guests": 3}')))
    parts = delexicalise("3 guests want 3 rooms.", slots, neighbours)
    assert [part.slot for part in parts if isinstance(part, Ref)] == ["guests", "rooms"]


def test_a_required_value_that_is_not_there_is_missing() -> None:
    rules = learn_slot_rules(weather(60))
    slots = rules.slots(rules.prompt(ask('{"town": "Ulm", "change": 5, "tone": "dry", "checked": true}')))
    assert missing(["It is warm in ", Ref("town", "=")], slots) == ["change"]
