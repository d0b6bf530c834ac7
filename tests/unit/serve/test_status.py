from __future__ import annotations

import pickle

import grpc
import pytest

from shoal.errors import (
    GeneralistRefused,
    InvalidRequest,
    NotFound,
    RateLimited,
    ShoalError,
    SiteError,
    Unauthenticated,
)
from shoal.serve import status

TREE = [kind for kind in status.classes() if kind.__module__ == "shoal.errors"]


@pytest.mark.parametrize("kind", TREE, ids=lambda kind: kind.__name__)
def test_every_error_of_the_tree_has_a_row_of_its_own(kind: type[ShoalError]) -> None:
    row = status.TABLE[kind]
    assert 400 <= row.http <= 599
    assert grpc.StatusCode[row.grpc] is not grpc.StatusCode.OK


@pytest.mark.parametrize("kind", TREE, ids=lambda kind: kind.__name__)
def test_every_error_comes_back_as_what_it_was(kind: type[ShoalError]) -> None:
    error = kind("`x` must be 1, got 2.", remedy="Write 1.", param="x")
    body = {"error": status.error_object(error)}
    for back in (
        status.rebuild(body, code=error.code, http=status.status_of(error).http),
        status.rebuild(body, code=error.code, grpc=status.status_of(error).grpc),
    ):
        assert type(back) is kind
        assert (str(back), back.param) == (str(error), "x")


@pytest.mark.parametrize("kind", TREE, ids=lambda kind: kind.__name__)
def test_every_error_survives_pickling(kind: type[ShoalError]) -> None:
    error = kind("`x` must be 1.", remedy="Write 1.", param="x")
    back = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert (type(back), str(back), back.param) == (kind, str(error), "x")


def test_codes_are_unique() -> None:
    assert len({kind.code for kind in TREE}) == len(TREE)


def test_what_an_error_carries_beside_its_message_survives_pickling() -> None:
    refused, limited = GeneralistRefused("No."), RateLimited("Too many.")
    refused.status, refused.upstream_code, limited.retry_after_s = 422, "too_long", 7.5
    back = pickle.loads(pickle.dumps(refused))  # noqa: S301
    assert (back.status, back.upstream_code) == (422, "too_long")
    assert pickle.loads(pickle.dumps(limited)).retry_after_s == 7.5  # noqa: S301


def test_a_class_that_the_table_does_not_know_has_its_bases_row() -> None:
    class Odd(NotFound):
        code = "odd"

    assert status.status_of(Odd("x")) == status.TABLE[NotFound]


@pytest.mark.parametrize(
    ("http", "grpc_name", "kind"),
    [
        (400, "INVALID_ARGUMENT", "invalid_request_error"),
        (404, "NOT_FOUND", "not_found_error"),
        (422, "INVALID_ARGUMENT", "invalid_request_error"),
        (429, "RESOURCE_EXHAUSTED", "rate_limit_error"),
    ],
)
def test_a_refusal_of_the_generalists_keeps_its_status(http: int, grpc_name: str, kind: str) -> None:
    error = GeneralistRefused("No.")
    error.status = http
    assert status.status_of(error) == status.Status(http, grpc_name, kind)


@pytest.mark.parametrize(
    ("http", "kind"),
    [
        (401, Unauthenticated),
        (404, NotFound),
        (418, InvalidRequest),
        (429, RateLimited),
        (502, SiteError),
    ],
)
def test_an_answer_of_something_between_is_read_by_its_status(http: int, kind: type[ShoalError]) -> None:
    error = status.rebuild("<html>Bad gateway</html>", code=None, http=http)
    assert type(error) is kind
    assert "Bad gateway" in str(error)
