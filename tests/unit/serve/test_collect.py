from __future__ import annotations

from typing import Any

import pytest

from shoal.agents.traces.chat import Answer, Delta, Usage
from shoal.serve.collect import Collector, chunk_of_completion, text_pieces


def chunk(delta: dict[str, object], finish: str | None = None, index: int = 0) -> Delta:
    return Delta(chunk={"choices": [{"index": index, "delta": delta, "finish_reason": finish}]})


def whole(collector: Collector) -> dict[str, Any]:
    return collector.completion(completion_id="c", created=1, model="m", usage=Usage())


def test_pieces_of_text_and_of_tool_calls_are_joined() -> None:
    collected = Collector()
    for delta in (
        chunk({"role": "assistant", "content": ""}),
        chunk({"content": "He", "reasoning_content": "hm"}),
        chunk({"content": "llo"}),
        chunk({"tool_calls": [{"index": 0, "id": "a", "type": "function", "function": {"name": "f"}}]}),
        chunk({"tool_calls": [{"index": 0, "function": {"arguments": '{"x"'}}]}),
        chunk({"tool_calls": [{"index": 1, "id": "b", "function": {"name": "g", "arguments": "{}"}}]}),
        chunk({"tool_calls": [{"index": 0, "function": {"arguments": ": 1}"}}]}),
    ):
        collected.add(delta)
        assert not collected.finished
    collected.add(chunk({}, "tool_calls"))
    assert collected.finished
    answer = Answer.from_openai(whole(collected))
    assert (answer.content, answer.finish_reason) == ("Hello", "tool_calls")
    assert [call["function"] for call in answer.tool_calls] == [
        {"name": "f", "arguments": '{"x": 1}'},
        {"name": "g", "arguments": "{}"},
    ]
    assert [call["id"] for call in answer.tool_calls] == ["a", "b"]
    assert answer.original is not None
    assert answer.original["choices"][0]["message"]["reasoning_content"] == "hm"


def test_choices_are_kept_apart() -> None:
    collected = Collector()
    for delta in (chunk({"content": "a"}), chunk({"content": "b"}, index=1), chunk({}, "stop")):
        collected.add(delta)
    assert not collected.finished
    collected.add(chunk({}, "length", index=1))
    assert collected.finished
    assert [(c["message"]["content"], c["finish_reason"]) for c in whole(collected)["choices"]] == [
        ("a", "stop"),
        ("b", "length"),
    ]


def test_nothing_collected_is_still_a_completion() -> None:
    assert Answer.from_openai(whole(Collector())).content is None


def test_a_whole_completion_as_one_chunk_collects_to_itself() -> None:
    message = {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
    }
    completion = {"choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}]}
    collected = Collector()
    collected.add(Delta(chunk=chunk_of_completion(completion)))
    assert whole(collected)["choices"][0]["message"] == message


@pytest.mark.parametrize("text", ["", "a", "one two  three\n four ", "x" * 500, "ab " * 1000])
def test_pieces_of_a_text_join_to_it_and_end_between_words(text: str) -> None:
    pieces = list(text_pieces(text))
    assert "".join(pieces) == text
    assert len(pieces) <= 32
    assert all(after[0].isspace() for after in pieces[1:])
