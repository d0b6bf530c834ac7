import pytest

from shoal.agents.learning.budget import MAX_MICRO_LM_S, MIN_MICRO_LM_S, PLANNED_SHARE, Wish, allot
from shoal.agents.registry.records import TaskId
from shoal.config import Config


def _wish(name: str, kind: str, calls: int, *, answers: int = 0) -> Wish:
    return Wish(task_id=TaskId(name), kind=kind, calls=calls, held_out=calls // 5, answers=answers)


WISHES = [
    _wish("bank", "classifier", 10_000, answers=77),
    _wish("dialogue", "classifier", 2500, answers=34),
    _wish("restaurant", "micro_lm", 4700),
    _wish("say", "micro_lm", 12_000),
]


@pytest.mark.parametrize("minutes", [1, 2, 3, 5, 10, 20, 60])
@pytest.mark.parametrize("traces", [0, 1500, 36_000])
def test_what_is_planned_stays_within_its_share_of_the_limit(minutes: int, traces: int) -> None:
    planned = sum(allot(WISHES, traces=traces, limit_s=60 * minutes).values())
    assert planned <= PLANNED_SHARE * 60 * minutes


def test_the_same_wishes_get_the_same_seconds_in_any_order() -> None:
    assert allot(WISHES, traces=1000, limit_s=600) == allot(WISHES[::-1], traces=1000, limit_s=600)


def test_larger_tasks_get_more_but_not_in_proportion() -> None:
    seconds = allot(WISHES, traces=36_000, limit_s=1200)
    say, restaurant = seconds[TaskId("say"), "micro_lm"], seconds[TaskId("restaurant"), "micro_lm"]
    assert 1.2 < say / restaurant < 12_000 / 4700


def test_where_time_is_short_the_smallest_language_model_is_left_out() -> None:
    seconds = allot(WISHES, traces=1000, limit_s=260)
    kinds = {key for key in seconds if key[1] == "micro_lm"}
    assert kinds == {(TaskId("say"), "micro_lm")}
    assert seconds[TaskId("say"), "micro_lm"] >= MIN_MICRO_LM_S


def test_without_time_nothing_is_trained() -> None:
    assert allot(WISHES, traces=1_000_000, limit_s=60) == {}


def test_a_log_of_a_million_calls_leaves_time_to_train_within_the_default_limit() -> None:
    assert allot(WISHES, traces=1_000_000, limit_s=60 * Config().learning.time_limit_min)


def test_a_language_model_gets_no_more_than_it_can_use() -> None:
    seconds = allot([_wish("a", "micro_lm", 500)], traces=500, limit_s=36_000)
    assert seconds[TaskId("a"), "micro_lm"] == MAX_MICRO_LM_S


def test_quick_kinds_leave_most_of_the_time_to_language_models() -> None:
    many = [_wish(f"c{i}", "classifier", 20_000, answers=500) for i in range(10)]
    seconds = allot([*many, _wish("lm", "micro_lm", 1000)], traces=1000, limit_s=1200)
    assert sum(s for (_, kind), s in seconds.items() if kind == "classifier") < 0.5 * 1200
    assert (TaskId("lm"), "micro_lm") in seconds


def test_pretrained_bases_share_the_time_of_the_slow_kinds() -> None:
    wishes = [_wish("a", kind, 900) for kind in ("fields", "micro_lm", "lora@0")]
    seconds = {kind: s for (_, kind), s in allot(wishes, traces=1000, limit_s=600).items()}
    assert seconds["lora@0"] == seconds["micro_lm"] > seconds["fields"]
