from shoal.agents.learning.prompts import PromptSet
from shoal.agents.traces.chat import ChatRequest


def _request(system: str) -> ChatRequest:
    return ChatRequest(
        body={"messages": [{"role": "system", "content": system}, {"role": "user", "content": "hi"}]}
    )


def test_a_prompt_that_training_never_saw_is_recognised_as_new() -> None:
    prompts = PromptSet.fit([_request(f"Service {name}.") for name in "ab" for _ in range(10)])
    assert prompts.several
    assert {prompts.index(_request("Service a.")), prompts.index(_request("Service  b."))} == {0, 1}
    assert prompts.index(_request("Service c.")) == -1


def test_a_single_prompt_recurs_but_is_not_several() -> None:
    prompts = PromptSet.fit([_request("Sort it.")] * 20)
    assert prompts.recurring and not prompts.several
    assert prompts.index(_request("Count it.")) == -1


def test_dates_in_a_prompt_do_not_make_it_new() -> None:
    prompts = PromptSet.fit([_request(f"Today is 2025-01-{day:02}.") for day in range(1, 29)])
    assert prompts.fold_digits
    assert prompts.index(_request("Today is 2026-11-03.")) == 0


def test_numbered_prompts_that_recur_are_told_apart() -> None:
    prompts = PromptSet.fit([_request(f"Queue {n}.") for n in (1, 2) for _ in range(10)])
    assert prompts.several and not prompts.fold_digits
    assert prompts.index(_request("Queue 3.")) == -1


def test_where_prompts_are_ever_new_any_is_taken() -> None:
    prompts = PromptSet.fit([_request(f"Customer {chr(97 + i)} asks.") for i in range(20)])
    assert not prompts.recurring
    assert prompts.index(_request("something else")) == 0


def test_a_rare_prompt_is_not_known() -> None:
    prompts = PromptSet.fit([_request("main")] * 50 + [_request("rare")] * 2)
    assert prompts.index(_request("rare")) == -1


def test_prompts_survive_their_json() -> None:
    prompts = PromptSet.fit([_request("a")] * 6)
    assert PromptSet.from_json(prompts.to_json()) == prompts
