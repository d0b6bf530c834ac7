import json
from typing import Any

import pytest

from shoal.agents.learning.candidates import consider, trainer_of
from shoal.agents.learning.survey import Survey, Surveyor
from shoal.agents.registry.records import OutputKind, TaskId
from shoal.agents.traces.trace import Trace, TraceId


def _survey(prompts: list[str], answers: list[str], *, calling: int = 0) -> Survey:
    surveyor, task = Surveyor(), TaskId("t")

    def add(prompt: str, message: dict[str, Any], name: str) -> None:
        request = {"messages": [{"role": "user", "content": prompt}]}
        response = {"choices": [{"message": {"role": "assistant", "content": None, **message}}]}
        surveyor.add(Trace(id=TraceId(name), request=request, response=response, timestamp=1.0), task)

    for i, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        add(prompt, {"content": answer}, f"c{i}")
    for i in range(calling):
        add("x", {"tool_calls": [{"function": {"name": "find", "arguments": "{}"}}]}, f"f{i}")
    for i in range(3):
        add("x", {"content": " "}, f"e{i}")
    return surveyor.finish(seed=0, most=10_000).tasks[task]


TEXTS = [f"text {i}" for i in range(100)]
RECORDS = [json.dumps({"x": i}) for i in range(100)]
LABELS = ["yes", "no"] * 50


def test_closed_labels_from_text_are_for_the_classifier() -> None:
    prospect = consider(OutputKind.LABEL, _survey(TEXTS, LABELS), min_calls=50)
    assert (prospect.kinds, prospect.loss, prospect.answers) == (("classifier",), OutputKind.LABEL, 2)


def test_closed_answers_from_records_try_the_figures_first() -> None:
    answers = ['{"a": 1}', '{"a": 2}'] * 50
    prospect = consider(OutputKind.JSON, _survey(RECORDS, answers), min_calls=50)
    assert prospect.kinds == ("record_classifier", "classifier", "fields")
    assert prospect.loss == OutputKind.JSON


def test_canned_texts_are_labels() -> None:
    prospect = consider(
        OutputKind.TEXT, _survey(TEXTS, ["Thank you, bye.", "One moment please."] * 50), min_calls=50
    )
    assert (prospect.kinds, prospect.loss) == (("classifier",), OutputKind.LABEL)


def test_open_texts_are_for_the_language_model() -> None:
    prospect = consider(OutputKind.TEXT, _survey(RECORDS, TEXTS), min_calls=50)
    assert (prospect.kinds, prospect.loss) == (("micro_lm",), OutputKind.TEXT)


def test_too_few_calls_are_skipped_and_what_was_left_out_is_said() -> None:
    prospect = consider(OutputKind.LABEL, _survey(TEXTS, LABELS), min_calls=200)
    assert prospect.kinds == ()
    assert "Too few calls: 100 (3 more were left out: empty answer (3)); it takes 200" in prospect.reason


@pytest.mark.parametrize("kind", [OutputKind.TOOL_CALL, OutputKind.LABEL])
def test_a_task_with_function_calls_is_for_the_kind_that_gives_them(kind: OutputKind) -> None:
    prospect = consider(kind, _survey(TEXTS, LABELS, calling=40), min_calls=50)
    assert (prospect.kinds, prospect.loss) == (("tool_call",), OutputKind.TOOL_CALL)


def test_few_function_calls_are_skipped_with_their_number() -> None:
    prospect = consider(OutputKind.TOOL_CALL, _survey(TEXTS, LABELS, calling=7), min_calls=50)
    assert prospect.kinds == ()
    assert "Only 7 of its 107 answers are function calls; it takes 20" in prospect.reason


def test_labels_that_are_no_closed_set_are_skipped_with_figures() -> None:
    prospect = consider(OutputKind.LABEL, _survey(TEXTS, TEXTS), min_calls=50)
    assert prospect.kinds == ()
    assert "no closed set: 100 different ones in 100 calls" in prospect.reason


def test_every_kind_that_is_considered_has_a_trainer() -> None:
    for kind in ("tool_call", "record_classifier", "classifier", "micro_lm"):
        assert callable(trainer_of(kind))
    with pytest.raises(ValueError, match="no trainer"):
        trainer_of("oracle")
