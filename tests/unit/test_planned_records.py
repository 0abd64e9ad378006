"""The record of a delivery: what is written is what the model says, and is read back equal."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime

import orjson
from hypothesis import given
from hypothesis import strategies as st

from models.deliveries import _GRANTED, Delivery
from models.enums import Channel
from models.requests import (
    Attachment,
    Device,
    EmailOptions,
    NotificationRequest,
    Options,
    PushOptions,
    SmsOptions,
    parse,
)

TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=8)
COUNTS = st.integers(0, 3)
TIMES = st.datetimes(datetime(1970, 1, 2), datetime(9998, 1, 1), timezones=st.just(UTC))
DICTS = st.dictionaries(TEXTS, TEXTS, max_size=3)
DEVICES = st.builds(Device, platform=st.sampled_from(["fcm", "apns"]), token=st.just("t"))
NAMED_DEVICES = st.builds(Device, platform=st.just("fcm"), token=st.just("t"), kind=st.just("fid"))
FILES = st.builds(Attachment, filename=st.just("a.pdf"), attachment_id=st.uuids())
EMAIL = st.one_of(
    st.just(EmailOptions()),
    st.builds(lambda sender: EmailOptions.model_validate({"from": sender}), TEXTS),
    st.builds(EmailOptions, headers=DICTS, tags=st.tuples(TEXTS), attachments=st.tuples(FILES)),
)
PUSH = st.one_of(st.builds(PushOptions), st.builds(PushOptions, badge=COUNTS, data=DICTS))
FREE = st.dictionaries(TEXTS, st.recursive(TEXTS | COUNTS | st.none() | st.floats(-1, 1), st.lists, max_leaves=3))
OPTIONS = st.one_of(
    st.just(Options()),
    st.builds(Options, email=EMAIL, push=PUSH),
    st.builds(Options, sms=st.builds(SmsOptions, sender=st.just("Acme")), provider=FREE),
)
DELIVERIES = st.builds(
    Delivery,
    delivery_id=st.uuids(),
    notification_id=st.uuids(),
    generation=COUNTS,
    attempt=st.integers(1, 3),
    tries=COUNTS,
    ambiguous=COUNTS,
    user_id=TEXTS,
    channel=st.sampled_from(Channel),
    category=TEXTS,
    to=st.none() | TEXTS,
    devices=st.lists(DEVICES | NAMED_DEVICES, max_size=2).map(tuple),
    reached=COUNTS,
    content=DICTS,
    options=OPTIONS,
    metadata=DICTS,
    locale=st.none() | TEXTS,
    unsubscribe_url=st.none() | TEXTS,
    created_at=TIMES,
    expires_at=st.none() | TIMES,
)


def test_options_of_a_request_that_has_none_are_known_without_a_look() -> None:
    request = parse(NotificationRequest, b'{"user_id": "u", "channel": "sms", "content": {"text": "t"}}')
    assert request.options is Delivery.model_fields["options"].default is _GRANTED["options"]


@given(DELIVERIES)
def test_what_is_written_is_read_back_and_holds_no_more_than_it_must(delivery: Delivery) -> None:
    said = delivery.model_dump(mode="python", exclude_defaults=True, by_alias=True)
    assert delivery.record_value() == orjson.dumps(said)
    assert parse(Delivery, delivery.record_value()) == delivery


def test_what_a_reader_takes_for_granted_is_left_out() -> None:
    plain = Delivery(
        delivery_id=uuid.UUID(int=1),
        notification_id=uuid.UUID(int=2),
        user_id="",
        channel=Channel.IN_APP,
        category="",
        content={},
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
    )
    assert orjson.loads(plain.record_value()) == {
        "delivery_id": "00000000-0000-0000-0000-000000000001",
        "notification_id": "00000000-0000-0000-0000-000000000002",
        "user_id": "",
        "channel": "in_app",
        "category": "",
        "content": {},
        "created_at": "2026-01-01T00:00:00+00:00",
    }
    assert b"attempt" in plain.next_attempt(tries=0, ambiguous=0).record_value()
