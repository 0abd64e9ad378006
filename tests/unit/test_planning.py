"""What becomes of a request, channel by channel."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest

from models.audience import Category, Person, Template
from models.deliveries import Delivery
from models.enums import Channel, Status, SuppressionReason
from models.ids import delivery_id
from models.requests import Device, NotificationRequest, parse
from streams.domain.planning import (
    MAX_DELIVERY_BYTES,
    NO_ADDRESS,
    NO_PARTS,
    NO_TEMPLATE,
    OPTED_OUT,
    TOO_LARGE,
    Planned,
    Surroundings,
    addresses,
    pick_template,
    plan,
)
from streams.domain.templates import Renderer

EMAIL, SMS, PUSH, IN_APP = Channel.EMAIL, Channel.SMS, Channel.PUSH, Channel.IN_APP
ID = uuid.UUID(int=7)
NOW = datetime(2026, 11, 23, tzinfo=UTC)
INLINE = {"subject": "Hi {{ name }}", "text": "Hello {{ name }}", "title": "T", "body": "B {{ name }}"}


class Huge:
    """Renders more than a record can hold."""

    def render(
        self, channel: str, parts: Mapping[str, str], data: Mapping[str, object], **_locales: str | None
    ) -> dict[str, str]:
        return {"text": "x" * (MAX_DELIVERY_BYTES + 1)}


def request(**fields: Any) -> NotificationRequest:
    body = {"user_id": "u-1", "channel": "email", "content": INLINE, "data": {"name": "Ada"}, **fields}
    return parse(NotificationRequest, orjson.dumps({name: value for name, value in body.items() if value is not None}))


def around(**fields: Any) -> Surroundings:
    known = {"email": "stored@example.com", "phone": "+4915112345678", "devices": (Device(platform="fcm", token="t"),)}
    person = Person(user_id="u-1", **{**known, **fields.pop("person", {})})
    given = {
        "person": person,
        "category": Category(key="general"),
        "unsubscribed": {},
        "templates": (),
        "default_locale": "en",
        "renderer": Renderer(),
    }
    return Surroundings(**{**given, **fields})


def planned(asked: NotificationRequest, surroundings: Surroundings | None = None) -> list[Planned]:
    return plan(asked, ID, surroundings or around(), generation=0, created_at=NOW)


def one(asked: NotificationRequest, surroundings: Surroundings | None = None) -> Planned:
    [found] = planned(asked, surroundings)
    return found


def test_a_plain_request_is_rendered_and_addressed() -> None:
    found = one(request(metadata={"order": "1"}, expires_at="2027-01-01T00:00:00Z"))
    assert (found.status, found.reason) == (Status.QUEUED, None)
    assert found.value is not None
    delivery = parse(Delivery, found.value)
    assert delivery.delivery_id == delivery_id(ID, EMAIL)
    assert (delivery.to, delivery.content) == ("stored@example.com", {"subject": "Hi Ada", "text": "Hello Ada"})
    assert (delivery.attempt, delivery.generation, delivery.metadata) == (1, 0, {"order": "1"})
    assert delivery.expires_at == datetime(2027, 1, 1, tzinfo=UTC)


def test_the_recipient_goes_before_the_stored_contact() -> None:
    asked = request(
        channel=None,
        channels=["email", "sms", "push"],
        recipient={
            "email": "a@example.com",
            "phone": "+4915199999999",
            "device_tokens": [{"platform": "apns", "token": "x"}],
        },
    )
    email, sms, push = planned(asked)
    assert (email.delivery.to, sms.delivery.to) == ("a@example.com", "+4915199999999")
    assert push.delivery.devices == (Device(platform="apns", token="x"),)
    email, sms, push = planned(request(channel=None, channels=["email", "sms", "push"]))
    assert (email.delivery.to, sms.delivery.to) == ("stored@example.com", "+4915112345678")
    assert push.delivery.devices == (Device(platform="fcm", token="t"),)


def test_channels_come_from_the_request_else_from_the_category() -> None:
    defaults = around(category=Category(key="general", default_channels=(IN_APP, EMAIL)))
    assert [each.delivery.channel for each in planned(request(channel=None), defaults)] == [IN_APP, EMAIL]
    assert [each.delivery.channel for each in planned(request(channel="sms"), defaults)] == [SMS]
    assert planned(request(channel=None)) == []


@pytest.mark.parametrize("channel", ["email", "sms", "push"])
def test_without_an_address_it_fails_but_in_app_needs_none(channel: str) -> None:
    nobody = around(person={"email": None, "phone": None, "devices": ()})
    found = one(request(channel=channel), nobody)
    assert (found.status, found.reason, found.value) == (Status.FAILED, NO_ADDRESS, None)
    assert one(request(channel="in_app"), nobody).status is Status.QUEUED


def test_one_channel_that_fails_does_not_touch_another() -> None:
    asked = request(channel=None, channels=["sms", "in_app"])
    sms, in_app = planned(asked, around(person={"phone": None}))
    assert (sms.status, in_app.status) == (Status.FAILED, Status.QUEUED)


@pytest.mark.parametrize(
    ("channels", "categories", "wanted"),
    [
        ({}, {}, True),
        ({"email": False}, {}, False),
        ({"email": True}, {}, True),
        ({"sms": False}, {}, True),
        ({"email": False}, {"general": {"email": True}}, True),
        ({"email": True}, {"general": {"email": False}}, False),
        ({}, {"general": {"email": False}}, False),
        ({}, {"other": {"email": False}}, True),
        ({"email": False}, {"general": {"sms": True}}, False),
    ],
)
def test_an_opt_out(channels: dict[str, bool], categories: dict[str, dict[str, bool]], wanted: bool) -> None:
    choices = {"channels": channels, "categories": categories}
    found = one(request(), around(person=choices))
    assert found.status is (Status.QUEUED if wanted else Status.SUPPRESSED)
    assert found.reason == (None if wanted else OPTED_OUT)
    assert (found.value is None) is not wanted
    exempt = around(person=choices, category=Category(key="general", transactional=True))
    assert one(request(), exempt).status is Status.QUEUED


@pytest.mark.parametrize(
    ("entry", "wanted"),
    [
        (("email", "stored@example.com", ""), False),
        (("email", "stored@example.com", "general"), False),
        (("email", "stored@example.com", "news"), True),
        (("sms", "stored@example.com", ""), True),
        (("email", "other@example.com", ""), True),
    ],
)
def test_an_unsubscribe(entry: tuple[str, str, str], wanted: bool) -> None:
    listed = {entry: {SuppressionReason.UNSUBSCRIBED}}
    found = one(request(), around(unsubscribed=listed))
    assert found.reason == (None if wanted else "unsubscribed")
    exempt = around(unsubscribed=listed, category=Category(key="general", transactional=True))
    assert one(request(), exempt).status is Status.QUEUED


@pytest.mark.parametrize("reason", sorted(set(SuppressionReason) - {SuppressionReason.UNSUBSCRIBED}))
def test_a_dead_address_gets_no_receipt_either(reason: SuppressionReason) -> None:
    listed = {("email", "stored@example.com", ""): {reason, SuppressionReason.UNSUBSCRIBED}}
    for transactional in (False, True):
        category = Category(key="general", transactional=transactional)
        found = one(request(), around(unsubscribed=listed, category=category))
        assert (found.status, found.reason, found.value) == (Status.SUPPRESSED, reason, None)


def test_lists_know_no_case() -> None:
    listed = {("email", "ada@example.com", ""): {SuppressionReason.UNSUBSCRIBED}}
    asked = request(recipient={"email": "Ada@Example.com"})
    assert one(asked, around(unsubscribed=listed)).status is Status.SUPPRESSED
    assert "ada@example.com" in addresses([(asked, Person(user_id="u-1"))])


def test_who_does_not_want_it_is_not_a_failure_of_the_template() -> None:
    found = one(request(data={}), around(person={"channels": {"email": False}}))
    assert (found.status, found.reason) == (Status.SUPPRESSED, OPTED_OUT)


def test_a_missing_variable_is_named_and_no_value_told() -> None:
    found = one(request(data={"other": "secret"}))
    assert (found.status, found.reason) == (Status.FAILED, "variable_missing: name")
    refused = one(request(content={"subject": "S", "text": "{{ name.__class__ }}"}))
    assert refused.reason is not None
    assert refused.reason.startswith("template_refused: text: ")


def test_options_that_no_mail_can_have_fail() -> None:
    found = one(request(options={"email": {"headers": {"Bcc": "secret@example.com"}}}))
    assert found.status is Status.FAILED
    assert found.reason is not None
    assert found.reason.startswith("invalid options.email.headers")
    assert "secret" not in found.reason
    assert one(request(channel="in_app", options={"email": {"headers": {"Bcc": "x"}}})).status is Status.QUEUED


@pytest.mark.parametrize(("text", "count"), [("a" * 160, 1), ("ж" * 71, 2), ("a" * 153 * 10, 10)])
def test_the_segments_of_an_sms_are_counted(text: str, count: int) -> None:
    found = one(request(channel="sms", content={"text": text}))
    assert (found.status, found.segments) == (Status.QUEUED, count)


def test_an_sms_of_too_many_segments_fails() -> None:
    found = one(request(channel="sms", content={"text": "ж" * 671}))
    assert (found.status, found.reason, found.segments, found.value) == (Status.FAILED, TOO_LARGE, 11, None)
    assert one(request(content={"subject": "S", "text": "ж" * 671})).segments is None


def test_what_is_too_large_for_a_record_fails() -> None:
    found = one(request(), around(renderer=Huge()))
    assert (found.status, found.reason, found.value) == (Status.FAILED, TOO_LARGE, None)


def template(locale: str, channel: Channel = EMAIL, *, key: str = "t") -> Template:
    return Template(key=key, locale=locale, version=1, channel=channel, parts={"subject": locale, "text": "{{ name }}"})


@pytest.mark.parametrize(
    ("asked", "default", "expected"),
    [
        ("de-AT", "en", "de-AT"),
        ("de-CH", "en", "de"),
        ("de_CH", "en", "de"),
        ("fr", "en", "en"),
        ("fr", "en-GB", "en"),
        (None, "de", "de"),
        ("fr", "pt", "de"),
    ],
)
def test_the_best_locale(asked: str | None, default: str, expected: str) -> None:
    known = [template(locale) for locale in ("en", "de", "de-AT")]
    assert pick_template(known, EMAIL, asked, default).locale == expected


def test_the_requests_locale_goes_before_the_persons() -> None:
    known = (template("en"), template("de"), template("fr"))
    asked = request(content=None, template_id="t")
    found = one(asked, around(templates=known, person={"locale": "de"}))
    assert (found.delivery.content["subject"], found.delivery.locale) == ("de", "de")
    asked = request(content=None, template_id="t", recipient={"locale": "fr"})
    assert one(asked, around(templates=known, person={"locale": "de"})).delivery.content["subject"] == "fr"


def test_an_unknown_template_and_one_without_the_channel() -> None:
    asked = request(content=None, template_id="t")
    assert one(asked).reason == NO_TEMPLATE
    assert one(asked, around(templates=(template("en", SMS),))).reason == NO_PARTS


def test_a_replay_keeps_its_generation() -> None:
    [found] = plan(request(), ID, around(), generation=3, created_at=NOW)
    assert (found.delivery.generation, found.delivery.attempt) == (3, 1)


def test_all_addresses_for_the_unsubscribe_lists() -> None:
    person = around().person
    nobody = Person(user_id="u-2")
    asked = request(recipient={"email": "a@example.com"})
    assert addresses([(asked, person), (request(), nobody)]) == {"a@example.com", "+4915112345678"}
