from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from shoal.agents.learning.micro_lm import train_micro_lm
from shoal.agents.learning.micro_lm_pairs import faithful, make_pairs, weigh
from shoal.agents.learning.micro_lm_run import plan_steps
from shoal.agents.learning.micro_lm_tokens import Vocabulary, build_vocabulary
from shoal.agents.learning.slots import Ref, learn_slot_rules
from shoal.agents.learning.training import Example, TrainContext
from shoal.agents.traces.chat import ChatRequest
from shoal.errors import DataError


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Threads of one process wait for each other; beside other work on the machine that takes for ever."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def example(record: dict[str, object], answer: str) -> Example:
    messages = [{"role": "user", "content": json.dumps(record)}]
    return Example(id=answer, request=ChatRequest(body={"messages": messages}), content=answer, group=answer)


def sales(count: int, seed: int) -> list[Example]:
    rng = random.Random(seed)
    out = []
    for _ in range(count):
        region, growth = rng.choice(["EMEA", "APAC", "Nordics"]), rng.choice([-9, -4, 3, 8, 15])
        verb = "grew" if growth > 0 else "fell"
        template = rng.choice(["Revenue in {r} {v} by {g}%.", "{r} revenue {v} {g}%."])
        out.append(
            example({"region": region, "growth": growth}, template.format(r=region, v=verb, g=abs(growth)))
        )
    return out


def context(work: Path, seconds: float = 0.8, stopped: Callable[[], bool] = lambda: False) -> TrainContext:
    return TrainContext(seed=3, seconds=seconds, work=work, monotonic=lambda: 0.0, stopped=stopped)


def test_the_step_budget_grows_with_the_time_limit_until_the_data_is_used_up() -> None:
    short, long = plan_steps(1000, 40, 10), plan_steps(1000, 40, 20)
    assert long.steps == pytest.approx(2 * short.steps, abs=1)
    assert plan_steps(64, 40, 1000).steps == plan_steps(64, 40, 2000).steps
    assert plan_steps(1000, 40, 0.001).steps == 1


def test_answers_that_lack_a_value_or_invent_a_number_are_not_learnt_from() -> None:
    good = sales(60, 1)
    bad = [
        example({"region": "EMEA", "growth": 8}, "Revenue grew by 8%."),
        example({"region": "EMEA", "growth": 8}, "Revenue in EMEA grew by 8%, or 1 in 12."),
    ]
    rules = learn_slot_rules(good + bad)
    pairs = make_pairs(good + bad, rules, None)
    kept = faithful(pairs, rules)
    texts = ["".join(p if isinstance(p, str) else "_" for p in pair.answer) for pair in kept]
    assert set(texts) == {
        "Revenue in _ grew by _%.",
        "Revenue in _ fell by _%.",
        "_ revenue grew _%.",
        "_ revenue fell _%.",
    }
    assert len(pairs) - len(kept) == 2


def test_answers_worded_as_most_are_count_more_and_a_lone_one_counts_as_it_is() -> None:
    usual = [example({"region": f"R{n}x"}, f"The region is R{n}x, as ever.") for n in range(30)]
    odd = example({"region": "R40x"}, "Well, R40x it was, who would have thought it!")
    alone = example({"region": "R41x", "late": True}, "R41x came in late.")
    rules = learn_slot_rules([*usual, odd, alone])
    pairs = make_pairs([*usual, odd, alone], rules, None)
    weights = [pair.weight for pair in weigh(pairs, pairs)]
    assert min(weights[:30]) == max(weights[:30]) > 2 * weights[30]
    assert weights[30] < weights[31] < weights[0]
    assert sum(weights) == pytest.approx(len(pairs))


def vocabulary_of(examples: list[Example]) -> Vocabulary:
    rules = learn_slot_rules(examples)
    pairs = make_pairs(examples, rules, None)
    return build_vocabulary([(p.prompt, p.slots, p.answer) for p in pairs], rules, 400)


