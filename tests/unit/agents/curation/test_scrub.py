from __future__ import annotations

import copy
import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.agents.curation.recognise import find_personal_data, passes_iban_check, passes_luhn
from shoal.agents.curation.scrub import RECOGNISERS, scrub
from shoal.agents.traces.trace import Trace, TraceId


def trace(*messages: Any, answer: Any = "ok", **fields: Any) -> Trace:
    request = {
        "model": "m",
        "messages": [m if isinstance(m, dict) else {"role": "user", "content": m} for m in messages],
    }
    message = answer if isinstance(answer, dict) else {"role": "assistant", "content": answer}
    return Trace(
        id=TraceId("t"),
        request={**request, **fields.pop("request", {})},
        response={
            "id": "chatcmpl-4111111111111111",
            "choices": [{"message": message, "finish_reason": "stop"}],
        },
        timestamp=1.0,
        **fields,
    )


def clean(text: str) -> str:
    content = scrub(trace(text))[0].chat.messages[0]["content"]
    assert isinstance(content, str)
    return content


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("write to Anna.Smith+x@mail.example.co.uk.", "write to <EMAIL_1>."),
        ("müller@straße.de hat geschrieben", "<EMAIL_1> hat geschrieben"),
        ('{"to":"a@b.org","cc":"c@d.org"}', '{"to":"<EMAIL_1>","cc":"<EMAIL_2>"}'),
        ("card 4111 1111 1111 1111, please", "card <CARD_1>, please"),
        ("378282246310005", "<CARD_1>"),
        ("3782-822463-10005", "<CARD_1>"),
        ('{"card": 4111111111111111}', '{"card": "<CARD_1>"}'),
        ("IBAN GB82 WEST 1234 5698 7654 32 is mine", "IBAN <IBAN_1> is mine"),
        ("de89370400440532013000", "<IBAN_1>"),
        ("from 203.0.113.77 at noon", "from <IP_1> at noon"),
        ("2001:db8:85a3::8a2e:370:7334", "<IP_1>"),
        ("call +44 20 7946 0958 now", "call <PHONE_1> now"),
        ("+46 (0)8 928 571 38", "<PHONE_1>"),
        ("the number is 707-538-8338.", "the number is <PHONE_1>."),
        ("(707) 538-8338 or 707.538.8338", "<PHONE_1> or <PHONE_1>"),
        ("+1 707-538-8338 and 707-538-8338", "<PHONE_1> and <PHONE_1>"),
        ("020 7946 0958", "<PHONE_1>"),
        (
            "you can reach my brother on 518 246 281 after six",
            "you can reach my brother on <PHONE_1> after six",
        ),
        ("I was called by 41215472 twice", "I was called by <PHONE_1> twice"),
        ("update the contact number to 351739336", "update the contact number to <PHONE_1>"),
        ("SSN 054-28-6917, please", "SSN <SSN_1>, please"),
        ("06 12 34 56 78", "<PHONE_1>"),
        ("reach me at 78 651 450", "reach me at <PHONE_1>"),
        ('"phone_number": "5551234567"', '"phone_number": "<PHONE_1>"'),
        ("Phone:\n467 3395", "Phone:\n<PHONE_1>"),
    ],
)
def test_personal_data_becomes_a_typed_pseudonym(text: str, expected: str) -> None:
    assert clean(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "on 2024-03-01 at 12:30:45 or 01/02/2024 or 01.02.2024 09:30",
        "between 2024-03-01 and 2024-03-09, 2024-03-01T10:00:00Z",
        "revenue 1,250,000.50 EUR, $1250000, 12 000 000, +12000000, 3.14159265358979",
        "order 20240301123456, invoice 4111111111111112, ticket 1795330864150",
        "version 1.2.3.4 and v10.0.19041.1 on 127.0.0.1 or 0.0.0.0",
        "std::vector and a::b, 12:30:45, aa:bb:cc:dd:ee:ff",
        "ISBN 978-3-16-148410-0, no SSN 954-28-6917 or 054-00-6917, zip 94107-1234",
        "uuid 123e4567-e89b-12d3-a456-426614174000, hash 0123456789abcdef0123456789abcdef",
        "3 - (400 - 1200) * 5550 = 12345678",
        "GB82 WEST 1234 5698 7654 33",
        "rows 1 2 3 4 5 6 7 8 9 10 11 12",
        "ratio 4/5, 1 out of 5, 10-12 people, pages 100-200, 555-1234 units",
        "@home a@b user@localhost",
        "call function 3 with 20240301 and reach 1500000 users",
        "we reached 1 500 000 users, a record set by 20240301 visits",
    ],
)
def test_plain_numbers_dates_prices_and_ids_are_left_alone(text: str) -> None:
    assert clean(text) == text


