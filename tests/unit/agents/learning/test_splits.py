import random
from collections.abc import Sequence
from dataclasses import replace

import pytest

from shoal.agents.learning.splits import (
    Split,
    calibration_share,
    check_split,
    fingerprint,
    leakage,
    request_key,
    split_examples,
    unseen,
    without_duplicates,
)
from shoal.agents.learning.training import Example
from shoal.agents.traces.chat import ChatRequest


def _example(number: int, *, group: str | None = None, text: str | None = None) -> Example:
    request = ChatRequest(body={"messages": [{"role": "user", "content": text or f"call {number}"}]})
    return Example(id=f"t{number}", request=request, content="x", group=group or f"g{number}")


def _conversations(count: int, seed: int = 0) -> list[Example]:
    rng = random.Random(seed)
    return [_example(i, group=f"c{rng.randrange(count // 6)}") for i in range(count)]


def _ids(part: Sequence[Example]) -> list[str]:
    return [e.id for e in part]


def test_every_call_stands_in_exactly_one_part() -> None:
    examples = _conversations(2000)
    split = split_examples(examples, seed=1)
    assert sorted(_ids(split.train) + _ids(split.choose) + _ids(split.calibration)) == sorted(_ids(examples))


def test_no_conversation_stands_on_both_sides_of_a_border() -> None:
    split = split_examples(_conversations(2000), seed=3)
    groups = [{e.group for e in part} for part in (split.train, split.choose, split.calibration)]
    assert not (groups[0] & groups[1] or groups[0] & groups[2] or groups[1] & groups[2])


def test_parts_are_near_eighty_ten_ten() -> None:
    split = split_examples(_conversations(3000), seed=0)
    assert len(split.train) / 3000 == pytest.approx(0.8, abs=0.01)
    assert len(split.choose) / 3000 == pytest.approx(0.1, abs=0.01)
    assert len(split.calibration) / 3000 == pytest.approx(0.1, abs=0.01)


@pytest.mark.parametrize(
    ("count", "share"), [(10_000, 0.1), (2000, 0.1), (800, 0.25), (500, 0.3), (200, 0.3), (0, 0.1)]
)
def test_small_tasks_give_up_more_for_calibration(count: int, share: float) -> None:
    assert calibration_share(count) == pytest.approx(share)


def test_a_split_depends_on_the_seed_and_not_on_the_order_of_the_calls() -> None:
    examples = _conversations(600)
    shuffled = random.Random(9).sample(examples, len(examples))
    assert split_examples(examples, seed=1) == split_examples(shuffled, seed=1)
    assert set(_ids(split_examples(examples, seed=2).train)) != set(
        _ids(split_examples(examples, seed=1).train)
    )


def test_a_log_that_grows_moves_few_calls() -> None:
    examples = [_example(i) for i in range(4000)]
    before = set(_ids(split_examples(examples[:3900], seed=0).train))
    after = set(_ids(split_examples(examples, seed=0).calibration))
    assert len(before & after) < 30


def test_an_overlapping_split_is_refused_and_the_group_is_named() -> None:
    first, second = _example(1, group="c1"), _example(2, group="c1")
    with pytest.raises(ValueError, match="group c1 stands in both train and calibration"):
        check_split(Split(train=[first], choose=[], calibration=[second]))


def test_the_same_call_in_two_parts_is_refused() -> None:
    with pytest.raises(ValueError, match="call t1"):
        check_split(Split(train=[_example(1, group="a")], choose=[_example(1, group="b")], calibration=[]))


def test_requests_that_training_saw_word_for_word_are_not_unseen() -> None:
    train = [_example(1, text="hello")]
    held = [_example(2, text="hello"), _example(3, text="hello!")]
    assert _ids(unseen(held, train)) == ["t3"]


def test_the_key_of_a_request_leaves_model_and_metadata_out() -> None:
    messages = [{"role": "user", "content": "hi"}]
    plain = ChatRequest(body={"model": "a", "messages": messages})
    other = ChatRequest(body={"model": "b", "messages": messages, "metadata": {"conversation_id": "7"}})
    tools = ChatRequest(body={"messages": messages, "tools": [{"type": "function"}]})
    assert request_key(plain) == request_key(other) != request_key(tools)


