"""The owner's corrections: pure functions over tasks."""

from __future__ import annotations

from dataclasses import replace

import pytest

from shoal.agents.registry.records import OutputKind, Task, TaskId
from shoal.agents.tasks import corrections
from shoal.errors import Conflict, NotFound, UsageError

A = Task(
    id=TaskId("t1"),
    name="sort",
    output_kind=OutputKind.LABEL,
    calls=30,
    match={"v": 1, "fingerprints": ["f1", "f2"], "asks": {"tools": False}},
)
B = Task(id=TaskId("t2"), name="write", output_kind=OutputKind.TEXT, calls=12, match={"v": 1})


def test_a_rename_changes_the_name_alone() -> None:
    assert corrections.rename([A, B], "sort", "complaints") == [replace(A, name="complaints")]
    assert corrections.rename([A, B], "t1", "sort") == [A]


@pytest.mark.parametrize("name", ["Sort it", "", "-x", "x" * 41, "ümlaut"])
def test_a_name_must_be_a_slug(name: str) -> None:
    with pytest.raises(UsageError, match="at most 40"):
        corrections.rename([A, B], "sort", name)


def test_a_taken_name_is_refused() -> None:
    with pytest.raises(Conflict, match="write is taken"):
        corrections.rename([A, B], "sort", "write")


def test_an_unknown_task_is_named() -> None:
    with pytest.raises(NotFound, match="no task 'nobody'"):
        corrections.exclude([A, B], "nobody")


def test_a_merge_moves_the_calls_and_keeps_the_record() -> None:
    into, merged = corrections.merge([A, B], "sort", ["write"])
    assert into == replace(A, calls=42)
    assert (merged.calls, merged.match["merged_into"]) == (0, "t1")
    assert corrections.is_hidden(merged)


def test_a_task_is_not_merged_into_itself_nor_alone() -> None:
    with pytest.raises(UsageError, match="itself"):
        corrections.merge([A, B], "sort", ["t1"])
    with pytest.raises(UsageError, match="two tasks"):
        corrections.merge([A, B], "sort", [])
    hidden = corrections.merge([A, B], "sort", ["write"])[1]
    with pytest.raises(Conflict, match="itself merged"):
        corrections.merge([A, hidden], "write", ["sort"])


def test_a_split_is_a_new_task_with_a_rule() -> None:
    (child,) = corrections.split(
        [A, B], "sort", name="lamps", contains=["lamp"], fingerprints=["f2"], now=3.0
    )
    assert child.match["split"] == {"of": "t1", "fingerprints": ["f2"], "contains": ["lamp"]}
    assert (child.name, child.output_kind, child.created_at) == ("lamps", OutputKind.LABEL, 3.0)
    with pytest.raises(Conflict, match="taken"):
        corrections.split([A, B, child], "sort", name="lamps", contains=["lamp"], now=3.0)


def test_a_split_without_a_rule_or_with_a_strange_prompt_is_refused() -> None:
    with pytest.raises(UsageError, match="needs a rule"):
        corrections.split([A, B], "sort", name="lamps", contains=[" "], now=0.0)
    with pytest.raises(NotFound, match="no prompt 'f9'"):
        corrections.split([A, B], "sort", name="lamps", fingerprints=["f9"], now=0.0)


def test_an_exclusion_can_be_undone() -> None:
    (out,) = corrections.exclude([A, B], "sort")
    assert out.excluded
    assert corrections.exclude([out, B], "sort", excluded=False) == [A]