def test_answers_come_back_from_their_tokens_exactly() -> None:
    examples = sales(60, 1)
    vocabulary = vocabulary_of(examples)
    rules = learn_slot_rules(examples)
    prompt = rules.prompt(example({"region": "Śląsk", "growth": -2}, "").request)
    slots = rules.slots(prompt)
    encoded = vocabulary.encode_prompt(prompt, slots)
    region, growth = Ref("region", slots[1].order[0]), Ref("growth", "abs")
    for parts in (
        [region, " revenue (", growth, "%)\nfell — really."],
        ["In ", region, " ", growth, "%."],
        ["'", region, "'", growth],
    ):
        ids = vocabulary.encode_answer(parts, encoded)
        assert "".join(map(str, vocabulary.decode_answer(ids[:-1], encoded))) == "".join(map(str, parts))


def test_text_that_spells_a_slot_token_stays_text() -> None:
    vocabulary = vocabulary_of(sales(60, 1))
    assert max(vocabulary.text_ids("<sep> @region <eos>")) < vocabulary.bpe.get_vocab_size()


def test_what_training_never_saw_is_strange() -> None:
    rules = learn_slot_rules(sales(60, 1))
    vocabulary = vocabulary_of(sales(60, 1))

    def strange(record: dict[str, object]) -> tuple[str, ...]:
        prompt = rules.prompt(example(record, "").request)
        return vocabulary.encode_prompt(prompt, rules.slots(prompt)).strange

    assert strange({"region": "Mars", "growth": 77}) == ()
    assert strange({"region": "Mars", "growth": 77, "moon": "Phobos"}) == ("moon",)


def test_a_record_of_a_kind_that_training_never_had_is_foreign() -> None:
    def told(kind: str, n: int) -> Example:
        said = "is a fine hotel" if kind == "hotel" else "flies daily"
        return example({"kind": kind, "name": f"Name{n}x"}, f"Name{n}x {said}.")

    examples = [told(("hotel", "flight")[n % 2], n) for n in range(60)]
    rules = learn_slot_rules(examples)

    def foreign(vocabulary: Vocabulary, kind: str) -> bool:
        prompt = rules.prompt(told(kind, 99).request)
        return vocabulary.encode_prompt(prompt, rules.slots(prompt)).foreign

    vocabulary = vocabulary_of(examples)
    assert vocabulary.kinds == {"kind"}
    assert foreign(vocabulary, "museum") and not foreign(vocabulary, "flight")
    # where some kinds are rare, another one is nothing special
    mixed = vocabulary_of([*examples, told("ferry", 61), told("tram", 62)])
    assert mixed.kinds == set() and not foreign(mixed, "museum")


def test_the_same_seed_gives_the_same_weights_and_a_stopped_run_goes_on_to_them(tmp_path: Path) -> None:
    train, choose = sales(80, 1), sales(20, 2)
    whole = train_micro_lm(train, choose, tmp_path / "a", context(tmp_path / "wa"))
    assert not whole.cut_by_clock and whole.steps == whole.details["planned_steps"] > 10
    left = iter([False] * 7)
    with pytest.raises(KeyboardInterrupt):
        train_micro_lm(
            train, choose, tmp_path / "b", context(tmp_path / "wb", stopped=lambda: next(left, True))
        )
    train_micro_lm(train, choose, tmp_path / "b", context(tmp_path / "wb"))
    for name in ("model.safetensors", "tokenizer.json", "vocabulary.json", "slots.json", "config.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_a_run_far_slower_than_nominal_is_cut_by_the_clock_and_says_so(tmp_path: Path) -> None:
    ticks = iter(range(100_000))
    slow = TrainContext(seed=0, seconds=0.8, work=tmp_path / "w", monotonic=lambda: float(next(ticks)))
    report = train_micro_lm(sales(80, 1), sales(20, 2), tmp_path / "m", slow)
    assert report.cut_by_clock and report.steps < report.details["planned_steps"]


def test_no_calls_and_unlearnable_answers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="got none"):
        train_micro_lm([], [], tmp_path / "m", context(tmp_path / "w"))
    rng = random.Random(0)
    noise = [example({"n": n}, f"It is {rng.randrange(10**6, 10**9)}.") for n in range(40)]
    with pytest.raises(DataError, match="numbers that their prompts do not have"):
        train_micro_lm(noise, [], tmp_path / "m", context(tmp_path / "w"))


def test_training_needs_no_clock_to_end(tmp_path: Path) -> None:
    started = time.monotonic()
    train_micro_lm(sales(40, 1), [], tmp_path / "m", context(tmp_path / "w", seconds=0.2))
    assert time.monotonic() - started < 60
