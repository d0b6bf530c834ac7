import pytest

from shoal.agents.contract.loss import canonical, canonical_json, canonical_tool_calls, judge, unfenced
from shoal.agents.registry.records import OutputKind
from shoal.agents.traces.chat import ChatRequest

REQUEST = ChatRequest(body={"messages": [{"role": "user", "content": "x"}]})


class _Wants:
    """A slot checker: the answer must have the word."""

    def __init__(self, word: str) -> None:
        self.word = word

    def errors(self, request: ChatRequest, answer: str) -> list[str]:
        return [] if self.word in answer else [f"missing: {self.word}"]


def _call(name: str, arguments: str, call_id: str = "a") -> dict[str, object]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


@pytest.mark.parametrize(
    ("given", "expected", "wrong"),
    [
        ("card_arrival", "card_arrival", False),
        (" Card_Arrival\n", "card_arrival", False),
        ("card  arrival", "card arrival", False),
        ("card_arrival", "card_linking", True),
        ("", "card_linking", True),
    ],
)
def test_labels_are_equal_but_for_case_and_white_space(given: str, expected: str, wrong: bool) -> None:
    assert judge(OutputKind.LABEL, REQUEST, given, expected).wrong is wrong


@pytest.mark.parametrize(
    ("given", "expected", "wrong"),
    [
        ('{"a": 1, "b": [2, 3]}', '{"b":[2,3.0],"a":1}', False),
        ('```json\n{"a": 1}\n```', '{"a": 1}', False),
        ('{"a": 1}', '{"a": 2}', True),
        ('{"a": [1, 2]}', '{"a": [2, 1]}', True),
        ('{"a": true}', '{"a": 1}', True),
        ('{"a": 1', '{"a": 1}', True),
        ('{"a": "X"}', '{"a": "x"}', True),
    ],
)
def test_json_is_equal_in_canonical_form(given: str, expected: str, wrong: bool) -> None:
    assert judge(OutputKind.JSON, REQUEST, given, expected).wrong is wrong


def test_a_wrong_answer_names_what_was_expected() -> None:
    assert judge(OutputKind.LABEL, REQUEST, "a", "b").reasons == ("expected label b, got label a",)


def test_tool_calls_are_equal_whatever_their_ids_and_key_order() -> None:
    one = canonical_tool_calls([_call("find", '{"city": "Oslo", "n": 2}')])
    other = canonical_tool_calls([_call("find", '{"n": 2, "city": "Oslo"}', "b")])
    assert one == other
    assert canonical_tool_calls([_call("find", '{"city": "Rome", "n": 2}')]) != one
    assert canonical_tool_calls([_call("seek", '{"city": "Oslo", "n": 2}')]) != one


def test_a_text_where_a_function_should_be_called_is_wrong() -> None:
    verdict = judge(OutputKind.LABEL, REQUEST, "WAIT", "", expected_tool_calls=[_call("find", "{}")])
    assert verdict.wrong
    assert verdict.reasons == ("a function should be called",)


def test_a_call_where_a_text_is_expected_is_wrong() -> None:
    assert judge(OutputKind.LABEL, REQUEST, "", "WAIT", given_tool_calls=[_call("find", "{}")]).wrong


def test_equal_calls_are_right_and_others_wrong() -> None:
    calls = [_call("find", "{}")]
    kind = OutputKind.TOOL_CALL
    assert not judge(kind, REQUEST, "", "", given_tool_calls=calls, expected_tool_calls=calls).wrong
    other = [_call("find", '{"a": 1}')]
    assert judge(kind, REQUEST, "", "", given_tool_calls=other, expected_tool_calls=calls).wrong


def test_a_text_is_wrong_where_it_does_not_carry_its_values() -> None:
    slots = _Wants("Oslo")
    assert not judge(OutputKind.TEXT, REQUEST, "Off to Oslo!", "Let us go to Oslo.", slots=slots).wrong
    verdict = judge(OutputKind.TEXT, REQUEST, "Off to Rome!", "Let us go to Oslo.", slots=slots)
    assert verdict.wrong
    assert verdict.reasons == ("missing: Oslo",)


def test_without_slot_rules_no_loss_is_defined_for_texts() -> None:
    verdict = judge(OutputKind.TEXT, REQUEST, "a", "b")
    assert not verdict.defined
    assert verdict.reasons == ("no loss defined",)


def test_text_that_is_no_json_has_no_canonical_json() -> None:
    assert canonical_json("not json") is None
    assert canonical_json("[" * 100_000) is None


def test_canonical_forms_of_kinds_never_meet() -> None:
    assert canonical(OutputKind.JSON, '{"a":1}') != canonical(OutputKind.LABEL, '{"a":1}')
    assert canonical(OutputKind.LABEL, "x", [_call("f", "{}")]).startswith("call ")


def test_a_fence_is_taken_off_only_where_it_is_all() -> None:
    assert unfenced("```\nx\n```") == "x"
    assert unfenced("see ```x```") == "see ```x```"
