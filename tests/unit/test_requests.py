"""The one door for bytes from outside."""

from __future__ import annotations

import base64
from pathlib import Path
from uuid import UUID

import orjson
import pytest
from email_validator import EmailNotValidError, validate_email
from hypothesis import given
from hypothesis import strategies as st

from models.addresses import _ORDINARY, masked, normal_email, normal_phone
from models.errors import Refused
from models.requests import NotificationRequest, parse

CASES = orjson.loads((Path(__file__).parents[1] / "payloads" / "kafka_poison.json").read_bytes())
GOOD = {"user_id": "u", "channel": "email", "content": {"subject": "S", "text": "T"}}


def raw(**fields: object) -> bytes:
    return orjson.dumps({**GOOD, **fields})


@pytest.mark.parametrize("case", CASES["cases"], ids=lambda case: case["id"])
def test_poison_is_refused_and_the_rest_is_read(case: dict[str, str]) -> None:
    value = base64.b64decode(case["value_b64"]).replace(b"@@ID@@", str(UUID(int=7)).encode())
    try:
        request = parse(NotificationRequest, value)
    except Refused as refused:
        assert case["expect"] not in ("process", "one-effect", "bounded")
        assert refused.reason
    else:
        assert case["expect"] not in ("dead-letter", "dead-letter-or-permanent-failure")
        assert parse(NotificationRequest, request.record_value(UUID(int=7))).fingerprint() == request.fingerprint()


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"user_id": ""}, "user_id"),
        ({"user_id": "a\x00b"}, "user_id"),
        ({"channels": ["email"]}, "channels"),
        ({"channel": None}, "channel"),
        ({"content": None}, "content"),
        ({"content": {}}, "content"),
        ({"template_id": "t"}, "content"),
        ({"recipient": {"email": "a@b@c.example"}}, "recipient.email"),
        ({"recipient": {"phone": "0049151234567"}}, "recipient.phone"),
        ({"send_at": "2026-02-30T00:00:00Z"}, "send_at"),
        ({"send_at": "2026-02-20T00:00:00"}, "send_at"),
        ({"send_at": 5}, "send_at"),
        ({"send_at": "1735689600"}, "send_at"),
        ({"expires_at": "2016-12-31T23:59:60Z"}, "expires_at"),
        ({"data": {"a": 10**30}}, "body"),
        ({"data": [1]}, "data"),
        ({"metadata": {"a": 1}}, "metadata.a"),
        ({"strategy": "fallback"}, "strategy"),
        ({"priority": "urgent"}, "priority"),
        ({"options": {"email": {"cc": "x@example.com"}}}, "options.email.cc"),
    ],
)
def test_the_refusal_names_the_field_and_not_the_value(fields: dict[str, object], field: str) -> None:
    body = (
        raw(**fields)
        if fields != {"data": {"a": 10**30}}
        else raw(data={"a": 0}).replace(b'"a":0', b'"a":1' + b"0" * 30)
    )
    with pytest.raises(Refused) as refused:
        parse(NotificationRequest, body)
    assert refused.value.field == (field if field != "body" else "data")


def test_deep_data_is_refused() -> None:
    deep = b'{"a":' * 40 + b"1" + b"}" * 40
    with pytest.raises(Refused, match="nest"):
        parse(NotificationRequest, raw(data={}).replace(b'"data":{}', b'"data":' + deep))


def test_ids_keys_and_priority_do_not_count_as_content() -> None:
    one = parse(NotificationRequest, raw(id=str(UUID(int=1)), priority="high", idempotency_key="k"))
    assert one.fingerprint() == parse(NotificationRequest, raw()).fingerprint()
    assert one.fingerprint() != parse(NotificationRequest, raw(data={"a": 1})).fingerprint()


@given(st.from_regex(_ORDINARY, fullmatch=True))
def test_ordinary_addresses_need_no_library(address: str) -> None:
    try:
        expected = validate_email(
            address, check_deliverability=False, allow_smtputf8=False, globally_deliverable=False
        ).ascii_email
    except EmailNotValidError:
        expected = None
    if expected is None:
        return  # too long somewhere: both paths end at the library's word or at a harmless yes
    assert normal_email(address) == expected


def test_addresses_are_masked() -> None:
    assert masked("ada@example.com") == "a***@example.com"
    assert masked(normal_phone("+49 151 1234567")) == "+49*****567"