def test_the_fingerprint_tells_which_calls_they_are() -> None:
    examples = [_example(i) for i in range(5)]
    assert fingerprint(examples) == fingerprint(examples[::-1]) != fingerprint(examples[:4])


def test_no_calls_make_an_empty_split() -> None:
    assert split_examples([], seed=0) == Split(train=[], choose=[], calibration=[])


def _asked(name: str, text: str, content: str = "yes", group: str = "") -> Example:
    request = ChatRequest(body={"messages": [{"role": "user", "content": text}]})
    return Example(id=name, request=request, content=content, group=group or name)


def test_duplicates_leave_training_and_nothing_else() -> None:
    examples = [_asked(f"{n}", f"question number {n % 40}") for n in range(400)]
    split = split_examples(examples, seed=0)
    train, counts = without_duplicates(split.train, one_answer=True)
    assert len(train) == len({e.request.last_user_text for e in split.train})
    assert counts == {"exact": len(split.train) - len(train), "near": 0}
    held_out = [*split.choose, *split.calibration]
    assert len(held_out) == 400 - len(split.train)
    assert len({e.request.last_user_text for e in held_out}) < len(held_out), "the traffic's own repeats stay"
    told = leakage(split, train)
    assert told == {
        "held_out": len(held_out),
        "conversations": 0,
        "same_request": len(held_out),
        "same_request_and_answer": len(held_out),
        "later_in_training": 0,
    }


def test_leakage_counts_conversations_requests_and_answers_that_cross() -> None:
    split = Split(
        train=[_asked("a", "one", group="g"), _asked("b", "two")],
        choose=[_asked("c", "one", "no", group="g")],
        calibration=[_asked("d", "two"), _asked("e", "three")],
    )
    assert leakage(split, split.train) == {
        "held_out": 3,
        "conversations": 1,
        "same_request": 2,
        "same_request_and_answer": 1,
        "later_in_training": 0,
    }


def _timed(count: int, seed: int = 0) -> list[Example]:
    """Conversations of three turns a minute apart, each at a random moment of a month."""
    rng = random.Random(seed)
    starts = [rng.uniform(0, 30 * 86_400) for _ in range(count // 3)]
    return [
        replace(_example(3 * c + turn, group=f"c{c}"), timestamp=start + 60 * turn)
        for c, start in enumerate(starts)
        for turn in range(3)
    ]


def test_by_time_the_latest_conversations_choose_and_training_knows_nothing_of_later_ones() -> None:
    examples = _timed(3000)
    split = split_examples(examples, seed=0, by="time")
    first = min(e.timestamp for e in split.choose)
    assert len(split.choose) / 3000 == pytest.approx(0.1, abs=0.01)
    assert max(e.timestamp for e in split.train) < first + 180
    assert leakage(split, split.train)["later_in_training"] == 0
    assert leakage(split_examples(examples, seed=0), split.train)["later_in_training"] > 100
    early = [e for e in split.calibration if e.timestamp < first]
    assert len(early) / len(split.calibration) == pytest.approx(0.9, abs=0.06), "of the whole log"
    assert split.calibration == split_examples(examples, seed=0).calibration


def test_timestamps_decide_by_themselves_where_they_follow_conversations() -> None:
    examples = _timed(600)
    assert split_examples(examples, seed=0, by="auto").by == "time"
    rng = random.Random(1)
    scattered = [replace(e, timestamp=rng.uniform(0, 30 * 86_400)) for e in examples]
    assert split_examples(scattered, seed=0, by="auto").by == "conversation"
    unknown = [replace(e, timestamp=0.0) for e in examples]
    assert split_examples(unknown, seed=0, by="auto") == split_examples(unknown, seed=0, by="conversation")


def test_a_split_by_time_that_trains_on_what_came_later_is_refused() -> None:
    early, late = (replace(_example(n), timestamp=float(n)) for n in (1, 2))
    with pytest.raises(ValueError, match="1 training calls were made after a held-out conversation"):
        check_split(Split(train=[late], choose=[early], calibration=[], by="time"))
