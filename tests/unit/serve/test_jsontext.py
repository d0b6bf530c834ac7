from __future__ import annotations

import json

import msgpack
import pytest

from shoal.serve.jsontext import read_json, write_json


@pytest.mark.parametrize(
    "text",
    [
        "{",
        '{"a": NaN}',
        "[Infinity]",
        '{"seed": 1000000000000000000000000000000}',
        '{"a": "\\ud800"}',
        '{"\\uDC00": 1}',
        "[" * 150 + "]" * 150,
        "[" * 100_000,
    ],
    ids=lambda text: text[:20],
)
def test_json_that_cannot_be_stored_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        read_json(text)


def test_bytes_that_are_no_utf8_are_refused() -> None:
    with pytest.raises(ValueError):
        read_json(b'"\xff"')


@pytest.mark.parametrize(
    "text",
    [
        '{"a": "\\ud83d\\ude00", "b": 18446744073709551615, "c": -9223372036854775808}',
        json.dumps([{"a": [i]} for i in range(500)]),
    ],
    ids=["pairs and large numbers", "many braces"],
)
def test_what_is_read_can_be_stored(text: str) -> None:
    value = read_json(text)
    assert msgpack.unpackb(msgpack.packb(value)) == value == json.loads(text)


def test_half_a_pair_from_elsewhere_is_written_as_a_question_mark() -> None:
    assert write_json({"a": "x\ud800"}) == b'{"a":"x?"}'
