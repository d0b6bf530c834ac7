from pathlib import Path

import pytest

from shoal.agents.fakes import FunctionEngine
from shoal.agents.learning.held_out import BATCH, answers_of, judged, load_slots, nearest_answers
from shoal.agents.learning.training import Example
from shoal.agents.ports import SpecialistAnswer
from shoal.agents.registry.records import OutputKind
from shoal.agents.traces.chat import ChatRequest
from shoal.errors import CorruptModel


def _example(number: int, text: str, content: str) -> Example:
    request = ChatRequest(body={"messages": [{"role": "user", "content": text}]})
    return Example(id=f"t{number}", request=request, content=content, group=f"t{number}")


def _said(content: str | None, confidence: float = 0.9) -> SpecialistAnswer:
    return SpecialistAnswer(content=content, confidence=confidence)


def test_labels_are_judged_and_no_answer_is_wrong_with_confidence_zero() -> None:
    examples = [_example(i, "x", "yes") for i in range(3)]
    held = judged(OutputKind.LABEL, examples, [_said("YES"), _said("no"), _said(None)], calling=frozenset())
    assert [h.wrong for h in held] == [False, True, True]
    assert [h.confidence for h in held] == [0.9, 0.9, 0.0]


def test_where_a_function_should_be_called_any_text_is_wrong() -> None:
    held = judged(OutputKind.LABEL, [_example(1, "x", "yes")], [_said("yes")], calling=frozenset({"t1"}))
    assert held[0].wrong


def test_texts_are_compared_with_the_generalists_and_with_the_floor() -> None:
    class _Clean:
        def errors(self, request: ChatRequest, answer: str) -> list[str]:
            return []

    held = judged(
        OutputKind.TEXT,
        [_example(1, "x", "Sales rose in Oslo.")],
        [_said("Sales rose in Oslo.")],
        calling=frozenset(),
        slots=_Clean(),
        floors=["Costs fell."],
    )[0]
    assert not held.wrong
    assert held.likeness == 1.0
    assert held.floor is not None and held.floor < 0.4


def test_the_looked_up_answer_is_judged_by_the_same_loss() -> None:
    examples = [_example(1, "x", "yes"), _example(2, "y", "no"), _example(3, "z", '[["find", "{}"]]')]
    held = judged(
        OutputKind.LABEL,
        examples,
        [_said("yes")] * 3,
        calling=frozenset({"t3"}),
        floors=[" YES", "yes", '[["find", "{}"]]'],
    )
    assert [h.floor_wrong for h in held] == [False, True, False]
    assert judged(OutputKind.LABEL, examples[:1], [_said("yes")], calling=frozenset())[0].floor_wrong is None


def test_the_floor_is_the_answer_of_the_most_similar_training_call() -> None:
    train = [
        _example(1, "pizza in Rome", "A"),
        _example(2, "sushi in Tokyo", "B"),
        _example(3, "pizza by night", "C"),
    ]
    assert nearest_answers(
        train, [_example(4, "the sushi of Tokyo", ""), _example(5, "pizza at Rome", "")]
    ) == ["B", "A"]
    assert nearest_answers([], [_example(4, "x", "")]) == [""]


def test_requests_go_to_the_engine_in_batches_until_the_run_is_stopped() -> None:
    examples = [_example(i, f"{i}", "") for i in range(BATCH + 1)]
    engine = FunctionEngine(lambda request: _said(request.last_user_text))
    assert [a.content for a in answers_of(engine, examples)] == [f"{i}" for i in range(BATCH + 1)]
    with pytest.raises(KeyboardInterrupt):
        answers_of(engine, examples, stopped=lambda: True)


def test_slot_rules_are_read_where_there_are_any(tmp_path: Path) -> None:
    assert load_slots(tmp_path) is None
    (tmp_path / "slots.json").write_text("{}")
    with pytest.raises(CorruptModel, match="no slot rules"):
        load_slots(tmp_path)


def test_function_calls_are_right_where_function_and_arguments_are_the_same() -> None:
    def call(arguments: str) -> list[dict[str, object]]:
        return [{"type": "function", "function": {"name": "find", "arguments": arguments}}]

    request = ChatRequest(body={"messages": [{"role": "user", "content": "x"}]})
    wanted = call('{"a": 1, "b": "x"}')
    examples = [
        Example(id=f"t{n}", request=request, content="", group="g", tool_calls=wanted) for n in range(4)
    ]
    answers = [
        SpecialistAnswer(content=None, confidence=0.9, tool_calls=call('{"b": "x", "a": 1.0}')),
        SpecialistAnswer(content=None, confidence=0.9, tool_calls=call('{"b": "x"}')),
        _said("WAIT"),
        _said(None),
    ]
    held = judged(OutputKind.TOOL_CALL, examples, answers)
    assert [h.wrong for h in held] == [False, True, True, True]
    assert [h.confidence for h in held] == [0.9, 0.9, 0.9, 0.0]
