"""The one door for bytes from outside."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from uuid import UUID

import orjson
import pytest
from email_validator import EmailNotValidError, validate_email
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from models.addresses import _ORDINARY, masked, normal_email, normal_phone
from models.errors import Refused
from models.requests import Contract, NotificationRequest, Options, parse

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


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=12)
VALUE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63) + 1, 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda below: st.lists(below, max_size=3) | st.dictionaries(TEXT, below, max_size=3),
    max_leaves=8,
)
DEVICE = st.fixed_dictionaries({"platform": st.just("fcm"), "token": st.just("t")}, optional={"kind": st.just("fid")})
EMAIL_OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "from": TEXT,
        "cc": st.lists(st.just("Ada@Example.com"), max_size=2),
        "headers": st.dictionaries(TEXT, TEXT, max_size=2),
        "attachments": st.just([{"filename": "a.pdf", "attachment_id": str(UUID(int=3))}]),
    },
)
PUSH_OPTIONS = st.fixed_dictionaries(
    {}, optional={"ttl_seconds": st.integers(0, 9), "data": st.dictionaries(TEXT, TEXT, max_size=2)}
)
REQUESTS = st.fixed_dictionaries(
    {"user_id": st.just("u")},
    optional={
        "id": st.just(str(UUID(int=7))),
        "idempotency_key": st.just("k"),
        "priority": st.sampled_from(["high", "low"]),
        "channels": st.sampled_from([["email"], ["sms", "push"]]),
        "strategy": st.just("all"),
        "data": st.dictionaries(TEXT, VALUE, max_size=3),
        "category": st.just("general"),
        "recipient": st.fixed_dictionaries(
            {}, optional={"email": st.just("Ada@Example.com"), "device_tokens": st.lists(DEVICE, max_size=2)}
        ),
        "options": st.fixed_dictionaries(
            {},
            optional={
                "email": EMAIL_OPTIONS,
                "push": PUSH_OPTIONS,
                "sms": st.just({}),
                "provider": st.dictionaries(TEXT, VALUE, max_size=2),
            },
        ),
        "send_at": st.just("2026-11-23T13:00:00.25+01:00"),
        "metadata": st.dictionaries(TEXT, TEXT, max_size=2),
    },
)
CONTENT = st.sampled_from([{"template_id": "t"}, {"content": {"text": "T"}}, {"content": {"html": "H", "subject": ""}}])


@given(REQUESTS, CONTENT)
def test_a_fingerprint_is_that_of_the_dumped_request(fields: dict[str, object], content: dict[str, object]) -> None:
    """It is stored: a cheaper way to it must never lead elsewhere."""
    request = parse(NotificationRequest, orjson.dumps({**fields, **content}))
    asked = request.model_dump(exclude={"id", "idempotency_key", "priority"}, exclude_unset=True, by_alias=True)
    assert request.fingerprint() == hashlib.sha256(orjson.dumps(asked, option=orjson.OPT_SORT_KEYS)).digest()


def test_a_fingerprint_knows_all_names_that_differ_from_the_sent_ones() -> None:
    parts = [model for model in Contract.__subclasses__() if model.__module__ == Contract.__module__]
    renamed = [(name, field.alias) for model in parts for name, field in model.model_fields.items() if field.alias]
    assert renamed == [("from_", "from")]


@pytest.mark.parametrize("content", [{"text": None}, {"unknown": "x"}])
def test_content_without_a_part_is_refused(content: dict[str, object]) -> None:
    with pytest.raises(Refused, match="content"):
        parse(NotificationRequest, raw(content=content))


def nested(levels: int) -> bytes:
    """Data whose innermost value lies so many levels deep; data itself is the first."""
    return raw(data={}).replace(b'"data":{}', b'"data":' + b'{"a":[' * (levels // 2) + b"]}" * (levels // 2))


def test_data_may_be_as_deep_as_is_said() -> None:
    assert parse(NotificationRequest, nested(32)).data
    for too_deep in (nested(34), nested(32).replace(b"[]", b"[1]")):
        with pytest.raises(Refused, match="nest deeper than 32 levels"):
            parse(NotificationRequest, too_deep)


@pytest.mark.parametrize("data", [{"a": ["b", {"c": ["\x00"]}]}, {"a": [{"b\x00": 1}]}])
def test_nul_is_found_however_deep(data: dict[str, object]) -> None:
    with pytest.raises(Refused, match="data: must not contain NUL"):
        parse(NotificationRequest, raw(data=data))


@pytest.mark.parametrize("text", ["\ud800", "ä\udfff", "\udc00 x"])
def test_lone_surrogates_are_refused_wherever_they_come_from(text: str) -> None:
    with pytest.raises(ValidationError, match="lone surrogates"):
        Options(provider={"a": [text]})


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