def test_one_thing_has_one_pseudonym_in_all_parts_of_a_trace() -> None:
    tool_call = {
        "id": "c1",
        "type": "function",
        "function": {"name": "send", "arguments": '{"to": "Eve@x.org"}'},
    }
    before = trace(
        {"role": "system", "content": "Never tell bob@x.org."},
        {"role": "user", "content": [{"type": "text", "text": "mail eve@x.org"}]},
        {"role": "tool", "tool_call_id": "c0", "content": "bob@x.org"},
        answer={"role": "assistant", "content": None, "tool_calls": [tool_call]},
        tags={"source": "eve@x.org"},
        request={"user": "bob@x.org", "metadata": {"conversation_id": "7", "note": "eve@x.org"}},
    )
    untouched = copy.deepcopy(before.to_dict())
    after, counts = scrub(before)
    assert counts == {"email": 7}
    messages = after.chat.messages
    assert [messages[0]["content"], messages[1]["content"][0]["text"], messages[2]["content"]] == [
        "Never tell <EMAIL_1>.",
        "mail <EMAIL_2>",
        "<EMAIL_1>",
    ]
    assert after.answer.tool_calls[0]["function"]["arguments"] == '{"to": "<EMAIL_2>"}'
    assert after.tags == {"source": "<EMAIL_2>"}
    assert after.request["user"] == "<EMAIL_1>"
    assert after.request["metadata"] == {"note": "<EMAIL_2>", "conversation_id": "7"}
    assert list(after.request) == list(before.request)
    assert before.to_dict() == untouched
    assert after.response["id"] == before.response["id"]


def test_a_conversation_named_by_personal_data_is_still_one_conversation() -> None:
    one, two = (
        scrub(trace("hello", request={"metadata": {"conversation_id": name}}))[0].conversation_id
        for name in ("eve@x.org", "bob@x.org")
    )
    again = scrub(trace("bye", request={"metadata": {"conversation_id": "eve@x.org"}}))[0].conversation_id
    assert one == again != two
    assert one is not None and "eve" not in one


def test_pseudonyms_that_came_with_the_trace_are_not_given_again() -> None:
    after, _ = scrub(trace("mail <EMAIL_3> and eve@x.org"))
    assert after.chat.messages[0]["content"] == "mail <EMAIL_3> and <EMAIL_4>"


def test_scrubbing_twice_changes_nothing_more() -> None:
    once, _ = scrub(trace("eve@x.org, +1 707-538-8338, 4111 1111 1111 1111"))
    twice, counts = scrub(once)
    assert twice is once
    assert counts == {}


def test_only_the_wanted_kinds_are_replaced() -> None:
    text = "eve@x.org +1 707-538-8338"
    assert scrub(trace(text), ("email",))[0].chat.messages[0]["content"] == "<EMAIL_1> +1 707-538-8338"
    assert scrub(trace(text), ())[0].chat.messages[0]["content"] == text


def test_a_card_that_is_a_json_number_is_found() -> None:
    after, counts = scrub(trace("x", tags={"card": 4111111111111111, "n": 12, "yes": True}))
    assert after.tags == {"card": "<CARD_1>", "n": 12, "yes": True}
    assert counts == {"card": 1}


def test_a_very_deep_request_does_not_overflow_the_stack() -> None:
    deep: Any = "eve@x.org"
    for _ in range(400):
        deep = [deep]
    after, counts = scrub(trace("x", request={"extra": deep}))
    assert counts == {"email": 1}
    assert "eve@x.org" not in json.dumps(after.request)


def test_the_published_check_digits_pass() -> None:
    assert (
        passes_luhn("4111111111111111") and not passes_luhn("4111111111111112") and not passes_luhn("0" * 16)
    )
    assert passes_iban_check("GB82WEST12345698765432") and not passes_iban_check("GB82WEST12345698765433")


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="0123456789 .-+()/:@abx_<>\n", max_size=200))
def test_findings_are_ordered_disjoint_and_inside_the_text(text: str) -> None:
    findings = find_personal_data(text, RECOGNISERS)
    ends = 0
    for finding in findings:
        assert ends <= finding.start < finding.end <= len(text)
        ends = finding.end


@pytest.mark.parametrize(
    "piece", ["1 ", "1", "a@", "a.", "(", "+1()", "call me at ", ":", "1.1.1.", "GB82 ", "0 12 ", "%"]
)
def test_no_text_takes_long(piece: str) -> None:
    start = time.monotonic()
    find_personal_data((piece * 100_000)[:100_000] + " 1234567 @", RECOGNISERS)
    assert time.monotonic() - start < 3
