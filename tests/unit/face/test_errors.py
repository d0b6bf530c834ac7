"""Errors keep their fields on the way from one process to another, and say what to do."""

from __future__ import annotations

import pickle
from collections.abc import Iterator

import pytest

from shoal import errors
from shoal.errors import ShoalError


def all_errors(kind: type[ShoalError] = ShoalError) -> Iterator[type[ShoalError]]:
    yield kind
    for sub in kind.__subclasses__():
        yield from all_errors(sub)


@pytest.mark.parametrize("kind", list(all_errors()))
def test_an_error_survives_the_way_to_another_process(kind: type[ShoalError]) -> None:
    error = kind("The rule is broken.", remedy="Mend it.", param="a.b")
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    assert type(copy) is kind
    assert (copy.message, copy.remedy, copy.param) == ("The rule is broken.", "Mend it.", "a.b")
    assert str(copy) == "The rule is broken. Mend it."


def test_the_docstring_draws_the_whole_tree() -> None:
    drawn = errors.__doc__ or ""
    for kind in all_errors():
        assert kind.__name__ in drawn


def test_codes_are_unique() -> None:
    codes = [kind.code for kind in all_errors()]
    assert len(codes) == len(set(codes))
